"""The size and encoding of prepared pictures, and the disk space they take."""

from __future__ import annotations

import dataclasses
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cconvnet.checks import whole as check_whole
from cconvnet.data.containers import UPRIGHT, orientation
from cconvnet.data.dataset import Dataset, Pictures
from cconvnet.data.images import (
    MAX_PIXELS,
    BrokenImage,
    Content,
    Pixels,
    content_sides,
    decode_image,
    default_decoder,
    image_sides,
    resize_image,
    resize_shorter,
)
from cconvnet.data.inspection import sized
from cconvnet.data.preprocessing import CURRENT, UNRECORDED, Preprocessing
from cconvnet.data.shards.format import ENCODINGS, way
from cconvnet.data.shards.writer import Picture
from cconvnet.errors import DataError

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

SIZE = 256  # the size that ImageNet's pictures are usually resized to
QUALITY = 90
_SAMPLE = 64


@dataclass(frozen=True)
class Recipe:
    """The processing of a picture for shards.

    Attributes:
        size: The side of the centre square that is kept. With `whole`, the shorter side of the whole picture.
            None: pictures keep their own size.
        encoding: One of ENCODINGS.
        quality: The quality of JPEGs. With `unchanged`, JPEGs that already have the right size are stored
            unchanged.
        codec: The library that decodes and encodes, "simplejpeg" or "pillow".
        preprocessing: The rules by which files are read.
    """

    size: int | None
    whole: bool
    encoding: str
    quality: int
    unchanged: bool
    codec: str
    preprocessing: Preprocessing = CURRENT

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Restore a recipe from what dataclasses.asdict() returned."""
        return cls(**{**values, "preprocessing": Preprocessing(**values["preprocessing"])})

    def apply(self, content: Content) -> Picture:
        """Make the stored form of one picture.

        Raises:
            BrokenImage: The image cannot be decoded.
        """
        return self.stored(content, self.pixels(content))

    def pixels(self, content: Content) -> Pixels:
        """Return the pixels to store.

        Raises:
            BrokenImage: The image cannot be decoded.
        """
        side = None if self.whole else self.size
        if isinstance(content, bytes):
            pixels = decode_image(content, side, self.codec, preprocessing=self.preprocessing)
        else:
            pixels = content if side is None else resize_image(content, side)
        return resize_shorter(pixels, self.size) if self.whole and self.size is not None else pixels

    def stored(self, content: Content, pixels: Pixels) -> Picture:
        """Encode the pixels of a picture, or keep its bytes.

        Raises:
            BrokenImage: The image cannot be encoded.
        """
        height, width = pixels.shape[:2]
        if self.encoding == "raw":
            return Picture(pixels.tobytes(), height, width)
        if self.unchanged and isinstance(content, bytes) and self._stays(content, width, height):
            return Picture(content, height, width)
        return Picture(_encode(pixels, self.quality, self.codec), height, width)

    def _stays(self, content: bytes, width: int, height: int) -> bool:
        """Return True if a file is a JPEG whose pixels can be stored unchanged."""
        if not content.startswith(b"\xff\xd8\xff"):
            return False
        # Readers of shards ignore EXIF data, so a picture that it turns is encoded anew.
        turned = self.preprocessing.orientation == "exif" and orientation(content) != UPRIGHT
        return not turned and image_sides(content, self.preprocessing) == (width, height)


def _encode(pixels: Pixels, quality: int, codec: str) -> bytes:
    """Encode a JPEG with colours at half the resolution (4:2:0), or a grey one.

    Raises:
        BrokenImage: The image cannot be encoded.
    """
    grey = pixels.shape[2] == 1
    try:
        if codec == "simplejpeg":
            colors = ("GRAY", "Gray") if grey else ("RGB", "420")
            return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, *colors))
        buffer = io.BytesIO()
        image = Image.fromarray(pixels[:, :, 0] if grey else pixels)
        image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
        return buffer.getvalue()
    except (ValueError, OSError) as error:  # such as more than 65,500 pixels of width
        raise BrokenImage(f"it cannot be stored as a JPEG: {error}") from error


# ---- choosing one ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Survey:
    """The sizes found in a sample of training pictures.

    `count` is the number of sampled pictures. `smallest` and `largest` are (width, height). `bytes` is the
    average length of a picture in each encoding.
    """

    count: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    bytes: dict[str, float]


def choose(
    dataset: Dataset,
    *,
    size: int | None = None,
    whole: bool = False,
    raw: bool = False,
    quality: int | None = None,
    codec: str | None = None,
) -> tuple[Recipe, Survey]:
    """Read a sample of pictures and choose the options that are not given.

    Args:
        dataset: The pictures to prepare.
        whole: Whether the shorter side becomes `size`, without cropping.
        quality: The quality of JPEGs. None: 90, and JPEGs of the right size stay unchanged.
        codec: "simplejpeg" or "pillow"; None chooses.
        size: The side of stored pictures. None: arrays keep their own size. Pictures are resized to 256, but
            stay unchanged if the whole sample has one smaller size.
        raw: Whether pictures are stored as raw pixels. Arrays always are, unless a quality is given.

    Raises:
        DataError: None of the sampled pictures can be read.
        ValueError: Another argument is out of range, or two contradict each other.
    """
    most = math.isqrt(MAX_PIXELS)
    if size is not None:
        check_whole("--size", size, 1, most)
    if quality is not None and raw:
        raise ValueError("--quality is of JPEGs, so it does not go with --raw")
    if quality is not None:
        check_whole("--quality", quality, 1, 100)
    contents = _sample(dataset.train)
    preprocessing = CURRENT
    if dataset.preprocessing is not None:  # shards, whose pictures keep their orientation
        preprocessing = dataclasses.replace(CURRENT, orientation=dataset.preprocessing.orientation)
    found = [content_sides(content, preprocessing) for content in contents]
    arrays = not isinstance(contents[0], bytes)
    if size is None and (not arrays or len(set(found)) > 1):
        size = min(SIZE, *found[0]) if len(set(found)) == 1 else SIZE
    recipe = Recipe(
        size=size,
        whole=whole and size is not None,
        encoding="raw" if raw or (arrays and quality is None) else "jpeg",
        quality=QUALITY if quality is None else quality,
        unchanged=quality is None,
        codec=default_decoder() if codec is None else codec,
        preprocessing=preprocessing,
    )
    lengths: dict[str, list[int]] = {encoding: [] for encoding in ENCODINGS}
    for content in contents:
        try:
            pixels = recipe.pixels(content)
            for encoding, known in lengths.items():
                known.append(len(dataclasses.replace(recipe, encoding=encoding).stored(content, pixels).data))
        except BrokenImage:
            continue
    if not lengths["raw"]:
        raise _nothing(dataset.train)
    found.sort(key=math.prod)
    means = {encoding: sum(known) / len(known) for encoding, known in lengths.items()}
    return recipe, Survey(len(found), found[0], found[-1], means)


def _nothing(pictures: Pictures) -> DataError:
    return DataError(f"not one of the pictures looked at can be decoded; the first is {pictures.names[0]}")


def _sample(pictures: Pictures) -> list[Content]:
    """Read some pictures with undamaged headers, spread over the split."""
    found: list[Content] = []
    for number in range(0, len(pictures), -(-len(pictures) // _SAMPLE)):
        try:
            content = pictures.content(number)
            content_sides(content)
            found.append(content)
        except BrokenImage:
            continue
    if not found:
        raise _nothing(pictures)
    return found


def describe(dataset: Dataset, root: Path, recipe: Recipe, survey: Survey) -> list[str]:
    """Return a few lines that describe a source and the shards to be made of it."""
    total = sum(map(len, dataset.splits.values()))
    counts = " and ".join(f"{len(pictures):,} {split}" for split, pictures in dataset.splits.items())
    sides = f"{survey.smallest[0]}x{survey.smallest[1]}"
    if survey.smallest != survey.largest:
        sides += f" to {survey.largest[0]}x{survey.largest[1]}"
    of = f", of {survey.count} looked at" if survey.count < total else ""
    what = "whole pictures, their shorter side" if recipe.whole else "centre squares of"
    kept = "of their own size" if recipe.size is None else f"{what} {recipe.size} pixels"
    if recipe.size is not None and recipe.size > min(survey.smallest):
        kept += " (smaller ones are enlarged)"
    ways = {name: way(name, recipe.quality, recipe.unchanged) for name in ENCODINGS}
    room = {name: f"about {sized(total * each)}" for name, each in survey.bytes.items()}
    (other,) = ways.keys() - {recipe.encoding}
    older = recipe.preprocessing == UNRECORDED and dataset.train.ranges is not None
    rules = f"as this folder was begun: {recipe.preprocessing.describe()}"
    return [
        f"{dataset.name}: {len(dataset.classes):,} classes, {counts} pictures of {sides} pixels{of}",
        *dataset.notes,
        *dataset.account().lines()[1:],
        f"to {root}: {kept}, as {ways[recipe.encoding]} {room[recipe.encoding]}; as {ways[other]} "
        f"it would be {room[other]}",
        *([rules] if older else []),
    ]
