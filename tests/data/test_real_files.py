"""Real data in the folder CCONVNET_TEST_DATA."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.batches import batches_equal

from cconvnet import data
from cconvnet.errors import DataError


def test_real_mnist(real: Path) -> None:
    source = data.open_source(real / "mnist-t10k")
    assert len(source.train) + len(source.test) == 10_000 and source.image_shape == (28, 28, 1)
    assert len(source.classes) == 10 and source.notes
    # Known of MNIST's test set: how many of each digit.
    counts = np.bincount(source.train.labels) + np.bincount(source.test.labels)
    assert counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert 30 < data.mean_image(source.train).mean() < 36  # 0.13 of 255


def test_real_cifar10_as_jpegs(real: Path, tmp_path: Path) -> None:
    taken: dict[str, int] = {}
    with tarfile.open(real / "cifar10-jpeg.tar.xz") as archive:
        for member in archive:
            folder = member.name.rpartition("/")[0]
            if member.isfile() and taken.get(folder, 0) < 30:
                taken[folder] = taken.get(folder, 0) + 1
                archive.extract(member, tmp_path, filter="data")
    source = data.open_source(tmp_path, workers=2)
    assert len(source.classes) == 10 and "airplane" in source.classes
    assert source.image_shape == (32, 32, 3) and source.report() == []
    assert len(source.train) == len(source.test) == 300
    streamed = data.open_source(tmp_path, cache_bytes=0)
    options = {"crop": (24, 24), "random_crop": True, "mirror": True}
    with (
        data.Loader(source.train, 64, 1, **options) as cached,
        data.Loader(streamed.train, 64, 1, workers=2, **options) as decoded,
    ):
        assert batches_equal(list(cached.epoch(0)), list(decoded.epoch(0)))


def test_real_photographs(real: Path, tmp_path: Path) -> None:
    with tarfile.open(real / "imagenet-100-photos.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    with pytest.raises(DataError, match="give a size"):
        data.open_source(tmp_path)
    source = data.open_source(tmp_path, size=256)
    assert source.image_shape == (256, 256, 3) and len(source.classes) == len(source.train) == 100
    assert source.test is source.train and source.report() == []
    pictures, labels = source.train.read(np.arange(100))
    assert labels.tolist() == list(range(100))
    spread = pictures.max(axis=-1).astype(int) - pictures.min(axis=-1)
    grey = (spread == 0).all(axis=(1, 2))
    assert 1 <= grey.sum() < 20
