"""The embedded digits, MNIST and CIFAR-10 read back, and their damaged files named."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cconvnet import data
from cconvnet.data import images
from cconvnet.data.datasets import digits
from cconvnet.errors import DataError

# ---- digits ---------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    ours, labels = digits.load()
    assert ours.dtype == np.uint8 and ours.shape == (1797, 8, 8, 1)
    assert np.array_equal(ours[..., 0], np.rint(theirs.images * 255 / 16))
    assert np.array_equal(labels, theirs.target)
    assert digits.FILE.stat().st_size <= 60_000


def test_digits_file_can_be_made_again(tmp_path: Path) -> None:
    pytest.importorskip("sklearn.datasets")
    digits.make(tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz") as ours, np.load(digits.FILE) as theirs:
        assert all(np.array_equal(ours[name], theirs[name]) for name in ("counts", "labels"))


def test_digits_source() -> None:
    source = data.open_source()
    assert source.name == "digits" and source.classes == list("0123456789")
    assert source.image_shape == (8, 8, 1) and source.train is not source.test
    assert len(source.train) + len(source.test) == 1797
    pictures, labels = digits.load()
    for label in range(10):
        of_class = pictures[labels == label]
        test, test_labels = source.test.read(np.flatnonzero(source.test.labels == label))
        train, _ = source.train.read(np.flatnonzero(source.train.labels == label))
        assert (test_labels == label).all()
        assert np.array_equal(test, of_class[4::5])
        assert np.array_equal(train, np.delete(of_class, np.s_[4::5], axis=0))
    larger = data.open_source("digits", size=16)
    assert larger.image_shape == (16, 16, 1)
    assert np.array_equal(larger.train.read([3])[0][0], images.resize_image(pictures[3], 16))


# ---- MNIST ----------------------------------------------------------------------------------------------


def write_idx(file: Path, array: npt.NDArray[np.uint8], packed: bool = False) -> None:
    content = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    if packed:
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(content))
    else:
        file.write_bytes(content)


def make_mnist(root: Path, prefix: str, count: int, packed: bool = False) -> npt.NDArray[np.uint8]:
    pictures = np.random.default_rng(count).integers(0, 256, (count, 5, 4), np.uint8)
    write_idx(root / f"{prefix}-images-idx3-ubyte", pictures, packed)
    write_idx(root / f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8), packed)
    return pictures


@pytest.mark.parametrize("packed", [False, True])
def test_mnist(tmp_path: Path, packed: bool) -> None:
    train = make_mnist(tmp_path, "train", 40, packed)
    test = make_mnist(tmp_path, "t10k", 20, packed)
    source = data.open_source(tmp_path)
    assert source.image_shape == (5, 4, 1) and source.classes == list("0123456789")
    for split, pictures in ((source.train, train), (source.test, test)):
        read, labels = split.read(np.arange(len(pictures)))
        assert np.array_equal(read[..., 0], pictures)
        assert labels.dtype == np.int32 and np.array_equal(labels, np.arange(len(pictures)) % 10)


@pytest.mark.parametrize("prefix", ["train", "t10k"])
def test_mnist_with_one_half(tmp_path: Path, prefix: str) -> None:
    pictures = make_mnist(tmp_path, prefix, 100)
    source = data.open_source(tmp_path)
    assert "every fifth" in source.notes[0] and prefix in source.name
    assert len(source.train) == 80 and len(source.test) == 20
    assert np.bincount(source.test.labels).tolist() == [2] * 10
    of_class_3 = pictures[3::10, ..., np.newaxis]
    test, _ = source.test.read(np.flatnonzero(source.test.labels == 3))
    assert np.array_equal(test, of_class_3[[4, 9]])


def _damage(name: str, change: str, root: Path) -> None:
    file = root / name
    content = file.read_bytes()
    if change == "magic":
        content = b"\0\0\x0d" + content[3:]
    elif change == "short":
        content = content[:-1]
    elif change == "long":
        content += b"\0"
    elif change == "header":
        content = content[:6]
    elif change == "huge":
        content = content[:4] + b"\xff" * 12 + content[16:]
    elif change == "zero":
        content = content[:4] + bytes(4) + content[8:]
    file.write_bytes(content)


@pytest.mark.parametrize("change", ["magic", "short", "long", "header", "huge", "zero"])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_mnist_is_named(tmp_path: Path, name: str, change: str) -> None:
    make_mnist(tmp_path, "train", 20)
    make_mnist(tmp_path, "t10k", 20)
    _damage(name, change, tmp_path)
    with pytest.raises(DataError, match=name):
        data.open_source(tmp_path)


def test_mnist_that_does_not_fit_together(tmp_path: Path) -> None:
    make_mnist(tmp_path, "train", 20)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(19, np.uint8))
    with pytest.raises(DataError, match=r"20 images .*train-labels-idx1-ubyte 19 labels"):
        data.open_source(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no train-labels-idx1-ubyte"):
        data.open_source(tmp_path)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    make_mnist(tmp_path, "train", 20, packed=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    content = file.read_bytes()
    for bad in (content[: len(content) // 2], b"no gzip", content[:40] + b"\xff" * 9 + content[49:]):
        file.write_bytes(bad)
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
            data.open_source(tmp_path)


# ---- CIFAR-10 -------------------------------------------------------------------------------------------


def make_cifar10(root: Path) -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    made = {}
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        pictures = rng.integers(0, 256, (4 + seed, 32, 32, 3), np.uint8)
        labels = rng.integers(0, 10, 4 + seed, np.uint8)
        with (root / name).open("wb") as file:
            for picture, label in zip(pictures, labels, strict=True):
                file.write(bytes([label]) + b"".join(picture[:, :, c].tobytes() for c in range(3)))
        made[name] = pictures, labels
    (root / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n\n")
    return made


def test_cifar10(tmp_path: Path) -> None:
    made = make_cifar10(tmp_path)
    source = data.open_source(tmp_path)
    assert source.classes == [f"class{i}" for i in range(10)] and source.image_shape == (32, 32, 3)
    test = made.pop("test_batch.bin")
    train = [np.concatenate(arrays) for arrays in zip(*made.values(), strict=True)]
    for split, (pictures, labels) in ((source.train, train), (source.test, test)):
        read, read_labels = split.read(np.arange(len(labels)))
        assert np.array_equal(read, pictures) and np.array_equal(read_labels, labels)


def test_bad_cifar10_is_named(tmp_path: Path) -> None:
    make_cifar10(tmp_path)
    file = tmp_path / "data_batch_3.bin"
    content = file.read_bytes()
    for bad, message in (
        (content[:-1], "no multiple of a record's 3,073"),
        (b"", "0 bytes"),
        (content[: 2 * 3073] + b"\x0a" + content[2 * 3073 + 1 :], "record 2 has label 10"),
    ):
        file.write_bytes(bad)
        with pytest.raises(DataError, match=rf"data_batch_3\.bin.*{message}"):
            data.open_source(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_3\.bin of"):
        data.open_source(tmp_path)
