"""Weights of other programs by the commands: import, predict, train --weights and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import refuse, run, succeed
from helpers.torch_made import legacy_form, made, zip_form
from helpers.training import run_training
from PIL import Image

import cconvnet as cc
from cconvnet import nets, runs
from cconvnet.formats.layer_names import namings
from cconvnet.formats.layouts import parts
from cconvnet.formats.weights import read_tensors

Array = np.ndarray[Any, Any]


def tensors_of(path: Path) -> dict[str, Array]:
    tensors = runs.find_checkpoint(path)[1].tensors
    return {name: one for name, one in tensors.items() if "velocity" not in name and "data." not in name}


def random_file(
    path: Path, net: str, shape: tuple[int, int, int], classes: int, form: Any = zip_form
) -> Path:
    """Write a file of random weights for a built-in network, by torchvision's names if it has such."""
    spec, draws = nets.build(net, shape, classes), np.random.default_rng(1)
    names = namings(spec)[0].names
    arrays = {
        f"module.{names[part.layer]}.{part.of}": np.abs(draws.normal(0, 0.05, part.there)).astype(np.float32)
        for part in parts(spec)
    }
    return form(path, *made(arrays))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of LeNet on the digits."""
    path = tmp_path_factory.mktemp("trained") / "run"
    run_training(out=path, epochs=1)
    return path


def errors(path: Path, file: Path, *options: object) -> Any:
    succeed("evaluate", "--run", path, "--device", "cpu:0", "--json", file, *options)
    found = json.loads(file.read_text())
    return found["test_error_top1"], found["test_loss"]


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_is_exported_and_imported_is_the_same(trained: Path, tmp_path: Path, name: str) -> None:
    file, again = tmp_path / name, tmp_path / "again"
    said = succeed("export", "--run", trained, "--out", file)
    assert "names of layers: cconvnet's" in said and said.endswith(f"{file}\n")
    assert "already exists" in refuse("export", "--run", trained, "--out", file)
    succeed("import", file, "--net", "lenet", "--data", "digits", "--out", again)
    ours, theirs = tensors_of(trained), tensors_of(again)
    assert all(np.array_equal(theirs[tensor], value) for tensor, value in ours.items())
    assert errors(again, tmp_path / "a.json") == errors(trained, tmp_path / "b.json")
    assert read_tensors(file)["conv1.weight"].shape == (20, 1, 5, 5)
    # Without data nothing is known of the mean image, which lies in no file of weights.
    assert "--mean is needed: lenet" in refuse("import", file, "--net", "lenet", "--out", tmp_path / "none")
    assert "--net is needed" in refuse("import", file, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_runs_without_data_take_the_first_that_they_get(tmp_path: Path) -> None:
    file, path = random_file(tmp_path / "a.th", "resnet20", (8, 8, 1), 10, legacy_form), tmp_path / "run"
    spec = nets.build("resnet20", (8, 8, 1), 10)
    net = tmp_path / "net.json"
    net.write_text(json.dumps({"spec": nets.spec_to_dict(spec)}))
    said = succeed("import", file, "--net", net, "--mean", "16", "--deviation", "4", "--out", path)
    assert "pixels: minus 16, over 4" in said
    checkpoint = runs.find_checkpoint(path)[1]
    image = nets.spec_from_dict(checkpoint.spec).input
    assert (image.mean, image.deviation, image.scale) == ((16,), (4,), 1.0)
    assert checkpoint.settings["classes"] == list("0123456789") and checkpoint.settings["train_images"] == 0
    for command in (("evaluate", "--run", path), ("train", "--resume", path)):
        assert f"{path} was imported without data; --data names some" in refuse(*command)
    error, _ = errors(path, tmp_path / "a.json", "--data", "digits")
    assert 0.5 < error <= 1
    picture = tmp_path / "a.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(picture)
    assert "probability" in succeed("predict", "--run", path, picture)
    lr = ("--lr", 0.01)
    np.savez(tmp_path / "b.npz", x=np.zeros((40, 8, 8), np.uint8), y=np.arange(40) % 4)
    assert "it has 4 classes" in refuse("train", "--resume", path, "--data", tmp_path / "b.npz", *lr)
    x = np.zeros((100, 8, 8), np.uint8)
    np.savez(tmp_path / "c.npz", x=x, y=np.arange(100) % 10, classes=np.array(list("abcdefghij")))
    more = ("train", "--resume", path, "--data", tmp_path / "c.npz", "--device", "cpu:0")
    # The recipe's first rate is for random weights.
    assert (
        "for which the recipe's first rate, 0.1, is too high: give --lr, such as 0.001, and --epochs"
        in refuse(*more)
    )
    assert "--batch 81 is larger than the 80 training images" in refuse(*more, *lr, "--batch", 81)
    said = succeed(*more, *lr, "--steps", 1)
    assert "batch: 80, all training images, instead of the run's 128" in said
    assert "lr: 0.01 from here on, it was 0.1" in said
    after = runs.find_checkpoint(path)[1]
    assert after.settings["classes"] == list("abcdefghij") and after.step == 1
    assert after.settings["train_images"] == after.settings["batch"] == 80
    succeed(*more, "--steps", 2)  # at the rate that was chosen
    assert runs.find_checkpoint(path)[1].settings["lr"] == 0.01


def test_a_run_imported_without_data_takes_a_batch_with_the_first(tmp_path: Path) -> None:
    file = random_file(tmp_path / "a.pth", "resnet20", (32, 32, 3), 10)
    succeed("import", file, "--net", "resnet20", "--out", tmp_path / "run")
    np.savez(tmp_path / "a.npz", x=np.zeros((100, 32, 32, 3), np.uint8), y=np.arange(100) % 10)
    more = ("train", "--resume", tmp_path / "run", "--data", tmp_path / "a.npz", "--device", "cpu:0")
    succeed(*more, "--lr", 0.01, "--batch", 16, "--steps", 1)
    assert runs.find_checkpoint(tmp_path / "run")[1].settings["batch"] == 16
    assert "--batch 8 differs from the run's, 16" in refuse(*more, "--batch", 8)


def test_classes_are_those_of_the_file(tmp_path: Path) -> None:
    """As many as the last layer has, with the names of --classes."""
    file, names, path = tmp_path / "a.pth", tmp_path / "names.txt", tmp_path / "run"
    random_file(file, "squeezenet-1.1", (256, 256, 3), 7)
    names.write_text("\n".join("abcdefg") + "\n")
    said = succeed("import", file, "--net", "squeezenet-1.1", "--classes", names, "--out", path)
    assert "pixels: minus 123.675,116.28,103.53, over 58.395,57.12,57.375" in said
    assert runs.find_checkpoint(path)[1].settings["classes"] == list("abcdefg")
    picture = tmp_path / "a.png"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(picture)
    options = ("--weights", file, "--net", "squeezenet-1.1", "--json", "-", picture)
    done = run("predict", *options, "--classes", names)
    assert done.returncode == 0 and "weights: pixels" in done.stderr
    here = json.loads(done.stdout)
    assert {one["class"] for one in here[0]["classes"]} <= set("abcdefg")
    assert here == json.loads(succeed("predict", "--run", path, "--json", "-", picture))
    unnamed = json.loads(run("predict", *options).stdout)
    assert {one["class"] for one in unnamed[0]["classes"]} <= set("0123456")
    options = ("import", file, "--net", "squeezenet-1.1")
    names.write_text("a\na\n")
    assert "none of them twice" in refuse(*options, "--classes", names)
    names.write_text("a\nb\n")
    error = refuse(*options, "--classes", names)
    assert "classifier.1.weight, of layer conv10, is 7x512x1x1 there and 2x512x1x1 here" in error
    assert "exactly one of --run and --weights" in refuse("predict", picture)
    assert "--mean must be a number for each channel" in refuse(*options, "--mean", "x")


def test_what_is_loaded_in_python_is_a_run(tmp_path: Path) -> None:
    file = random_file(tmp_path / "a.pth", "resnet20", (32, 32, 3), 5)
    found = cc.load(file, net="resnet20", classes=list("abcde"), out=tmp_path / "run")
    assert (
        found.classes == list("abcde")
        and found.predict(np.zeros((32, 32, 3), np.uint8)).class_name in "abcde"
    )
    assert cc.load(tmp_path / "run").path == found.path
    with pytest.raises(ValueError, match="net is needed"):
        cc.load(file)
    with pytest.raises(ValueError, match=r"one of .*lenet"):
        cc.load(file, net="resnet21")
    with pytest.raises(ValueError, match=r"except: a layer|except_layers: a layer"):
        cc.load(file, net="resnet20", except_layers="fc9")
