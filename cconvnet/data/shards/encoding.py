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

SIZE = 256  # what ImageNet's pictures are brought to
QUALITY = 90
_SAMPLE = 64


@dataclass(frozen=True)
class Recipe:
    """The processing of a picture for shards.

    Attributes:
        size: The side of the centre square that is kept, or with `whole` the shorter side of all of it; None:
            pictures keep their own size.
        encoding: Of ENCODINGS.
        quality: Of JPEGs. With `unchanged`, JPEGs that have the right size already stay as they are.
        codec: What decodes and encodes, "simplejpeg" or "pillow".
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
        """Make the recipe of which dataclasses.asdict() returned `values`."""
        return cls(**{**values, "preprocessing": Preprocessing(**values["preprocessing"])})

    def apply(self, content: Content) -> Picture:
        """Process one picture.

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
            BrokenImage: The image cannot be decoded.
        """
        height, width = pixels.shape[:2]
        if self.encoding == "raw":
            return Picture(pixels.tobytes(), height, width)
        if self.unchanged and isinstance(content, bytes) and self._stays(content, width, height):
            return Picture(content, height, width)
        return Picture(_encode(pixels, self.quality, self.codec), height, width)

    def _stays(self, content: bytes, width: int, height: int) -> bool:
        """Return True if a file is a JPEG whose pixels already are as they shall be stored."""
        if not content.startswith(b"\xff\xd8\xff"):
            return False
        # Readers of the shards need not heed EXIF data, so what it turns is encoded anew.
        turned = self.preprocessing.orientation == "exif" and orientation(content) != UPRIGHT
        return not turned and image_sides(content, self.preprocessing) == (width, height)


def _encode(pixels: Pixels, quality: int, codec: str) -> bytes:
    """Encode a JPEG with colours at half the resolution (4:2:0), or a grey one.

    Raises:
        BrokenImage: The image cannot be decoded.
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
    """The findings of a sample of training pictures.

    count: how many were looked at. smallest, largest: (width, height). bytes: how many a picture takes, by
    encoding, on average.
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
    """Look at a few pictures and choose what is not given.

    Args:
        dataset: The pictures to prepare.
        whole: Whether the shorter side becomes `size` and nothing is cut off.
        quality: Of JPEGs; None: 90, and JPEGs of the right size stay unchanged.
        codec: "simplejpeg" or "pillow"; None chooses.
        size: None: arrays keep their own; pictures are brought to 256, or stay if all that are looked at are
            of one smaller size.
        raw: False: arrays are nevertheless stored so, but where a quality is given.

    Raises:
        DataError: The data cannot be used.
        ValueError: For the other arguments.
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
    if dataset.preprocessing is not None:  # shards, whose pictures are what they are
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
    """Read some pictures, spread over the split, whose headers are sound."""
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
    """Describe a source and the shards that will be made of it, in a few lines."""
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
