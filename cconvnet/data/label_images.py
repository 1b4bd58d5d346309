"""Label images: a label for each pixel of an image, cropped and mirrored with it.

Label images in files are PNGs of one channel, whose values are labels: 8-bit grey, or a palette's indices as
in Pascal VOC. :class:`LabelFiles` stands for all those of a split, and decodes them when they are needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from cconvnet.data.byte_ranges import ByteRange, ByteRanges
from cconvnet.data.images import BrokenImage, decode_labels, image_sides, read_bytes
from cconvnet.data.preprocessing import CURRENT, Preprocessing
from cconvnet.errors import DataError

Array = npt.NDArray[Any]
Sides = tuple[int, int]  # height, width

IGNORED = 255  # the label of pixels that count for nothing, as in Pascal VOC
# The colour of an image's canvas: the mean of ImageNet's pixels, which networks subtract from it.
CANVAS = (124, 116, 104)

_THREADS = 4
_LOOKED_AT = 256  # pictures whose headers are read for a note


def has_pixels(labels: npt.NDArray[Any]) -> bool:
    """Return True if labels [n,H,W] are those of pixels, False if labels [n] are those of images."""
    return labels.ndim == 3


def refuse_pixels(labels: npt.NDArray[Any], what: str) -> None:
    """Refuse labels of pixels where only labels of images have a meaning.

    Raises:
        DataError: They are labels of pixels; the text begins with `what`.
    """
    if has_pixels(labels):
        raise DataError(f"{what} needs one label for each image, and the data has one for each pixel")


# ---- places ----------------------------------------------------------------------------------------------


def paste(own: Array, out: Array, at: tuple[int, int], fill: Any) -> None:
    """Write a part of an array to another one.

    Args:
        own: The array [H,W] or [H,W,C].
        out: The result [h,w] or [h,w,C].
        at: The row and the column of `own` that come first, below 0 where `out` begins outside of it.
        fill: The value of `out` outside of `own`.
    """
    (y, x), (rows, columns) = at, own.shape[:2]
    inside = own[max(y, 0) : min(y + out.shape[0], rows), max(x, 0) : min(x + out.shape[1], columns)]
    first, begin = max(-y, 0), max(-x, 0)
    out[...] = fill
    out[first : first + inside.shape[0], begin : begin + inside.shape[1]] = inside


def centre(own: Sides, canvas: Sides) -> tuple[int, int]:
    """Return the first row and column of an image of sides `own` on a canvas, for :func:`paste`.

    A larger image loses its border, and a smaller one is in the middle.
    """
    return (own[0] - canvas[0]) // 2, (own[1] - canvas[1]) // 2


def cropped(
    labels: npt.NDArray[Any],
    crop: tuple[int, int],
    top: npt.NDArray[np.int32],
    left: npt.NDArray[np.int32],
    mirror: npt.NDArray[np.uint8],
) -> npt.NDArray[np.int32]:
    """Return the labels int32[n, *crop] of crops as the input kernel makes them.

    Args:
        labels: label images [n,H,W].
        crop: the height and width of the crops.
        top: int32[n], their first rows, below 0 where they begin above the image; there labels are ignored.
        left: int32[n], their first columns, likewise.
        mirror: uint8[n], whether each crop is mirrored.
    """
    found = np.empty((len(labels), *crop), np.int32)
    for target, own, y, x, turned in zip(
        found, labels, top.tolist(), left.tolist(), mirror.tolist(), strict=True
    ):
        paste(own, target, (y, x), IGNORED)
        if turned:
            target[:] = target[:, ::-1].copy()
    return found


# ---- files -----------------------------------------------------------------------------------------------


def palette() -> npt.NDArray[np.uint8]:
    """Return the colours uint8[256,3] in which Pascal VOC shows labels: 0 is black, IGNORED is pale."""
    label, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):  # three bits of a label at a time are the next lower bit of red, green and blue
        for channel in range(3):
            colours[:, channel] |= ((label >> channel & 1) << 7 - bit).astype(np.uint8)
        label = label >> 3
    return colours


@dataclasses.dataclass(frozen=True)
class LabelFiles:
    """The label images of a split, in files, which are read like an array uint8[n,H,W].

    Attributes:
        files: The files, PNGs.
        pictures: The file of the picture of each.
        classes: The number of classes; other labels than 0 to classes - 1 and IGNORED are errors.
        sides: Height and width of the canvas, in whose middle each is placed; None: each has its own size.
        preprocessing: The rules by which pictures are read, which may turn them.
    """

    files: Sequence[str]
    pictures: Sequence[str]
    classes: int
    sides: Sides | None = None
    preprocessing: Preprocessing = CURRENT

    ndim = 3

    def __len__(self) -> int:
        return len(self.files)

    def on(self, sides: Sides, preprocessing: Preprocessing) -> npt.NDArray[Any]:
        """Return the same label images on a canvas."""
        return dataclasses.replace(self, sides=sides, preprocessing=preprocessing).as_array()

    def as_array(self) -> npt.NDArray[Any]:
        """Return itself under the type of other labels; only what is named here works."""
        return cast(npt.NDArray[Any], self)

    @property
    def ranges(self) -> ByteRanges:
        """The files as byte ranges."""
        return ByteRanges.whole(self.files)

    def __getitem__(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the label images uint8[n, *sides] with these numbers.

        Raises:
            DataError: One cannot be used; the text names its file.
        """
        assert self.sides is not None
        sides = self.sides
        found = np.empty((len(numbers), *sides), np.uint8)

        def place(target: Array, number: int) -> None:
            own = self.own(number)
            paste(own, target, centre((own.shape[0], own.shape[1]), sides), IGNORED)

        if len(numbers) < 2:
            for target, number in zip(found, numbers.tolist(), strict=True):
                place(target, number)
            return found
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="cconvnet-labels") as threads:
            list(threads.map(place, found, numbers.tolist()))
        return found

    def own(self, number: int) -> npt.NDArray[np.uint8]:
        """Return one label image uint8[H,W] of the size of its picture.

        Raises:
            DataError: It is unreadable, has a label beyond the classes, or another size than its picture.
        """
        file = self.files[number]
        labels = read_labels(file)
        beyond = labels[(labels >= self.classes) & (labels != IGNORED)]
        if len(beyond):
            raise DataError(
                f"{file} has the label {beyond.max()}, beyond the {self.classes} classes from 0 to "
                f"{self.classes - 1}; {IGNORED} is ignored"
            )
        try:
            width, height = image_sides(_content(self.pictures[number]), self.preprocessing)
        except BrokenImage:
            return labels  # the picture will be skipped and counted
        if labels.shape != (height, width):
            raise DataError(
                f"{file} has {labels.shape[0]}x{labels.shape[1]} pixels (height x width), its picture "
                f"{self.pictures[number]} {height}x{width}"
            )
        return labels

    def counts(self, progress: Callable[[int, int], None] | None = None) -> npt.NDArray[np.int64]:
        """Return the number of pixels of each label, int64[256]; every file is read and checked.

        Args:
            progress: Called with the number of files read and in all.

        Raises:
            DataError: A label image cannot be used; the text names its file.
        """
        total = np.zeros(256, np.int64)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="cconvnet-labels") as threads:
            for done, labels in enumerate(threads.map(self.own, range(len(self))), 1):
                total += np.bincount(labels.ravel(), minlength=256)
                if progress is not None:
                    progress(done, len(self))
        return total

    def largest(self) -> Sides:
        """Return the height and width of a canvas for all pictures.

        Raises:
            DataError: A file cannot be read.
        """
        height = width = 1
        for picture in self.pictures:
            try:
                own = image_sides(_content(picture), self.preprocessing)
            except BrokenImage:
                continue
            height, width = max(height, own[1]), max(width, own[0])
        return height, width

    def size_note(self, sides: Sides) -> str:
        """Return a note on pictures that are larger or smaller than the canvas; empty if none is.

        Raises:
            DataError: A file cannot be read.
        """
        chosen = np.unique(np.linspace(0, len(self) - 1, min(_LOOKED_AT, len(self))).astype(np.int64))
        larger = smaller = 0
        for number in chosen.tolist():
            try:
                width, height = image_sides(_content(self.pictures[number]), self.preprocessing)
            except BrokenImage:
                continue
            larger += height > sides[0] or width > sides[1]
            smaller += height < sides[0] or width < sides[1]
        of = f"of {len(chosen):,} pictures" + (" looked at" if len(chosen) < len(self) else "")
        parts = [f"{larger:,} are larger and lose their borders"] if larger else []
        parts += [f"{smaller:,} are smaller and are padded, ignored there"] if smaller else []
        canvas = f"pictures are not resized, but placed on {sides[0]}x{sides[1]} pixels"
        return f"{canvas}: {of} {' and '.join(parts)}" if parts else ""


def in_files(labels: Any) -> LabelFiles | None:
    """Return labels that are label images in files, None if they are others."""
    return labels if isinstance(labels, LabelFiles) else None


def label_image(labels: npt.NDArray[Any], number: int) -> npt.NDArray[np.uint8]:
    """Return one label image uint8[H,W] of its own size.

    Raises:
        DataError: It cannot be used; the text names its file.
    """
    files = in_files(labels)
    return labels[number] if files is None else files.own(number)


def read_labels(file: str | Path) -> npt.NDArray[np.uint8]:
    """Read a label image uint8[H,W].

    Raises:
        DataError: It cannot be read, or is no PNG of one channel of at most 8 bits; the text names it.
    """
    try:
        return decode_labels(_content(file))
    except BrokenImage as error:
        raise DataError(f"{file} is no label image: {error}") from error
    except MemoryError as error:
        raise DataError(f"there is not enough memory to decode {file}") from error


def _content(file: str | Path) -> bytes:
    """Read a file.

    Raises:
        BrokenImage: It is empty or too long.
        DataError: It cannot be read.
    """
    try:
        return read_bytes(ByteRange(str(file)))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
