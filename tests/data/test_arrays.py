"""Datasets of arrays: what is taken, what is refused with the line that converts it, splits and files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cconvnet import data
from cconvnet.data import DataError
from cconvnet.data.datasets import Arrays, digits, open_dataset
from cconvnet.data.datasets.arrays import host_array, image_array, split_positions
from cconvnet.data.fingerprint import fingerprints

X = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
Y = np.arange(20) % 4


class Foreign:
    """An array of another library, of which only DLPack is known."""

    def __init__(self, array: np.ndarray[Any, Any], device: int) -> None:
        self.array, self.device, self.copies = array, device, 0

    def __dlpack__(self, **options: Any) -> Any:
        assert self.device == 1, "memory of a GPU was read"
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def get(self) -> np.ndarray[Any, Any]:
        self.copies += 1
        return self.array


def test_arrays_of_other_libraries_come_through_dlpack() -> None:
    here = host_array(Foreign(X, 1))
    assert np.shares_memory(here, X)
    gpu = Foreign(X, 2)
    assert np.array_equal(host_array(gpu), X) and gpu.copies == 1
    assert np.array_equal(Arrays.of((Foreign(X, 2), Foreign(Y, 2)), test=0).x, X)


def test_a_tensor_of_pytorch_is_an_array() -> None:
    torch = pytest.importorskip("torch")
    arrays = Arrays.of((torch.from_numpy(X), torch.from_numpy(Y)), test=0)
    assert np.shares_memory(arrays.x, X) and np.array_equal(arrays.y, Y)


def test_images_are_taken_without_a_copy_and_grey_ones_get_a_channel() -> None:
    assert np.shares_memory(image_array(X), X)
    assert image_array(X[..., 0]).shape == (20, 6, 5, 1)
    assert image_array(X.astype(np.int64)).dtype == np.uint8
    assert image_array(X[0].tolist()[:1] * 2).shape == (2, 5, 3, 1)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (X / 255, "x is float64 with values from 0 to 1; .*: (x * 255).round().astype(np.uint8)"),
        (X.astype(np.float32), "x is float32 with values from 0 to 255; .*: x.astype(np.uint8)"),
        (X // 16 / 1.0, ": (x * (255 / 15)).round().astype(np.uint8)"),
        (X / 127.5 - 1, ": ((x - -1) * (255 / 2)).round().astype(np.uint8)"),
        (X > 99, "x is bool; images are uint8: x.astype(np.uint8) * 255"),
        (X.astype(np.int16) * 2, "x is int16 with values from 0 to 510"),
        (X.transpose(0, 3, 1, 2), "the shape (20, 3, 6, 5); .*: x.transpose(0, 2, 3, 1)"),
        (X[:, :5, :, 0].reshape(20, -1), "the shape (20, 25); .*: x.reshape(-1, 5, 5, 1)"),
        (X[:, :5].reshape(20, -1), "the shape (20, 75); .*: x.reshape(-1, 5, 5, 3)"),
        (np.zeros((3, 4, 4, 4), np.uint8), ": x[..., :3]"),
        (np.zeros((0, 4, 4), np.uint8), "x has no images: its shape is (0, 4, 4)"),
        (np.full((2, 3, 3), np.nan), "values that are not finite"),
        (["a.png", "b.png"], "x must be an array of images, not of <U5: ['a.png']"),
    ],
)
def test_other_images_are_refused_with_the_line_that_converts_them(images: Any, text: str) -> None:
    with pytest.raises(DataError, match=re.escape(text).replace(r"\.\*", ".*")):
        image_array(images)
    line = text.rpartition(": ")[2]
    if line.startswith(("x.", "(x", "((x")):
        converted = image_array(eval(line, {"np": np, "x": images}))  # noqa: S307 - this file's own lines
        assert converted.max() > 200 or "transpose" in line


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (Y[:7], "y has 7 labels for 20 images"),
        (np.eye(4)[Y], "y has the shape (20, 4); labels are [n], one for each image: y.argmax(axis=1)"),
        (Y / 1.0, "y is float64; labels are whole numbers from 0 on, or names: y.astype(int)"),
        (Y - 1, "y has the label -1"),
        ([None] * 20, "y is object"),
    ],
)
def test_other_labels_are_refused(labels: Any, text: str) -> None:
    with pytest.raises(DataError, match=re.escape(text)):
        Arrays.of((X, labels))


def test_names_of_classes() -> None:
    names = np.array(["cat", "ant", "dog", "bee"])
    arrays = Arrays.of((X, names[Y]), test=0)
    assert arrays.classes == ["ant", "bee", "cat", "dog"]
    assert [arrays.classes[label] for label in arrays.y] == names[Y].tolist()
    assert Arrays.of((X, names[Y].tolist()), test=0).classes == arrays.classes
    given = Arrays.of((X, names[Y]), classes=[*names, "eel"], test=0)
    assert given.classes == [*names, "eel"] and np.array_equal(given.y, Y)
    assert Arrays.of((X, Y[:, None]), classes=names.tolist(), test=0).classes == names.tolist()
    with pytest.raises(DataError, match="the labels of y must be one of ant, bee, cat, not 'dog'"):
        Arrays.of((X, names[Y]), classes=["ant", "bee", "cat"])
    with pytest.raises(DataError, match="y has the label 3, but there are 2 classes, a, b"):
        Arrays.of((X, Y), classes=["a", "b"])
    with pytest.raises(DataError, match=r"the labels of y_test must be one of .* did you mean 'cat'"):
        Arrays.of(((X, names[Y]), (X[:1], ["cats"])))
    with pytest.raises(DataError, match="must both be numbers or both be names"):
        Arrays.of(((X, Y), (X[:1], ["cat"])))


def test_without_test_images_every_fifth_of_a_class_is_one() -> None:
    arrays = Arrays.of((X, Y))
    assert arrays.test.tolist() == [16, 17, 18, 19]
    dataset = arrays.dataset()
    assert dataset.test is not None and list(dataset.test.names) == ["x[16]", "x[17]", "x[18]", "x[19]"]
    assert np.array_equal(dataset.train.pixels, X[:16])
    with pytest.raises(DataError, match=r"2 images are too few .* or test=0"):
        Arrays.of((X[:2], Y[:2]))


def test_a_share_of_each_class_is_chosen_by_the_seed() -> None:
    labels = np.repeat(np.arange(3), [50, 7, 2]).astype(np.int32)
    chosen = split_positions(labels, 0.1, seed=3)
    assert np.bincount(labels[chosen]).tolist() == [5, 1, 1]
    # The choice stays the same for ever: runs are resumed with it.
    assert chosen.tolist() == split_positions(labels, 0.1, seed=3).tolist() == CHOSEN
    assert chosen.tolist() != split_positions(labels, 0.1, seed=4).tolist()
    assert split_positions(labels, 0).size == 0
    assert np.bincount(labels[split_positions(labels, 0.999)]).tolist() == [49, 6, 1]


CHOSEN = [6, 13, 26, 31, 43, 53, 58]


@pytest.mark.parametrize("share", [1, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="test must be"):
        Arrays.of((X, Y), test=share)


def test_given_test_images() -> None:
    arrays = Arrays.of(((X, Y), (X[:3], Y[:3])))
    dataset = arrays.dataset()
    assert dataset.test is not None and dataset.test.pixels is not None
    assert np.shares_memory(dataset.train.pixels, X) and np.shares_memory(dataset.test.pixels, X)
    assert list(dataset.test.names) == ["x_test[0]", "x_test[1]", "x_test[2]"]
    with pytest.raises(DataError, match="x has images of 6x5x3, but x_test of 5x5x3"):
        Arrays.of(((X, Y), (X[:3, :5], Y[:3])))
    with pytest.raises(DataError, match="data has x_test and y_test already"):
        Arrays.of(((X, Y), (X, Y)), test=0.1)
    with pytest.raises(DataError, match="not 3 arrays"):
        Arrays.of((X, Y, X))


def test_a_sample_of_a_networks_classes_may_lack_most_of_them() -> None:
    classes = [str(number) for number in range(100)]
    with pytest.raises(DataError, match="there are no training pictures of label"):
        data.open_source(Arrays.of((X[:2], [1, 99]), classes=classes, test=0))
    source = data.open_source(Arrays.for_testing((X[:2], [1, 99]), classes))
    assert source.test.labels.tolist() == [1, 99] and source.notes == []
    with pytest.raises(DataError, match=r"data must be \(x, y\)"):
        Arrays.for_testing(((X, Y), (X, Y)), classes)


def test_no_test_images_means_testing_on_the_training_images() -> None:
    source = data.open_source(Arrays.of((X, Y), test=0))
    assert source.test is source.train and any("serve for testing too" in note for note in source.notes)


@pytest.mark.parametrize(
    "arrays", [Arrays.of((X, Y)), Arrays.of((X, Y), test=0), Arrays.of(((X, Y), (X[:3], Y[:3])))]
)
def test_a_file_gives_the_same_data(arrays: Arrays, tmp_path: Path) -> None:
    file = tmp_path / "arrays.npz"
    arrays.save(file)
    one, other = arrays.dataset(), open_dataset(file)
    assert fingerprints(one) == fingerprints(other)
    assert (one.name, one.classes) == (other.name, other.classes)


@pytest.mark.parametrize(
    "keys",
    [
        ("x", "y", "x_test", "y_test"),
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_files_of_other_programs(keys: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    values = dict(zip(keys, (X, Y[:, None], X[:2], Y[:2, None]), strict=True))
    np.savez(file, **values, val_images=X)  # others are left alone
    dataset = open_dataset(file)
    assert fingerprints(dataset) == fingerprints(Arrays.of(((X, Y), (X[:2], Y[:2]))).dataset())
    assert dataset.name == "arrays mine"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"a": X, "b": Y}, "has no images called x; its arrays are a, b"),
        ({"x": X}, "has x but no y"),
        ({"x": X, "y": Y, "x_test": X}, "has x_test but no y_test"),
        ({"x": X / 255, "y": Y}, "mine.npz: x is float64"),
        ({"x": X[:3], "y": Y[:3]}, "its 3 images are too few"),
        ({"x": X, "y": Y, "test": np.array([3, 1])}, "mine.npz: test must be rising positions"),
        ({"x": X, "y": Y, "test": np.array([3, 20])}, "mine.npz: test must be rising positions"),
        ({"x": X, "y": Y, "test": np.arange(20)}, "mine.npz: test leaves no image for training"),
        ({"x": np.array([print, print]), "y": Y[:2]}, "no sound .npz file"),  # a pickle is never run
    ],
)
def test_a_file_that_cannot_be_used(values: dict[str, Any], text: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **values)
    with pytest.raises(DataError, match=re.escape(text)):
        open_dataset(tmp_path / "mine.npz")


def test_a_damaged_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    np.savez(file, x=X, y=Y)
    content = file.read_bytes()
    for length in (0, 10, 300, len(content) - 30):
        file.write_bytes(content[:length])
        with pytest.raises(DataError, match=re.escape(str(file))):
            open_dataset(file)
    for place in range(0, len(content), 97):
        file.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            open_dataset(file)
        except DataError as error:
            assert str(file) in str(error)
    np.save(file, X)
    (tmp_path / "mine.npz.npy").rename(file)
    with pytest.raises(DataError, match=r"one array, not several"):
        open_dataset(file)


def test_the_digits_as_arrays_have_the_split_of_the_digits() -> None:
    embedded, given = open_dataset(None), Arrays.of(digits.load()).dataset()
    for name in ("train", "test"):
        assert np.array_equal(embedded.splits[name].pixels, given.splits[name].pixels)
        assert np.array_equal(embedded.splits[name].labels, given.splits[name].labels)
