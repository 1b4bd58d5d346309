"""Distorted training images: where pixels come from, and that they depend on seed, epoch and place alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.batches import batches_equal
from helpers.flat_pictures import CLASSES, make_broken_set, make_pictures

from cconvnet import data
from cconvnet.data import distortion
from cconvnet.data.distortion import distort
from cconvnet.nets import NO_DISTORTION, Distortion

Pixels = npt.NDArray[np.uint8]

EVERYTHING = Distortion(rotation=15, scaling=15, translation=10, alpha=20, sigma=4)


def noise(count: int = 40, height: int = 13, width: int = 10, channels: int = 2) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (count, height, width, channels), np.uint8)


def distorted(images: Pixels, limits: Distortion, seed: int = 3, epoch: int = 2, first: int = 0) -> Pixels:
    result = images.copy()
    distort(result, limits, seed, epoch, first)
    return result


def centers(images: Pixels) -> npt.NDArray[np.float64]:
    """Return the centre of mass (row, column) of each image."""
    weights = images[..., 0] / images[..., 0].sum(axis=(1, 2), keepdims=True)
    rows, columns = np.indices(weights.shape[1:])
    return np.stack([(weights * rows).sum(axis=(1, 2)), (weights * columns).sum(axis=(1, 2))], axis=-1)


def spots(count: int, row: int, column: int, size: int = 41) -> Pixels:
    images = np.zeros((count, size, size, 1), np.uint8)
    images[:, row - 2 : row + 3, column - 2 : column + 3] = 200
    return images


# ---- where pixels come from ------------------------------------------------------------------------------


def test_no_distortion_changes_no_pixel() -> None:
    assert NO_DISTORTION.is_identity and not EVERYTHING.is_identity
    assert np.array_equal(distorted(noise(), NO_DISTORTION), noise())


def test_a_plain_loop_reads_the_same_pixels() -> None:
    images = noise(count=3)
    got = distorted(images, EVERYTHING)
    places = distortion._places(images.shape, EVERYTHING, 3, 2, 0)
    high, wide = images.shape[1:3]
    for n, p, q in np.ndindex(images.shape[:3]):
        row, column = (
            min(max(float(place[n, p, q]), 0.0), size - 1.0)
            for place, size in zip(places, (high, wide), strict=True)
        )
        top, left = int(row), int(column)
        below, right = min(top + 1, high - 1), min(left + 1, wide - 1)
        y, x = row - top, column - left
        image = images[n].astype(np.float64)
        above = (1 - x) * image[top, left] + x * image[top, right]
        under = (1 - x) * image[below, left] + x * image[below, right]
        assert np.abs((1 - y) * above + y * under - got[n, p, q]).max() < 0.502


def test_translation_and_rotation_stay_within_their_limits() -> None:
    count = 400
    moved = centers(distorted(spots(count, 20, 20), Distortion(translation=10))) - 20
    assert np.abs(moved).max() < 4.1 + 0.05 and (np.abs(moved).max(axis=0) > 3.9).all()
    assert np.abs(moved.mean(axis=0)).max() < 0.4  # a uniform shift has a deviation of 2.4
    # A spot 12 pixels above the centre moves along a circle around it.
    turned = centers(distorted(spots(count, 8, 20), Distortion(rotation=30))) - 20
    assert np.abs(np.linalg.norm(turned, axis=1) - 12).max() < 0.1
    angles = np.rad2deg(np.arctan2(turned[:, 1], -turned[:, 0]))
    assert 29 < angles.max() < 30.5 and -30.5 < angles.min() < -29 and abs(angles.mean()) < 3


def test_height_and_width_are_scaled_on_their_own() -> None:
    images = np.zeros((300, 41, 41, 1), np.uint8)
    images[:, 10:31, 10:31] = 255
    found = distorted(images, Distortion(scaling=20))[..., 0] / 255
    sides = np.stack([found[:, :, 20].sum(axis=1), found[:, 20].sum(axis=1)])
    # Fuzzy edges of a square of 21 pixels: 20% are 4.2.
    assert sides.max() < 25.5 and sides.min() > 16.5 and (sides.max(axis=1) > 24.5).all()
    assert abs(np.corrcoef(sides)[0, 1]) < 0.2


def test_an_elastic_field_is_smooth_and_as_large_as_it_should_be() -> None:
    limits = Distortion(alpha=36, sigma=6)
    rows, columns = distortion._places((200, 60, 60, 1), limits, 0, 0, 0)
    down = rows - np.arange(60, dtype=np.float32)[:, None]
    across = columns - np.arange(60, dtype=np.float32)
    inner = np.s_[:, 24:36, 24:36]
    # Uniform noise has a deviation of 1/sqrt(3); a Gaussian of sigma divides it by 2 sqrt(pi) sigma.
    expected = 36 / np.sqrt(3) / (2 * np.sqrt(np.pi) * 6)
    for field in (down, across):
        assert field[inner].std() == pytest.approx(expected, rel=0.1)
        assert abs(field[inner].mean()) < 0.2
        assert np.abs(np.diff(field, axis=1)).max() < 5 * expected / 6
    assert abs(np.corrcoef(down[inner].ravel(), across[inner].ravel())[0, 1]) < 0.2


def test_sums_of_the_smoothing_are_exact() -> None:
    """In whole numbers, so that no order of adding, and no number of threads, changes a bit."""
    drawn = np.random.default_rng(0).integers(-(2**15), 2**15, (1, 2, 9, 70), np.int16)
    wide, high = (distortion._smoother(size, 0.7).astype(np.int64) for size in (70, 9))
    once = np.rint((drawn.astype(np.int64) @ wide) * (2.0**8 / 2**20)).astype(np.int64)
    expected = ((high @ once) * 2.0**-43).astype(np.float32) * np.float32(5)
    assert np.array_equal(distortion._smoothed(drawn, 0.7, np.float32(5)), expected)
    assert wide.sum(axis=0)[35] == pytest.approx(2**20, abs=40)


def test_places_beyond_the_image_read_its_edge() -> None:
    """The background of a digit is the edge of its image."""
    images = np.full((50, 9, 9, 1), 17, np.uint8)
    images[:, 4, 4] = 255
    assert distorted(images, Distortion(translation=60, rotation=90)).min() == 17


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 3), (5, 1, 1)])
def test_images_of_one_row_or_column_are_distorted(shape: tuple[int, int, int]) -> None:
    images = noise(30, *shape)
    result = distorted(images, EVERYTHING)
    assert (result.min(axis=(1, 2)) >= images.min(axis=(1, 2))).all()
    assert (result.max(axis=(1, 2)) <= images.max(axis=(1, 2))).all()


# ---- what decides about them -----------------------------------------------------------------------------


def test_an_image_depends_on_seed_epoch_and_place_alone() -> None:
    images = noise(150)
    whole = distorted(images, EVERYTHING, first=4)
    for begin, end in ((0, 1), (63, 66), (149, 150), (10, 150)):
        part = distorted(images[begin:end], EVERYTHING, first=4 + begin)
        assert np.array_equal(part, whole[begin:end])
    for other in ({"seed": 4}, {"epoch": 3}, {"first": 5}):
        assert (distorted(images, EVERYTHING, **{"first": 4, **other}) != whole).any(axis=(1, 2, 3)).all()


def loaded(split: data.Split, workers: int = 0, epoch: int = 1, **more: Any) -> list[data.Batch]:
    with data.Loader(split, 8, 3, distortion=EVERYTHING, workers=workers, **more) as loader:
        return list(loader.epoch(epoch))


@pytest.mark.parametrize("broken", [False, True])
def test_workers_change_nothing(tmp_path: Path, broken: bool) -> None:
    if broken:
        make_broken_set(tmp_path)
    else:
        make_pictures(tmp_path, dict.fromkeys(CLASSES, 30))
    expected = loaded(data.open_source(tmp_path).train)
    with data.Loader(data.open_source(tmp_path).train, 8, 3) as loader:
        plain = list(loader.epoch(1))
    assert [part.indices.tolist() for part in plain] == [part.indices.tolist() for part in expected]
    for number, (before, after) in enumerate(zip(plain, expected, strict=True)):
        assert np.array_equal(after.images, distorted(before.images, EVERYTHING, 3, 1, 8 * number))
    for workers in (0, 2):
        source = data.open_source(tmp_path, cache_bytes=0)
        assert batches_equal(expected, loaded(source.train, workers))


def test_a_resumed_epoch_and_other_epochs() -> None:
    split = data.MemorySplit("train", noise(60), np.zeros(60, np.int32))
    epoch = loaded(split)
    with data.Loader(split, 8, 3, distortion=EVERYTHING) as loader:
        assert batches_equal(epoch[4:], list(loader.epoch(1, 4)))
        other = list(loader.epoch(2))
    same = dict(
        zip(
            np.concatenate([part.indices for part in epoch]).tolist(),
            np.concatenate([p.images for p in epoch]),
            strict=True,
        )
    )
    for part in other:
        for index, image in zip(part.indices.tolist(), part.images, strict=True):
            assert index not in same or not np.array_equal(same[index], image)
