"""Batches that depend on the seed, the epoch and the step alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers.batches import batches_equal, evaluation_batches, training
from helpers.flat_pictures import CLASSES, make_broken_set, make_pictures

from cconvnet import data


@pytest.fixture
def split() -> data.MemorySplit:
    """103 images of 9x8x2 that say their own number, whose labels are that modulo 10."""
    count = 103
    pictures = np.zeros((count, 9, 8, 2), np.uint8)
    pictures[...] = np.arange(count).reshape(-1, 1, 1, 1)
    return data.MemorySplit("train", pictures, (np.arange(count) % 10).astype(np.int32))


def test_an_epoch_is_every_image_once(split: data.MemorySplit) -> None:
    for shuffle, drop_last in itertools.product((False, True), repeat=2):
        with data.Loader(split, 10, 1, shuffle=shuffle, drop_last=drop_last) as loader:
            batches = list(loader.epoch(0))
        assert loader.steps_per_epoch == len(batches) == (10 if drop_last else 11)
        assert [len(batch) for batch in batches] == [10] * 10 + [3] * (not drop_last)
        indices = np.concatenate([batch.indices for batch in batches])
        assert len(set(indices)) == len(indices)
        assert (indices.tolist() == list(range(len(indices)))) == (not shuffle)
        for batch in batches:
            assert batch.images.shape == (len(batch), 9, 8, 2) and batch.images.dtype == np.uint8
            assert (batch.images == batch.indices.reshape(-1, 1, 1, 1)).all()
            assert np.array_equal(batch.labels, batch.indices % 10)
            assert batch.labels.dtype == batch.top.dtype == batch.left.dtype == np.int32
            assert batch.mirror.dtype == np.uint8
            assert not batch.top.any() and not batch.left.any() and not batch.mirror.any()


AUGMENTED = {"crop": (4, 5), "random_crop": True, "mirror": True}


def test_epochs_depend_on_seed_and_number_alone(split: data.MemorySplit) -> None:
    def epoch(seed: int, number: int, start_step: int = 0) -> list[data.Batch]:
        with data.Loader(split, 10, seed, **AUGMENTED) as loader:
            return list(loader.epoch(number, start_step))

    first = epoch(5, 2)
    assert batches_equal(first, epoch(5, 2))
    for start_step in (1, 7, 10):
        assert batches_equal(first[start_step:], epoch(5, 2, start_step))
    for other in (epoch(5, 3), epoch(6, 2)):
        assert not any(batches_equal([a], [b]) for a, b in zip(first, other, strict=True))
    with data.Loader(split, 10, 5, **AUGMENTED) as loader:  # after other epochs, and half of one
        list(loader.epoch(0))
        next(loader.epoch(1))
        assert batches_equal(first, list(loader.epoch(2)))
        both = [*zip(loader.epoch(2), loader.epoch(2), strict=True)]  # two at the same time
        assert batches_equal(first, [a for a, _ in both]) and batches_equal(first, [b for _, b in both])


def test_the_batch_size_changes_neither_order_nor_crops(split: data.MemorySplit) -> None:
    def joined(batch: int) -> list[npt.NDArray[np.int64]]:
        with data.Loader(split, batch, 5, drop_last=False, **AUGMENTED) as loader:
            batches = list(loader.epoch(1))
        return [np.concatenate(parts) for parts in zip(*(vars(b).values() for b in batches), strict=True)]

    for ours, theirs in zip(joined(10), joined(33), strict=True):
        assert np.array_equal(ours, theirs)


def test_the_draws_stay_what_they_are() -> None:
    """A run resumed with a later version, of NumPy or of this, must see the same images."""
    ten = data.MemorySplit("train", np.zeros((10, 40, 50, 1), np.uint8), np.zeros(10, np.int32))
    with data.Loader(ten, 10, 42, crop=(32, 32), random_crop=True, mirror=True) as loader:
        (batch,) = loader.epoch(3)
    assert batch.indices.tolist() == [1, 6, 3, 4, 5, 9, 2, 8, 0, 7]
    assert batch.top.tolist() == [6, 7, 0, 6, 5, 8, 6, 0, 8, 2]
    assert batch.left.tolist() == [3, 12, 0, 7, 7, 0, 14, 15, 17, 14]
    assert batch.mirror.tolist() == [1, 0, 1, 1, 1, 0, 1, 0, 0, 1]


def test_crops(split: data.MemorySplit) -> None:
    with data.Loader(split, 100, 1, **AUGMENTED) as loader:
        batches = [batch for epoch in range(20) for batch in loader.epoch(epoch)]
    top, left, mirror = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("top", "left", "mirror")
    )
    for drawn, values in ((top, 6), (left, 4), (mirror, 2)):  # 9 - 4 + 1, 8 - 5 + 1
        counts = np.bincount(drawn, minlength=values)
        assert len(counts) == values
        expected = 2000 / values
        assert ((counts - expected) ** 2 / expected).sum() < 30  # chi squared, at most 5 degrees of freedom
    assert abs(np.corrcoef([top, left, mirror])[np.triu_indices(3, 1)]).max() < 0.1
    with data.Loader(split, 10, 1, crop=(4, 5)) as loader:
        batch = next(loader.epoch(0))
        assert (batch.top == 2).all() and (batch.left == 1).all() and not batch.mirror.any()


def test_bad_arguments(split: data.MemorySplit) -> None:
    for arguments, message in (
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"batch": 104}, "batch is 104, more than the 103 train images"),
        ({"batch": 5, "crop": (10, 8)}, "crop is 10x8; it must be from 1x1 to the images' 9x8"),
        ({"batch": 5, "crop": (0, 8)}, "crop is 0x8"),
        ({"batch": 5, "seed": -1}, "seed must be at least 0, not -1"),
        ({"batch": 5, "workers": -1}, "workers must be at least 0, not -1"),
    ):
        with pytest.raises(ValueError, match=message):
            data.Loader(split, **arguments)
    with data.Loader(split, 10) as loader:
        for epoch, start_step, message in ((-1, 0, "epoch"), (0, 11, "start_step"), (0, -1, "start_step")):
            with pytest.raises(ValueError, match=f"{message} must be"):
                loader.epoch(epoch, start_step)
        assert list(loader.epoch(0, 10)) == []
    with pytest.raises(IndexError, match="from 0 to 102"):
        split.read([103])
    with data.Loader(split, 1000, drop_last=False) as loader:
        assert [len(batch) for batch in loader.epoch(0)] == [103]


@pytest.mark.parametrize("broken", [False, True])
def test_cached_and_streamed_batches_are_the_same(tmp_path: Path, broken: bool) -> None:
    if broken:
        make_broken_set(tmp_path)
    else:
        make_pictures(tmp_path, dict.fromkeys(CLASSES, 30))
    expected = training(data.open_source(tmp_path).train, 0)
    for workers in (0, 1, 3):
        source = data.open_source(tmp_path, cache_bytes=0)
        assert isinstance(source.train, data.PictureSplit)
        assert batches_equal(expected, training(source.train, workers))
    for workers in (0, 2):
        cached = data.open_source(tmp_path, workers=workers)
        assert isinstance(cached.train, data.MemorySplit)
        assert batches_equal(expected, training(cached.train, 0))
        assert batches_equal([*evaluation_batches(cached.test)], [*evaluation_batches(source.test)])


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_mean_image(tmp_path: Path, cache_bytes: int) -> None:
    make_broken_set(tmp_path)
    source = data.open_source(tmp_path, cache_bytes=cache_bytes)
    seen: list[tuple[int, int]] = []
    mean = data.mean_image(source.train, progress=lambda *state: seen.append(state))
    good, _ = source.train.read(np.arange(90))
    assert len(good) == 86 and mean.dtype == np.float32
    assert np.array_equal(mean, good.astype(np.float64).mean(axis=0).astype(np.float32))
    assert seen[-1] == (90, 90)


def test_mean_image_of_many_white_images() -> None:
    white = data.MemorySplit("train", np.full((700, 2, 3, 1), 255, np.uint8), np.zeros(700, np.int32))
    assert (data.mean_image(white) == 255).all()
