"""Random-resized crops: how they are drawn, which pixels they are, and what decides about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.batches import batches_equal
from helpers.flat_pictures import CLASSES, make_broken_set
from helpers.made_pictures import encoded, make_folder, photo, prepare
from PIL import Image

from cconvnet import data
from cconvnet.data.byte_ranges import ByteRange
from cconvnet.data.images import decode_image, read_part
from cconvnet.data.resized_crops import ResizedCrops
from cconvnet.nets import AREA, Distortion

Pixels = npt.NDArray[np.uint8]
Area = tuple[float, float]


def boxes(
    height: int, width: int, count: int = 4000, area: Area = AREA, **changes: int
) -> npt.NDArray[np.float64]:
    """Return left, top, right and bottom of each of many crops of a picture."""
    drawn = ResizedCrops(area, (8, 8), **{"seed": 3, "epoch": 1, "first": 0, **changes})
    return np.array([drawn.box(place, height, width) for place in range(count)])


# ---- the draw --------------------------------------------------------------------------------------------


def test_areas_proportions_and_places_are_uniform() -> None:
    """Every draw fits: the widest crop has 283 pixels, and so has the highest."""
    left, top, right, bottom = boxes(300, 400, area=(0.1, 0.5)).T
    width, height = right - left, bottom - top
    shares = {
        "area": (width * height / 120_000 - 0.1) / 0.4,
        "proportions": (np.log(width / height) / np.log(4 / 3) + 1) / 2,
        "row": top / (300 - height),
        "column": left / (400 - width),
    }
    for name, share in shares.items():
        # Rounding to whole pixels moves a share by less than 0.02.
        assert -0.02 <= share.min() <= 0.02 and 0.98 <= share.max() <= 1.02, name
        for part in (0.1, 0.25, 0.5, 0.75, 0.9):
            assert abs((share < part).mean() - part) < 0.02 + 5 * np.sqrt(part * (1 - part) / 4000), name
    correlations = np.corrcoef(list(shares.values())) - np.eye(4)
    assert np.abs(correlations).max() < 5 / np.sqrt(4000)


@pytest.mark.parametrize("sides", [(300, 400), (1, 1), (2, 3), (7, 500), (500, 7), (1, 1000)])
def test_crops_are_within_the_picture(sides: tuple[int, int]) -> None:
    height, width = sides
    left, top, right, bottom = boxes(*sides, count=500).T
    assert (left >= 0).all() and (top >= 0).all() and (right <= width).all() and (bottom <= height).all()
    assert (right - left >= 1).all() and (bottom - top >= 1).all()
    if min(sides) > 100:
        assert len(np.unique(left)) > 50 and len(np.unique(top)) > 50


@pytest.mark.parametrize(
    ("sides", "expected"),
    [((60, 500), (210, 0, 290, 60)), ((500, 60), (0, 210, 60, 290)), ((90, 100), (0, 0, 100, 90))],
)
def test_where_no_draw_fits_it_is_the_centre(sides: tuple[int, int], expected: tuple[int, ...]) -> None:
    """The whole area fits nowhere, unless the proportions are the picture's."""
    found = boxes(*sides, count=50, area=(1.0, 1.0))
    fallback = (found == expected).all(axis=1)
    assert fallback.all() if sides != (90, 100) else fallback.any()


def test_a_crop_depends_on_seed_epoch_and_place_alone() -> None:
    whole = boxes(300, 400, count=50)
    assert (boxes(300, 400, count=20, first=30) == whole[30:]).all()
    drawn = ResizedCrops(AREA, (8, 8), 3, 1, 0)
    assert drawn.after(7).box(2, 300, 400) == tuple(whole[9])
    for change in ({"seed": 4}, {"epoch": 2}, {"first": 1}):
        assert (boxes(300, 400, count=50, **change) != whole).any(axis=1).mean() > 0.9


# ---- the pixels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(150, 200), (9, 14)])
def test_pixels_are_those_of_pillow(sides: tuple[int, int], tmp_path: Path) -> None:
    """A smaller picture than the crop's side is enlarged."""
    picture = photo(*sides, seed=4)
    file = tmp_path / "a.png"
    file.write_bytes(encoded(picture, "PNG"))
    drawn = ResizedCrops(AREA, (32, 24), 3, 1, 0)
    for place in range(20):
        out = np.empty((32, 24, 3), np.uint8)
        read_part(ByteRange(str(file)), lambda h, w, place=place: drawn.box(place, h, w), "pillow", out)
        box = drawn.box(place, *sides)
        theirs = picture.resize((24, 32), Image.Resampling.BILINEAR, box=box)
        assert np.abs(out.astype(int) - np.asarray(theirs).astype(int)).max() <= 1
        image = np.full((40, 31, 3), 9, np.uint8)
        drawn.cut(np.asarray(picture), place, image)
        assert np.array_equal(image[4:36, 3:27], out)
        image[4:36, 3:27] = 0
        assert not image.any()


def test_a_large_jpeg_is_decoded_no_smaller_than_its_crop(tmp_path: Path) -> None:
    picture, file = photo(900, 1200, seed=5), tmp_path / "a.jpeg"
    file.write_bytes(encoded(picture))
    pixels = decode_image(file.read_bytes(), None)
    drawn = ResizedCrops((0.5, 1.0), (32, 32), 3, 1, 0)
    for decoder in ("pillow", data.images.default_decoder()):
        for place in range(10):
            found, expected = np.empty((2, 32, 32, 3), np.uint8)
            read_part(ByteRange(str(file)), lambda h, w, place=place: drawn.box(place, h, w), decoder, found)
            drawn.cut(pixels, place, expected)
            assert np.abs(found.astype(int) - expected.astype(int)).mean() < 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_arrays_of_any_channels_are_cut(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 12, 10, channels), np.uint8)
    drawn = ResizedCrops(AREA, (8, 8), 3, 1, 0)
    for place in range(6):
        whole = np.empty((8, 8, channels), np.uint8)
        drawn.cut(images[place], place, whole)
        for channel in range(channels):
            own = np.empty((8, 8, 3), np.uint8)
            drawn.cut(images[place, ..., channel, None].repeat(3, axis=2), place, own)
            assert np.array_equal(whole[..., channel], own[..., 0])


# ---- the loader ------------------------------------------------------------------------------------------


def loaded(
    split: data.Split, workers: int = 0, epoch: int = 1, start: int = 0, **more: Any
) -> list[data.Batch]:
    how: dict[str, Any] = {"crop": (12, 10), "area": AREA, "mirror": True, **more}
    with data.Loader(split, 8, 3, workers=workers, **how) as loader:
        return list(loader.epoch(epoch, start))


@pytest.mark.parametrize("kind", ["folder", "broken", "shards", "raw"])
def test_workers_memory_and_resuming_change_nothing(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    if kind == "broken":
        make_broken_set(root)
    else:
        make_folder(root)
    if kind in ("shards", "raw"):
        prepare(
            root,
            tmp_path / "shards",
            whole=kind == "shards",
            raw=kind == "raw",
            size=16 if kind == "raw" else None,
        )
        root = tmp_path / "shards"
    size = None if kind in ("broken", "raw") else 16
    crop = (16, 16) if size or kind == "raw" else None
    loading: dict[str, Any] = {"crop": (12, 10) if crop else (5, 4)}
    in_memory = data.open_source(root, size).train
    assert isinstance(in_memory, data.MemorySplit) and in_memory.original is not in_memory
    expected = loaded(in_memory, **loading)
    for workers in (0, 2):
        split = data.open_source(root, size, cache_bytes=0).train
        assert split.original is split
        assert batches_equal(expected, loaded(split, workers, **loading))
        assert batches_equal(expected[2:], loaded(split, workers, start=2, **loading))
    assert crop is None or in_memory.image_shape[:2] == crop
    plain = loaded(in_memory, **loading | {"area": None})
    assert [part.indices.tolist() for part in plain] == [part.indices.tolist() for part in expected]
    assert [part.mirror.tolist() for part in plain] == [part.mirror.tolist() for part in expected]
    if kind != "broken":
        assert not batches_equal(expected, loaded(in_memory, epoch=2, **loading))


def test_crops_are_of_the_original_pictures(tmp_path: Path) -> None:
    """Stored images are 16 pixels high: their details are lost, those of the pictures are not."""
    for split in ("train", "test"):
        for name in CLASSES:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(8):
                lines = np.zeros((160, 160, 3), np.uint8)
                lines[:, :: 2 + number % 2] = 255
                (folder / f"{number}.png").write_bytes(encoded(Image.fromarray(lines), "PNG"))
    split = data.open_source(tmp_path, 16).train
    (first, *_) = loaded(split, crop=(16, 16), area=(0.005, 0.01), mirror=False)
    stored, _ = split.read(first.indices)
    assert stored.std(axis=(1, 2, 3)).max() < 3
    assert first.images.std(axis=(1, 2, 3)).min() > 60


def test_arrays_are_cut_as_they_were_before_they_were_resized() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 40, 30, 3), np.uint8)
    split = data.MemorySplit("train", images, np.zeros(20, np.int32), size=16)
    batch = loaded(split)[1]
    drawn = ResizedCrops(AREA, (12, 10), 3, 1, 8)
    for place, index in enumerate(batch.indices):
        expected = np.empty((16, 16, 3), np.uint8)
        drawn.cut(images[index], place, expected)
        assert np.array_equal(batch.images[place], expected)
    assert (batch.top == 2).all() and (batch.left == 3).all()


def test_only_the_crop_is_distorted() -> None:
    images = np.full((16, 20, 20, 3), 200, np.uint8)
    split = data.MemorySplit("train", images, np.zeros(16, np.int32))
    for batch in loaded(split, distortion=Distortion(rotation=90, translation=50)):
        assert (batch.images[:, 4:16, 5:15] == 200).all()  # no zero is drawn in from around it


def test_what_does_not_go_together_is_refused() -> None:
    split = data.MemorySplit("train", np.zeros((16, 20, 20, 3), np.uint8), np.zeros(16, np.int32))
    for more in ({"random_crop": True}, {"pad": 1}):
        with pytest.raises(ValueError, match="area is for crops without random_crop and pad"):
            loaded(split, **more)
    for area in ((0.0, 1.0), (0.5, 0.4), (0.5, 1.1), (0.5,), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="area must be"):
            loaded(split, area=area)
