"""Files of PyTorch: both forms, all types, views of storages, wrappers, and what is written here."""

from __future__ import annotations

import dataclasses
import importlib.util
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.torch_made import Made, Raw, code, legacy_form, made, of_every_kind, zip_form

from cconvnet import bfloat16
from cconvnet.errors import CheckpointError
from cconvnet.formats import torch_files, torch_writer
from cconvnet.formats.weights import read_tensors

Array = np.ndarray[Any, Any]


def read_here(arrays: dict[str, Array]) -> dict[str, Array]:
    """Return what is read of these arrays: floating-point numbers as float32."""
    found = {name: bfloat16.unpack(one) if one.dtype == np.uint16 else one for name, one in arrays.items()}
    return {name: one.astype(np.float32) if one.dtype.kind == "f" else one for name, one in found.items()}


def assert_same(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize("prefix", ["archive/", "", "a/deeper/folder/"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["little", "big", None])
def test_the_zip_form(tmp_path: Path, prefix: str, packed: bool, order: str | None) -> None:
    arrays = of_every_kind()
    tensors, storages = made(arrays)
    options: dict[str, Any] = {"prefix": prefix, "packed": packed, "order": order}
    file = zip_form(tmp_path / "a.pth", tensors, storages, more={"version": b"3\n"}, **options)
    assert_same(torch_files.read(file), read_here(arrays))


@pytest.mark.parametrize("little", [True, False])
def test_the_legacy_form(tmp_path: Path, little: bool) -> None:
    arrays = of_every_kind()
    tensors, storages = made(arrays)
    assert_same(
        torch_files.read(legacy_form(tmp_path / "a.th", tensors, storages, little=little)), read_here(arrays)
    )


def both(tmp_path: Path, tensors: Any, storages: dict[str, Array]) -> list[dict[str, Array]]:
    return [
        torch_files.read(form(tmp_path / name, tensors, storages))
        for name, form in (("a.pth", zip_form), ("a.th", legacy_form))
    ]


def test_views_offsets_strides_and_tied_storages(tmp_path: Path) -> None:
    flat = np.arange(24, dtype=np.float32)
    whole = Made("0", "FloatStorage", 24, 0, (4, 6), (6, 1))
    tensors = {
        "whole": whole,
        "tied": whole,
        "transposed": dataclasses.replace(whole, shape=(6, 4), strides=(1, 6)),
        "every second": dataclasses.replace(whole, offset=3, shape=(4,), strides=(2,)),
        "repeated": dataclasses.replace(whole, offset=5, shape=(3, 2), strides=(0, 1)),
        "parameter": dataclasses.replace(whole, parameter=True),
        "of old": dataclasses.replace(whole, old=True, shape=(24,), strides=(1,)),
        "last": dataclasses.replace(whole, offset=23, shape=(), strides=()),
        "none": dataclasses.replace(whole, offset=24, shape=(0, 5), strides=(5, 1)),
    }
    matrix = flat.reshape(4, 6)
    for found in both(tmp_path, tensors, {"0": flat}):
        assert found["tied"] is found["whole"]
        wanted = {
            **{"whole": matrix, "tied": matrix, "transposed": matrix.T, "every second": flat[3:11:2]},
            **{"repeated": np.tile(flat[5:7], (3, 1)), "parameter": matrix, "of old": flat},
            **{"last": flat[23].reshape(()), "none": np.zeros((0, 5), np.float32)},
        }
        assert_same(found, wanted)
        assert all(one.flags.c_contiguous for one in found.values())


def test_wrappers_prefixes_and_counters_are_left_out(tmp_path: Path) -> None:
    """Files of a training: a state_dict key around it, names of DataParallel, and what PyTorch counts."""
    arrays = {"module.conv.weight": np.ones((2, 3), np.float32), "module.bn.num_batches_tracked": np.array(7)}
    tensors, storages = made(arrays)
    size = Raw(b"ctorch\nSize\n" + code(((2, 3),)) + b"R")
    # OrderedDicts have attributes: the versions of modules.
    versions = Raw(code(tensors) + code({"_metadata": {"": {"version": 1}}}) + b"b")
    for key in ("state_dict", "model", "model_state_dict"):
        for content in (
            {key: versions, "epoch": 3, "best": 0.5, "size": size, "optimizer": {"state": [tensors]}},
            {"state_dict": {key: tensors}},
        ):
            for form in (zip_form, legacy_form):
                file = form(tmp_path / "a.pth", content, storages)
                assert list(read_tensors(file)) == ["conv.weight"]
                assert list(torch_files.read(file)) == ["conv.weight", "bn.num_batches_tracked"]
    both_names = {"module.a": tensors["module.conv.weight"], "a": tensors["module.conv.weight"]}
    with pytest.raises(CheckpointError, match="two tensors of the name a"):
        torch_files.read(zip_form(tmp_path / "b.pth", both_names, {"0": storages["0"]}))


def test_files_without_named_tensors_say_what_they_are(tmp_path: Path) -> None:
    for content, what in (
        ({"epoch": 3, "ema": {}}, "a dictionary of 'epoch', 'ema'"),
        ([1], "a list"),
        (3, "a int"),
    ):
        with pytest.raises(CheckpointError, match=rf"a\.pth has no named tensors.*: it is {what}"):
            torch_files.read(zip_form(tmp_path / "a.pth", content, {}))


def test_written_files_are_read_here_and_are_the_same_each_time(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    tensors = {
        "a.weight": draws.standard_normal((3, 4, 5, 5)).astype(np.float32),
        "a.num_batches_tracked": np.array(0),
        "b": draws.standard_normal((3, 4)).astype(np.float32).T,
        "c": np.zeros((0, 2), np.float32),
    }
    for name in ("a.pth", "b.pth"):
        torch_writer.write_tensors(tmp_path / name, tensors)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    assert_same(torch_files.read(tmp_path / "a.pth"), tensors)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_pytorch_reads_what_is_written_and_the_reverse(tmp_path: Path) -> None:
    import torch

    arrays = {name: one for name, one in of_every_kind().items() if one.dtype in (np.float32, np.int64)}
    torch_writer.write_tensors(tmp_path / "a.pth", arrays)
    for mapped in (False, True):
        found = torch.load(tmp_path / "a.pth", weights_only=True, mmap=mapped)
        assert_same({name: one.numpy() for name, one in found.items()}, arrays)
    theirs = {
        name: torch.from_numpy(one.copy()) for name, one in of_every_kind().items() if one.dtype != np.uint16
    }
    theirs["bf16"] = torch.randn(3, 4).bfloat16()
    theirs["view"] = torch.arange(10.0)[2:8].reshape(2, 3).t()
    wanted = {
        name: (one.float() if one.dtype.is_floating_point else one).numpy() for name, one in theirs.items()
    }
    for new in (False, True):
        torch.save({"state_dict": theirs}, tmp_path / "b.pth", _use_new_zipfile_serialization=new)
        assert_same(torch_files.read(tmp_path / "b.pth"), wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16])
@pytest.mark.parametrize("form", [zip_form, legacy_form])
def test_memory_is_at_most_three_times_the_file(tmp_path: Path, dtype: Any, form: Any) -> None:
    tensors, storages = made({f"t{i}": np.ones((1000, 500), dtype) for i in range(4)})
    file = form(tmp_path / "a.pth", tensors, storages)
    tracemalloc.start()
    try:
        found = torch_files.read(file)
        assert len(found) == 4 and tracemalloc.get_traced_memory()[1] <= 3.1 * file.stat().st_size
    finally:
        tracemalloc.stop()
