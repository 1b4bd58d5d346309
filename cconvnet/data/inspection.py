"""Inspection of datasets: counts, sizes, and a sheet of pictures with their classes' names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from cconvnet.data.dataset import Dataset, Pictures
from cconvnet.data.images import BrokenImage, Pixels, content_sides, decode_image
from cconvnet.data.label_images import IGNORED, has_pixels, in_files, label_image, palette
from cconvnet.data.names import listed
from cconvnet.data.preprocessing import CURRENT, Preprocessing
from cconvnet.data.splits import Progress
from cconvnet.errors import DataError

_LOOKED_AT = 256  # pictures whose headers are read

# ---- counts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inspection:
    """The counts and sizes of a dataset.

    Attributes:
        counts: The number of pictures of each class, for each split; of label images, that of pixels.
        sides: The (width, height) of a sample of pictures, spread over the data.
        unreadable: The names of sampled pictures with a damaged header, each with the reason.
        bytes: The total length of all pictures.
        ignored: Of label images, the number of pixels without a class, for each split.
    """

    dataset: Dataset
    counts: dict[str, npt.NDArray[np.int64]]
    sides: list[tuple[int, int]]
    unreadable: list[str]
    bytes: int
    ignored: dict[str, int] | None = None

    @property
    def smallest(self) -> tuple[int, int]:
        """The smallest (width, height) by area."""
        return min(self.sides, key=math.prod)

    @property
    def largest(self) -> tuple[int, int]:
        """The largest (width, height) by area."""
        return max(self.sides, key=math.prod)

    @property
    def median(self) -> tuple[int, int]:
        """The median (width, height) by area."""
        return sorted(self.sides, key=math.prod)[len(self.sides) // 2]

    def as_json(self) -> dict[str, Any]:
        """Return the inspection as JSON values."""
        dataset = self.dataset
        return {
            "kind": dataset.kind,
            "name": dataset.name,
            "notes": dataset.notes,
            "account": dataset.account().as_json(),
            "splits": {name: len(pictures) for name, pictures in dataset.splits.items()},
            **({} if self.ignored is None else {"ignored_pixels": self.ignored}),
            "bytes": self.bytes,
            "sizes": {
                "looked_at": len(self.sides),
                "broken": len(self.unreadable),
                "unreadable": self.unreadable,
                "smallest": list(self.smallest),
                "median": list(self.median),
                "largest": list(self.largest),
            },
            "classes": [
                {
                    "name": name,
                    **({"title": dataset.titles[label]} if dataset.titles else {}),
                    **{split: int(counts[label]) for split, counts in self.counts.items()},
                }
                for label, name in enumerate(dataset.classes)
            ],
        }


_ROWS = 20  # classes in the table


def lines(found: Inspection) -> list[str]:
    """Format the inspection without its table, in a few lines."""
    dataset = found.dataset
    text = []
    for split, counts in found.counts.items():
        if found.ignored is not None:
            pixels, ignored = counts.sum() + found.ignored[split], found.ignored[split]
            text.append(
                f"{split}: {len(dataset.splits[split]):,} pictures of {pixels:,} pixels, "
                f"{ignored / pixels:.2%} of them ignored"
            )
            continue
        least, most = int(np.argmin(counts)), int(np.argmax(counts))
        spread = (
            f"{counts[least]:,} of each class"
            if counts[least] == counts[most]
            else f"from {counts[least]:,} ({dataset.classes[least]}) to {counts[most]:,} "
            f"({dataset.classes[most]}) of a class"
        )
        text.append(f"{split}: {counts.sum():,} pictures, {spread}")
    shown = [f"{width}x{height}" for width, height in (found.smallest, found.median, found.largest)]
    sizes = shown[0] if len(set(shown)) == 1 else f"{shown[0]} to {shown[2]}, the median {shown[1]}"
    looked = (
        ""
        if len(found.sides) == sum(map(len, dataset.splits.values()))
        else (f" (of {len(found.sides):,} looked at)")
    )
    text.append(f"pixels: {sizes}{looked}")
    if found.unreadable:
        text.append(
            f"{len(found.unreadable):,} of those looked at are unreadable: {listed(found.unreadable, 3)}"
        )
    return [
        f"{dataset.name}: {dataset.kind}, {len(dataset.classes):,} classes, {sized(found.bytes)} of pictures",
        *dataset.notes,
        *text,
        *dataset.account().lines()[1:],
    ]


def table(found: Inspection) -> list[list[str]]:
    """Return a row for each of the first classes: name, title (if the data has titles) and counts.

    Counts of pixels have their share of those with a class.
    """
    dataset = found.dataset
    rows = []

    def shown(counts: npt.NDArray[np.int64], count: int) -> str:
        share = "" if found.ignored is None else f" ({count / max(1, counts.sum()):.2%})"
        return f"{count:,}{share}"

    for label, name in enumerate(dataset.classes[:_ROWS]):
        titles = [dataset.titles[label]] if dataset.titles else []
        rows.append([name, *titles, *(shown(counts, counts[label]) for counts in found.counts.values())])
    more = len(dataset.classes) - _ROWS
    if more > 0:
        rest = [shown(counts, counts[_ROWS:].sum()) for counts in found.counts.values()]
        rows.append([f"and {more:,} more", *([""] if dataset.titles else []), *rest])
    return rows


def sized(count: float) -> str:
    """Format a number of bytes with a unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def inspect(dataset: Dataset, progress: Progress | None = None) -> Inspection:
    """Count pictures and read the headers of a few.

    Args:
        dataset: The dataset.
        progress: Called with the number of files examined so far and their total, anew for each split.

    Raises:
        DataError: None of the sampled pictures can be read, or a label image cannot be used.
        OSError: A file cannot be read.
    """
    classes, ignored = len(dataset.classes), None
    if has_pixels(dataset.train.labels):
        pixels = {name: _pixels(pictures, progress) for name, pictures in dataset.splits.items()}
        ignored = {name: int(found[IGNORED]) for name, found in pixels.items()}
        counts = {name: found[:classes] for name, found in pixels.items()}
    else:
        counts = {
            name: np.bincount(pictures.labels, minlength=classes) for name, pictures in dataset.splits.items()
        }
    sides: list[tuple[int, int]] = []
    unreadable: list[str] = []
    for pictures in dataset.splits.values():
        each = -(-len(pictures) // (_LOOKED_AT // len(counts)))
        for number in range(0, len(pictures), each):
            try:
                sides.append(content_sides(pictures.content(number), dataset.preprocessing or CURRENT))
            except BrokenImage as error:
                unreadable.append(f"{pictures.names[number]} ({error})")
    if not sides:
        raise DataError(
            f"not one of the pictures looked at can be read; the first is {dataset.train.names[0]}"
        )
    length = sum(_bytes(pictures, progress) for pictures in dataset.splits.values())
    return Inspection(dataset, counts, sides, unreadable, length, ignored)


def _pixels(pictures: Pictures, progress: Progress | None) -> npt.NDArray[np.int64]:
    """Return the number of pixels of each label, int64[256]."""
    files = in_files(pictures.labels)
    if files is not None:
        return files.counts(progress)
    return np.bincount(pictures.labels.ravel(), minlength=256)


def _bytes(pictures: Pictures, progress: Progress | None) -> int:
    if pictures.pixels is not None:
        return pictures.pixels.nbytes
    assert pictures.ranges is not None
    return pictures.ranges.bytes(progress)


# ---- a sheet of pictures ---------------------------------------------------------------------------------

_COLUMNS, _MAX_CELLS, _MAX_OF_CLASS = 10, 100, 10
_SIDE, _GAP, _TEXT = 112, 8, 18
_BACKGROUND, _INK, _PALE = (255, 255, 255), (40, 40, 40), (225, 225, 225)


def sheet(dataset: Dataset, seed: int = 0) -> Image.Image:
    """Draw random training pictures with their classes' names, at most ten of each class.

    If there are more than 100 classes, 100 of them are shown, spread over all. Of pictures with label images
    50 are shown, each beside its labels in Pascal VOC's colours.
    """
    chance = np.random.default_rng(seed)
    rules = dataset.preprocessing or CURRENT
    if has_pixels(dataset.train.labels):
        some = chance.permutation(len(dataset.train))[: _MAX_CELLS // 2]
        return _drawn([cell for number in some.tolist() for cell in _pair(dataset.train, number, rules)])
    count = len(dataset.classes)
    each = min(max(1, _MAX_CELLS // count), _MAX_OF_CLASS)
    chosen = np.unique(np.arange(min(count, _MAX_CELLS)) * count // min(count, _MAX_CELLS))
    cells: list[_Cell] = []
    for label in chosen.tolist():
        name = dataset.titles[label].split(",")[0] if dataset.titles else dataset.classes[label]
        numbers = np.flatnonzero(dataset.train.labels == label)
        some = chance.permutation(len(numbers))[:each]
        cells += [(name, partial(_read, dataset.train, int(number), rules)) for number in numbers[some]]
    return _drawn(cells)


def _pair(pictures: Pictures, number: int, rules: Preprocessing) -> list[_Cell]:
    """Return the cells of a picture and of its label image."""
    return [
        (Path(pictures.names[number]).stem, partial(_read, pictures, number, rules)),
        ("", lambda: palette()[label_image(pictures.labels, number)]),
    ]


def _read(pictures: Pictures, number: int, rules: Preprocessing) -> Pixels:
    content = pictures.content(number)
    return decode_image(content, None, preprocessing=rules) if isinstance(content, bytes) else content


_Cell = tuple[str, Callable[[], Pixels]]  # a name, and what reads the pixels


def _drawn(cells: list[_Cell]) -> Image.Image:
    """Draw pictures in rows, each with its name; unreadable ones are grey."""
    columns = min(_COLUMNS, len(cells))
    step = _SIDE + _GAP, _SIDE + _TEXT + _GAP
    picture = Image.new(
        "RGB", (columns * step[0] + _GAP, -(-len(cells) // columns) * step[1] + _GAP), _BACKGROUND
    )
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=11)
    for place, (name, read) in enumerate(cells):
        left, top = _GAP + place % columns * step[0], _GAP + place // columns * step[1]
        try:
            cell = _fitted(read())
            picture.paste(cell, (left + (_SIDE - cell.width) // 2, top + (_SIDE - cell.height) // 2))
        except BrokenImage:
            draw.rectangle((left, top, left + _SIDE - 1, top + _SIDE - 1), fill=_PALE)
            draw.text((left + _SIDE // 2, top + _SIDE // 2), "broken", fill=_INK, font=font, anchor="mm")
        while len(name) > 1 and draw.textlength(name, font) > _SIDE:
            name = name.removesuffix("…")[:-1] + "…"
        draw.text((left + _SIDE // 2, top + _SIDE + 1), name, fill=_INK, font=font, anchor="ma")
    return picture


def _fitted(pixels: Pixels) -> Image.Image:
    """Fit a whole picture into a cell; enlarge a small one so that its pixels can be seen."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    larger = max(image.size)
    if larger <= _SIDE:
        factor = _SIDE // larger
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    sides = (max(1, round(side * _SIDE / larger)) for side in image.size)
    width, height = sides
    return image.resize((width, height), Image.Resampling.LANCZOS)
