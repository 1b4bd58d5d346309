"""cuda-convnet's and CIFAR-10's batches for Python."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.pickled import Call, check_split, make_batches, python2

from cconvnet import data
from cconvnet.errors import DataError


def test_cuda_convnets_batches(tmp_path: Path) -> None:
    made = make_batches(
        tmp_path, {"data_batch_1": 5, "data_batch_2": 7, "data_batch_10": 6, "x": 1}, mean=True
    )
    (tmp_path / "data_batch_10").rename(tmp_path / "data_batch_3")
    source = data.open_source(tmp_path)
    assert source.classes == ["ant", "bee", "cat"] and source.image_shape == (4, 4, 3)
    assert source.notes == [
        f"{tmp_path} has no test_batch: data_batch_3, the last, is used for testing",
        f"the mean image is data_mean of {tmp_path / 'batches.meta'}",
    ]
    check_split(source.train, [made["data_batch_1"], made["data_batch_2"]])
    check_split(source.test, [made["data_batch_10"]])
    assert source.mean is not None and source.mean.dtype == np.float32
    # A plane of red, one of green, one of blue, in rows.
    assert source.mean[0, 1].tolist() == [1, 17, 33] and source.mean[1, 0].tolist() == [4, 20, 36]


@pytest.mark.parametrize("pickled", [python2, pickle.dumps, lambda value: pickle.dumps(value, 2)])
def test_cifar10s_batches_for_python(tmp_path: Path, pickled: Callable[[Any], bytes]) -> None:
    counts = {"data_batch_1": 5, "data_batch_2": 7, "test_batch": 4}
    made = make_batches(tmp_path, counts, columns=False, pickled=pickled, mean=False)
    source = data.open_source(tmp_path)
    check_split(source.train, [made["data_batch_1"], made["data_batch_2"]])
    check_split(source.test, [made["test_batch"]])
    assert source.notes == [] and source.mean is None


@pytest.mark.parametrize("columns", [True, False])
def test_as_many_images_as_values(tmp_path: Path, columns: bool) -> None:
    """A square matrix of data does not say which side is which; the mean, which only one format has, does."""
    made = make_batches(
        tmp_path,
        {"data_batch_1": 48, "data_batch_2": 48},
        columns=columns,
        mean=columns,
        pickled=pickle.dumps,
    )
    check_split(data.open_source(tmp_path).train, [made["data_batch_1"]])


def test_other_batches(tmp_path: Path) -> None:
    """Grey images, a single batch, labels as a matrix of floats, another size."""
    labels = np.array([[0, 1, 2, 0, 1, 2] * 5], np.float32)
    made = make_batches(tmp_path, {"data_batch_4": 30}, (5, 5, 1), data_batch_4={"labels": labels})
    source = data.open_source(tmp_path)
    assert source.image_shape == (5, 5, 1) and len(source.train) + len(source.test) == 30
    assert any("only one batch" in note for note in source.notes)
    test, test_labels = source.test.read([0])
    assert np.array_equal(test[0], made["data_batch_4"][0][12]) and test_labels[0] == 0
    # The mean of the files is that of images of their size.
    smaller, unchanged = (data.open_source(tmp_path, size) for size in (8, 5))
    assert smaller.image_shape == (8, 8, 1) and smaller.mean is None
    assert unchanged.mean is not None and unchanged.mean.shape == (5, 5, 1)


@pytest.mark.parametrize(
    ("changed", "where", "what"),
    [
        ({"data_batch_2": {"data": np.zeros((48, 7))}}, "data_batch_2", r"uint8, not float64\[48, 7\]"),
        (
            {"data_batch_2": {"data": np.zeros((47, 7), np.uint8)}},
            "data_batch_2",
            "47x7, but there are 7 labels",
        ),
        ({"data_batch_2": {"labels": [0, 1]}}, "data_batch_2", "48x7, but there are 2 labels"),
        ({"data_batch_2": {"labels": [0, 1, 2, 3, 0, 0, 0]}}, "data_batch_2", "image 3 has label 3"),
        ({"data_batch_2": {"labels": [0, 1, 2, 0, 0, 0, 0.5]}}, "data_batch_2", "image 6 has label 0.5"),
        ({"data_batch_2": {"labels": [[0, 1]] * 7}}, "data_batch_2", "one number for each image"),
        ({"data_batch_2": {"labels": [[0, 1], [2]]}}, "data_batch_2", "labels are not numbers"),
        ({"data_batch_2": {"labels": "abc"}}, "data_batch_2", "one number for each image"),
        ({"data_batch_2": {"data": ["\xff\xd8"] * 7}}, "data_batch_2", "a list, as of compressed pictures"),
        ({"data_batch_2": {"data": "abc"}}, "data_batch_2", "matrix of uint8, not str"),
        ({"meta": {"label_names": []}}, "batches.meta", "label_names"),
        ({"meta": {"label_names": [1]}}, "batches.meta", "label_names"),
        ({"meta": {"num_vis": "48"}}, "batches.meta", "num_vis"),
        ({"meta": {"data_mean": [1.0]}}, "batches.meta", "data_mean is not an array"),
        ({"meta": {"data_mean": np.zeros(47)}}, "batches.meta", "data_mean has 47 values, an image 48"),
        ({"meta": {"data_mean": np.full(48, np.nan)}}, "batches.meta", "not finite"),
        (
            {"meta": {"num_vis": None}, "data_batch_1": {"data": np.zeros((50, 5), np.uint8)}},
            "data_batch_1",
            "50",
        ),
    ],
)
def test_bad_batches_are_named(tmp_path: Path, changed: dict[str, Any], where: str, what: str) -> None:
    make_batches(tmp_path, {"data_batch_1": 5, "data_batch_2": 7, "data_batch_3": 2}, **changed)
    with pytest.raises(DataError, match=rf"{where}.*{what}"):
        data.open_source(tmp_path)


def test_bad_folders_of_batches_are_named(tmp_path: Path) -> None:
    make_batches(tmp_path, {"data_batch_1": 5, "data_batch_2": 7, "data_batch_3": 2})
    batch, meta = tmp_path / "data_batch_2", tmp_path / "batches.meta"
    content = batch.read_bytes()
    for bad, what in (
        (content[:-20], "is not a sound pickle"),
        (b"", "the file ends"),
        (python2([1]), "contains a list, not a dictionary"),
        (python2({"labels": [1]}), "has no 'data'; it has labels"),
        (pickle.dumps(Call(os.system, "false"), 2), "system"),
    ):
        batch.write_bytes(bad)
        with pytest.raises(DataError, match=f"data_batch_2.*{what}"):
            data.open_source(tmp_path)
    batch.unlink()
    with pytest.raises(DataError, match="has data_batch_3 but no data_batch_2"):
        data.open_source(tmp_path)
    batch.mkdir()
    with pytest.raises(DataError, match=r"data_batch_2 is a folder.*train/CLASS"):
        data.open_source(tmp_path)
    meta.unlink()
    with pytest.raises(DataError, match=r"lacks batches\.meta"):
        data.open_source(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "batches.meta").write_bytes(content)
    with pytest.raises(DataError, match="no data_batch_1"):
        data.open_source(other)
    smaller = {"data": np.zeros((12, 7), np.uint8)}
    make_batches(other, {"data_batch_1": 5, "data_batch_2": 7}, data_batch_2=smaller, meta={"num_vis": None})
    with pytest.raises(DataError, match=r"data_batch_2 has images of 2x2x3, .*data_batch_1 of 4x4x3"):
        data.open_source(other)
