"""Files of weights that would run code, fill the memory, lie or are damaged: all refused by name."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.pickled import Call
from helpers.torch_made import Made, Raw, code, legacy_form, made, of_every_kind, pickled, zip_form
from safetensors.numpy import save

from cconvnet.errors import CheckpointError
from cconvnet.formats.pickles import ForbiddenPickle, PickleError
from cconvnet.formats.weights import read_tensors

TYPED = (CheckpointError, PickleError)
FLAT = np.arange(24, dtype=np.float32)
WHOLE = Made("0", "FloatStorage", 24, 0, (4, 6), (6, 1))


def outcome(path: Path) -> Exception | None:
    """Read a file within bounds of memory; only errors of these types may come, each naming the file."""
    tracemalloc.start()
    try:
        read_tensors(path)
        return None
    except TYPED as error:
        assert path.name in str(error), error
        return error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 3 * path.stat().st_size + (1 << 22)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("form", [zip_form, legacy_form])
def test_nothing_in_a_file_runs(tmp_path: Path, form: Callable[..., Path], protocol: int) -> None:
    import pickle

    touched = tmp_path / "touched"
    attack = Raw(pickle.dumps(Call(os.system, f"touch {touched}"), protocol)[2 * (protocol > 0) : -1])
    places: list[Any] = [
        {"w": WHOLE, "x": attack},
        {"optimizer": attack, "state_dict": {"w": WHOLE}},
        {"w": dataclasses.replace(WHOLE, key="1"), "hooks": [attack]},
        attack,
    ]
    for content in places:
        file = form(tmp_path / "a.pth", content, {"0": FLAT})
        error = outcome(file)
        assert isinstance(error, ForbiddenPickle) and f"names {os.system.__module__}.system" in str(error)
        assert "torch.save(model.state_dict(), FILE)" in str(error)
        assert not touched.exists()


def test_names_that_files_of_weights_do_not_need(tmp_path: Path) -> None:
    for line in (
        "torch\nload",
        "torch.storage\n_load_from_bytes",
        "torch.jit\nload",
        "torch._utils\n_rebuild_wrapper_subclass",
        "torch.nn.modules.linear\nLinear",
        "torch\nQInt8Storage",
        "builtins\neval",
        "numpy\nload",
        "argparse\nNamespace",
    ):
        content = {"w": Raw(f"c{line}\n".encode() + code(("x",)) + b"R")}
        error = outcome(zip_form(tmp_path / "a.pth", content, {}))
        assert isinstance(error, ForbiddenPickle) and f"names {line.replace(chr(10), '.')}," in str(error)


def test_tensors_that_lie(tmp_path: Path) -> None:
    change = dataclasses.replace
    lies = {
        "reads element 24 of a storage of 24": [
            change(WHOLE, offset=1),
            change(WHOLE, offset=24, shape=(), strides=()),
            change(WHOLE, shape=(5, 5), strides=(6, 0)),
            change(WHOLE, shape=(2, 2), strides=(23, 1)),
        ],
        "an offset, a size or strides": [
            change(WHOLE, offset=-1),
            change(WHOLE, strides=(6, -1)),
            change(WHOLE, shape=(4, -6)),
            change(WHOLE, shape=(4, 6, 1)),
            change(WHOLE, strides=(2**62, 1)),
            change(WHOLE, shape=(1.0, 2.0)),  # type: ignore[arg-type]
        ],
        "is larger than any": [
            change(WHOLE, shape=(0, *4 * (2**20,)), strides=5 * (0,)),
            change(WHOLE, shape=(1,) * 33, strides=(0,) * 33),
            change(WHOLE, shape=(2**21, 2**21), strides=(0, 0)),
        ],
        "would be more than": [change(WHOLE, shape=(2**20, 2**18), strides=(0, 0))],
        "elements": [change(WHOLE, count=25, shape=(25,), strides=(1,)), change(WHOLE, count=2**40)],
        "a number of elements": [change(WHOLE, count=-1), change(WHOLE, count=2**60)],
        "of an unknown kind": [change(WHOLE, kind="ComplexFloatStorage")],
        "/data/1'": [change(WHOLE, key="1")],
        "/data/../../0'": [change(WHOLE, key="../../0")],
    }
    for what, tensors in lies.items():
        for number, tensor in enumerate(tensors):
            error = outcome(zip_form(tmp_path / "a.pth", {"conv.weight": tensor}, {"0": FLAT}))
            text = what.replace("of an unknown kind", "names torch.ComplexFloatStorage")
            assert text in str(error), (what, number)
            if what.startswith(("reads", "an offset", "is larger")):
                assert "tensor conv.weight" in str(error)
            assert outcome(legacy_form(tmp_path / "a.th", {"conv.weight": tensor}, {"0": FLAT}))
    other = {"a": WHOLE, "b": change(WHOLE, kind="IntStorage")}
    assert "two kinds or lengths" in str(outcome(zip_form(tmp_path / "a.pth", other, {"0": FLAT})))
    many = {str(i): change(WHOLE, shape=(1 << 16, 4), strides=(0, i % 7)) for i in range(200)}
    assert outcome(zip_form(tmp_path / "a.pth", many, {"0": FLAT}))


def test_lengths_of_the_legacy_form_that_lie(tmp_path: Path) -> None:
    for counts, what in ((1, "25 elements, not 24"), (-25, "-1 elements"), (2**62, "elements, not 24")):
        file = legacy_form(tmp_path / "a.th", {"w": WHOLE}, {"0": FLAT}, counts=counts)
        assert what in str(outcome(file))
    sound = legacy_form(tmp_path / "a.th", {"w": WHOLE}, {"0": FLAT}).read_bytes()
    (tmp_path / "a.th").write_bytes(sound + b"\0")
    assert "1 bytes follow" in str(outcome(tmp_path / "a.th"))
    assert "not those of its tensors" in str(
        outcome(legacy_form(tmp_path / "a.th", {"w": WHOLE}, {"0": FLAT, "1": FLAT}))
    )


def test_zip_bombs_and_other_archives(tmp_path: Path) -> None:
    zeros = np.zeros(1 << 24, np.float32)
    bomb = Made("0", "FloatStorage", zeros.size, 0, zeros.shape, (1,))
    file = zip_form(tmp_path / "a.pth", {"w": bomb}, {"0": zeros}, packed=True)
    assert file.stat().st_size < 100_000 and "would unpack to" in str(outcome(file))
    # A member that says that it is small is read no further than that.
    content = bytearray(file.read_bytes())
    for signature, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = content.index(signature, content.index(b"data/0" if place == 22 else b"PK\x01\x02") - 60)
        while content[at + place : at + place + 4] != zeros.nbytes.to_bytes(4, "little"):
            at = content.index(signature, at + 4)
        content[at + place : at + place + 4] = (96).to_bytes(4, "little")
    file.write_bytes(content)
    assert outcome(file)
    for names, what in (
        (["a/data.pkl", "b/data.pkl"], "without the one data.pkl"),
        (["model.onnx"], "not a file of weights that is read"),
        ([], "not a file of weights that is read"),
    ):
        with zipfile.ZipFile(file, "w") as archive:
            for name in [*names, "other"]:
                archive.writestr(name, pickled({}))
        assert what in str(outcome(file))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a/data.pkl", pickled({}))
    assert "packed in another way" in str(outcome(file))


def sound_files(folder: Path) -> Iterator[Path]:
    tensors, storages = made(of_every_kind())
    yield zip_form(folder / "stored.pth", tensors, storages)
    yield zip_form(folder / "packed.pth", {"model": tensors}, storages, packed=True)
    yield legacy_form(folder / "legacy.th", {"state_dict": tensors}, storages)
    arrays = {name: one for name, one in of_every_kind().items() if one.dtype != np.uint16}
    file = folder / "a.safetensors"
    file.write_bytes(save(arrays))
    yield file


def test_no_cut_is_taken_for_a_whole_file(tmp_path: Path) -> None:
    for file in sound_files(tmp_path):
        content = file.read_bytes()
        assert outcome(file) is None
        for length in sorted({*range(0, len(content), max(1, len(content) // 60)), len(content) - 1}):
            file.write_bytes(content[:length])
            assert outcome(file), (file.name, length)


def test_damage_has_typed_errors(tmp_path: Path) -> None:
    """Flips, copies and holes at random: values may be others, but nothing else happens."""
    draws = random.Random(0)
    refused = 0
    for file in sound_files(tmp_path):
        content = file.read_bytes()
        for _ in range(150):
            damaged = bytearray(content)
            for _ in range(draws.choice([1, 1, 2, 8])):
                at, kind = draws.randrange(len(damaged)), draws.randrange(4)
                if kind == 0:
                    damaged[at] ^= 1 << draws.randrange(8)
                elif kind == 1:
                    damaged[at : at + 4] = draws.choice(
                        [b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"]
                    )
                elif kind == 2:
                    damaged[at : at + draws.randrange(20)] = b""
                else:
                    damaged[at:at] = damaged[: draws.randrange(40)]
                if not damaged:
                    break
            file.write_bytes(damaged)
            refused += outcome(file) is not None
    assert refused >= 300


def test_safetensors_that_lie(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"

    def write(header: Any, size: int = 96) -> str:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
        return str(outcome(file))

    sound: dict[str, Any] = {"dtype": "F32", "shape": [4, 6], "data_offsets": [0, 96]}
    assert write({"w": sound}) == "None"
    for change, what in (
        ({"data_offsets": [0, 100]}, "beyond the file's end"),
        ({"data_offsets": [96, 0]}, "beyond the file's end"),
        ({"data_offsets": [-96, 0]}, "no place"),
        ({"data_offsets": [0, 92]}, "96 bytes, but has 92"),
        ({"data_offsets": [0.0, 96.0]}, "no place"),
        ({"data_offsets": None}, "no place"),
        ({"shape": [2**50, 6]}, "a shape that is none"),
        ({"shape": [4, True]}, "a shape that is none"),
        ({"shape": "4"}, "a shape that is none"),
        ({"shape": [4, 7]}, "112 bytes, but has 96"),
        ({"dtype": "F8_E4M3"}, "of the type F8_E4M3"),
        ({"dtype": 3}, "of the type 3"),
    ):
        assert what in write({"w": {**sound, **change}}) and "tensor w" in str(outcome(file))
    assert "overlaps another" in write({"a": sound, "b": sound})
    assert "no place" in write({"w": [1]})
    assert write(b"{}") == "None"
    assert "twice" in write(b'{"a": {}, "a": {}}')
    assert "not sound" in write(b'{"a": ' + b"[" * 100_000)
    assert "not sound" in write(b'{"a": \xff}')
