"""Networks in files of the user's own, and all the ways to name a network."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cconvnet as cc
from cconvnet import nets
from cconvnet.formats.netfiles import chosen, resolve
from cconvnet.formats.own_nets import NetFileError
from cconvnet.nets import NetSpec, spec_to_dict

FIXED = cc.image(8, 8, 1).conv(4, 3, pad=1).relu().fc(10).softmax("fixed")
BUILD = """
import cconvnet as cc

def build(image_shape=(32, 32, 3), classes=10):
    x = cc.image(*image_shape).conv(4, 3, pad=1).relu()
    return x.mean().fc(classes).softmax("mine")
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "my_net.py") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


# ---- all the ways to name a network ----------------------------------------------------------------------


def test_a_name_is_a_built_in_network() -> None:
    net = resolve("cifar-quick")
    assert (str(net), net.stored_size) == ("cifar-quick", 32)
    assert net.build((40, 36, 1), 7)[0] == nets.build("cifar-quick", (40, 36, 1), 7)
    assert net.build_sized(16)[0] == nets.build("cifar-quick", (16, 16, 3))
    with pytest.raises(ValueError, match="did you mean 'alexnet'"):
        resolve("alexnett")
    with pytest.raises(
        ValueError,
        match=r"ends with .py, .json, .onnx or .prototxt, not 'a/b'",
    ):
        resolve("a/b")


def test_a_file_named_without_its_ending_is_pointed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_net.py").write_text("net = 1")
    (tmp_path / "lenet.py").write_text("net = 1")
    with pytest.raises(ValueError, match=r"'my_net' is not built in; .* with its ending, my_net\.py"):
        resolve("my_net")
    assert str(resolve("lenet")) == "lenet"


def test_a_spec_is_itself_and_checked_against_the_data() -> None:
    net = resolve(FIXED)
    assert (str(net), net.stored_size, resolve(net)) == ("fixed", 8, net)
    assert net.build() == net.build((8, 8, 1), 10) == (FIXED, [])
    message = "fixed is for images of 8x8x1 and 10 classes, but the data has 8x8x3 and 2"
    with pytest.raises(ValueError, match=message):
        net.build((8, 8, 3), 2)
    assert net.build_sized(16)[0].stored == (16, 16)


def test_images_that_are_not_square_keep_their_size() -> None:
    assert resolve(cc.image(6, 8).fc(2).softmax()).stored_size is None


def test_a_mean_over_the_whole_image_stays_one_at_another_size() -> None:
    net = cc.image(8, 8).conv(4, 3, pad=1).maxpool(2).mean().fc(2).softmax()
    sized, _ = resolve(net).build_sized(20)
    assert sized == cc.image(20, 20).conv(4, 3, pad=1).maxpool(2).mean().fc(2).softmax()


def test_options_choose_one_network(file: Callable[..., Path]) -> None:
    assert chosen(None, None, None, None) is None
    assert str(chosen(str(file(BUILD)), None, None, None)).endswith("my_net.py")
    with pytest.raises(ValueError, match="two networks; give one"):
        chosen("lenet", Path("a"), Path("b"), None)


# ---- JSON ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda spec: spec, lambda spec: {"spec": spec, "layers": [1], "net": "x"}])
def test_json_is_a_description_or_contains_one(wrap: Any, file: Callable[..., Path]) -> None:
    path = file(json.dumps(wrap(spec_to_dict(FIXED))), "net.json")
    assert resolve(path).build((8, 8, 1), 10)[0] == FIXED
    with pytest.raises(ValueError, match=r"net.json is for images of 8x8x1"):
        resolve(path).build((9, 9, 1), 10)


def broken(**changes: Any) -> str:
    return json.dumps({**spec_to_dict(FIXED), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "net.json: Expecting property name"),
        ("[1]", "net.json: no description of a network"),
        ('{"net": "lenet"}', "net.json: network: a key must be one of"),
        ("{}", "net.json: network: the key 'name' is missing"),
        (broken(layers=3), "net.json: no description of a network"),
        (broken(input=None), "net.json: no description of a network"),
        (broken(layers=[{"name": "a", "type": "cnv"}]), "net.json: layer a: type must be one of"),
        (broken(input={"height": 1, "width": 1, "channels": 1}, layers=[
            {"name": "c", "type": "conv", "filters": 1, "window": 5, "inputs": ["data"]}
        ]), "net.json: layer c: its window is larger than the padded image; it reads 1x1x1"),
        ("[" * 100_000, "net.json: "),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "net.json: "),
    ],
)  # fmt: skip
def test_json_that_is_no_network_is_refused(text: str, message: str, file: Callable[..., Path]) -> None:
    with pytest.raises(NetFileError, match=message):
        resolve(file(text, "net.json"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("net.json", "net.py"):
        with pytest.raises(NetFileError, match=rf"{name}: there is no such file"):
            resolve(tmp_path / name)


# ---- Python ----------------------------------------------------------------------------------------------


def test_build_makes_the_network_for_the_data(file: Callable[..., Path]) -> None:
    net = resolve(str(file(BUILD)))
    assert net.stored_size is None
    spec, _ = net.build((9, 7, 2), 3)
    assert (spec.stored_shape, spec.classes, spec.name) == ((9, 7, 2), 3, "mine")
    assert net.build()[0].stored_shape == (32, 32, 3)
    assert net.build_sized(12)[0].stored_shape == (12, 12, 3)


def test_build_without_defaults(file: Callable[..., Path]) -> None:
    net = resolve(file(BUILD.replace("=(32, 32, 3)", "").replace("=10", "")))
    assert net.build((9, 7, 2), 3)[0].classes == 3
    assert net.build_sized(12)[0].stored_shape == (12, 12, 3)
    with pytest.raises(NetFileError, match=r"my_net.py: build needs image_shape: give it a default, or use"):
        net.build_sized(None)


def test_grey_images_of_another_size_stay_grey(file: Callable[..., Path]) -> None:
    net = resolve(file(BUILD.replace("(32, 32, 3)", "(8, 8, 1)")))
    assert net.build_sized(12)[0].stored_shape == (12, 12, 1)


def test_build_that_does_not_adapt_is_refused(file: Callable[..., Path]) -> None:
    net = resolve(file(BUILD.replace("*image_shape", "32, 32, 3")))
    with pytest.raises(ValueError, match=r"my_net.py: the network of build\(\) is for images of 32x32x3 and"):
        net.build((8, 8, 1), 10)


def test_net_is_a_network_of_one_size(file: Callable[..., Path]) -> None:
    text = "import cconvnet as cc\nnet = cc.image(8, 8, 1).conv(4, 3, pad=1).relu().fc(10).softmax('fixed')\n"
    net = resolve(file(text))
    assert net.build((8, 8, 1), 10)[0] == FIXED
    assert net.stored_size == 8
    with pytest.raises(ValueError, match=r"define build\(image_shape, classes\) instead of net"):
        net.build((8, 8, 1), 2)


def test_an_error_names_the_users_line_in_the_working_folder_too(
    file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file("\nimport nothing_of_the_kind").parent)
    with pytest.raises(NetFileError, match=r"^my_net.py:2: ModuleNotFoundError: No module named"):
        resolve("my_net.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (\n", r"my_net.py:1: SyntaxError: '\(' was never closed\n    x = \("),
        ("\nx = 1 / 0\n", r"my_net.py:2: ZeroDivisionError: division by zero\n    x = 1 / 0"),
        ("import nothing_of_the_kind", "my_net.py:1: ModuleNotFoundError: No module named 'nothing_of"),
        ("import sys; sys.exit(3)", "my_net.py:1: SystemExit: 3"),
        ("x = 1", r"my_net.py: defines neither net nor build\(image_shape, classes\)"),
        ("net = 1", "my_net.py: net must be a NetSpec, not 1"),
        (
            "import cconvnet\nnet = cconvnet.image(8, 8)",
            "must be a NetSpec, not <data: 8x8x3>; .softmax.. ends",
        ),
        ("build = 3", "my_net.py: build must be a function, not 3"),
        ("def build(shape): pass", "my_net.py: build must take image_shape and classes by these names"),
        ("def build(image_shape, classes): pass", r"my_net.py: build\(\) must be a NetSpec, not None"),
        (
            BUILD.replace("4, 3, pad=1", "4, 99"),
            r"my_net.py:5: layer conv1: r is 99, larger than the padded image, 8; it reads 8x8x1\n"
            r"    x = cc.image\(\*image_shape\)",
        ),
        ("x = 1\0", "my_net.py"),
    ],
)
def test_an_error_names_the_users_line(text: str, message: str, file: Callable[..., Path]) -> None:
    with pytest.raises(NetFileError, match=message):
        resolve(file(text)).build((8, 8, 1), 10)


def test_modules_beside_the_file_are_found_and_nothing_is_written(file: Callable[..., Path]) -> None:
    file("def block(x):\n    return x.conv(4, 1)\n", "blocks.py")
    path = file(BUILD.replace("import cconvnet as cc", "import cconvnet as cc\nfrom blocks import block"))
    before, flag = list(sys.path), sys.dont_write_bytecode
    assert isinstance(resolve(path).build()[0], NetSpec)
    assert (sys.path, sys.dont_write_bytecode, "blocks" in sys.modules) == (before, flag, False)
    assert sorted(one.name for one in path.parent.iterdir()) == ["blocks.py", "my_net.py"]
    # An error in such a module names its line.
    file("def block(x):\n    return x.conv(4, 99)\n", "blocks.py")
    text = path.read_text(encoding="utf-8").replace("    return", "    block(x)\n    return")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(NetFileError, match=r"blocks.py:2: layer conv2: r is 99"):
        resolve(path).build()


def test_what_the_file_prints_is_no_output_of_the_command(
    file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    resolve(file("print('hello')\n" + BUILD)).build()
    assert capsys.readouterr() == ("", "hello\n")


# ---- crops of a size that the user chooses --------------------------------------------------------------


def test_a_crop_makes_the_network_for_smaller_images() -> None:
    spec, _ = chosen("cifar-quick", None, None, 24).build((32, 32, 3), 5)  # type: ignore[union-attr]
    small = nets.build("cifar-quick", (24, 24, 3), 5)
    assert (spec.stored, spec.input, spec.layers) == ((32, 32), small.input, small.layers)
    assert spec.recipe.crop and not small.recipe.crop
    # lenet's layers depend on the size that they read.
    spec, _ = chosen("lenet", None, None, 16).build((28, 28, 1), 10)  # type: ignore[union-attr]
    assert spec.layers == nets.build("lenet", (16, 16, 1)).layers != nets.build("lenet", (28, 28, 1)).layers
    # alexnet has a crop of its own.
    spec, _ = chosen("alexnet", None, None, 200).build_sized(256)  # type: ignore[union-attr]
    assert (spec.stored, spec.input.height, spec.input.width) == ((256, 256), 200, 200)
    whole, _ = chosen("cifar-quick", None, None, 32).build((32, 32, 3), 10)  # type: ignore[union-attr]
    assert whole == nets.build("cifar-quick")


def test_a_crop_of_a_network_of_one_size(file: Callable[..., Path]) -> None:
    x = cc.image(12, 12, 3)
    net = x.conv(4, 3).relu().fc(3).softmax(name="own", recipe=nets.TrainRecipe(batch=8, epochs=1, lr=0.01))
    spec, _ = chosen(net, None, None, 10).build((12, 12, 3), 3)  # type: ignore[union-attr]
    assert (spec.stored, spec.input.height, spec.layers) == ((12, 12), 10, net.layers)


def test_a_crop_that_cannot_be() -> None:
    net = chosen("cifar-quick", None, None, 33)
    with pytest.raises(ValueError, match="--crop 33 is larger than the images, 32x32"):
        net.build((32, 32, 3), 10)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="--crop goes with --layer-def or --net"):
        chosen(None, None, None, 24)
