"""A data folder opened for training: splits of images of one size.

:mod:`cconvnet.data.datasets` recognises the kind of data in a folder. Anything missing or wrong in it raises
a DataError that names the file and the remedy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cconvnet.checks import whole
from cconvnet.data import datasets
from cconvnet.data.account import Account
from cconvnet.data.byte_ranges import ByteRanges
from cconvnet.data.datasets import Dataset, Pictures, Where
from cconvnet.data.fingerprint import fingerprints
from cconvnet.data.images import DECODERS, BrokenImage, default_decoder, describe_decoder, read_image
from cconvnet.data.label_images import has_pixels, in_files
from cconvnet.data.preprocessing import CURRENT, Preprocessing
from cconvnet.data.shards.reader import RawSplit
from cconvnet.data.splits import MemorySplit, PictureSplit, Progress, Split, StoredSplit
from cconvnet.data.workers import Decoding
from cconvnet.errors import DataError
from cconvnet.system import memory

Canvas = Callable[[tuple[int, int]], tuple[int, int]]


@dataclass(frozen=True)
class Skipped:
    """An image that is left out, because it is broken or has no label."""

    split: str
    file: str
    reason: str


@dataclass(frozen=True)
class Source:
    """Labelled images for training and testing.

    `classes` names the labels 0, 1, ... Images are uint8 of `image_shape` (H,W,C). `notes` are facts that a
    reader of results should know: how a split was made, what decoded the pictures, what was ignored. Without
    separate test images, `test` is `train`. `titles` are the classes' names in words, if the data has them.

    If pictures are decoded, `folder` is their folder, `ranges` are the byte ranges of `train`, and `decoder`
    is the decoder in use. `mean` float32[H,W,C] and `colors` float32[C,C] are the mean image and
    color_components(). They are set if the data's files contain them for images of this size. Training then
    uses them instead of computing them from `train`.

    `preprocessing` contains the rules by which pictures are read. `left_out` lists pictures that are in no
    split, such as one without a label. `account` counts everything found, and lists what is not used.
    `dataset` is everything that was found.
    """

    name: str
    classes: list[str]
    train: Split
    test: Split
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None
    decoder: str = ""
    mean: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    colors: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    titles: list[str] | None = None
    ranges: ByteRanges | None = field(default=None, compare=False)
    preprocessing: Preprocessing = CURRENT
    left_out: list[Skipped] = field(default_factory=list)
    account: Account | None = field(default=None, compare=False)
    dataset: Dataset | None = field(default=None, compare=False, repr=False)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprints of each split; see cconvnet.data.fingerprint."""
        return {} if self.dataset is None else fingerprints(self.dataset)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of every image."""
        return self.train.image_shape

    def unreadable(self) -> list[Skipped]:
        """Return the pictures found to be unreadable so far."""
        return self.report()[len(self.left_out) :]

    def report(self) -> list[Skipped]:
        """Return everything that is left out so far; more may follow while pictures are decoded."""
        splits = [self.train] if self.test is self.train else [self.train, self.test]
        return self.left_out + [
            Skipped(split.name, split.file(index), split.skipped[index])
            for split in splits
            for index in sorted(split.skipped)
        ]


def open_source(
    data: Where = None,
    size: int | None = None,
    *,
    cache_bytes: int = 2**30,
    workers: int | None = None,
    decoder: str | None = None,
    preprocessing: Preprocessing = CURRENT,
    progress: Progress | None = None,
    scan: Progress | None = None,
    canvas: Canvas | None = None,
) -> Source:
    """Open `data` as a source of training and test images.

    None is the embedded default. So is "digits", unless there is a folder of that name.

    Args:
        data: The folder, a file of arrays (.npz), arrays in memory, None or "digits".
        size: The stored images' side. The shorter side is resized to it, and the centre square is kept.
            Pictures with label images are not resized, but placed in the middle of a square of this side.
            None keeps the files' own size, which must then be the same for all.
        cache_bytes: The limit of memory for decoded pictures. If all of them fit, they are decoded once,
            here; otherwise they are decoded whenever they are read. The images and batches are the same
            either way.
        workers: The number of decoding processes; None chooses, 0 starts none.
        decoder: One of DECODERS for JPEGs; None takes simplejpeg if it is installed, else pillow.
        preprocessing: The rules by which picture files are read, such as those that a run recorded. Shards
            keep the orientation with which they were made. The result's rules contain it, and a note reports
            a difference.
        progress: Called with the number of images decoded and their number in all.
        scan: Called with the number of archives or folders searched and their number in all.
        canvas: Returns the height and width on which pictures with label images are placed, instead of
            `size`, for those of a canvas on which all test pictures fit.

    Raises:
        DataError: The data is missing, damaged or in no known layout, or too many images are broken.
        ValueError: Another argument is out of range.
    """
    if size is not None:
        whole("size", size, 1)
    if decoder not in (None, *DECODERS):
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, not {decoder!r}")
    if workers is not None:
        whole("workers", workers, 0)
    dataset = datasets.open_dataset(data, scan)
    size = dataset.size if size is None else size
    if dataset.train.ranges is None:
        return _of_arrays(dataset, size, preprocessing)
    chosen = decoder or default_decoder()
    sides = None
    if canvas is not None and (files := in_files((dataset.test or dataset.train).labels)) is not None:
        sides = canvas(dataclasses.replace(files, preprocessing=preprocessing).largest())
    return _of_pictures(dataset, size, cache_bytes, workers, chosen, preprocessing, progress, sides)


def _of_arrays(dataset: Dataset, size: int | None, preprocessing: Preprocessing) -> Source:
    def split(name: str, pictures: Pictures) -> Split:
        assert pictures.pixels is not None
        # Label images are not resized, so that their images keep their size.
        own = None if has_pixels(pictures.labels) else size
        return MemorySplit(name, pictures.pixels, pictures.labels, own, pictures.names)

    train = split("train", dataset.train)
    test = split("test", dataset.test) if dataset.test is not None else train
    return _source(dataset, train, test, preprocessing)


def _of_pictures(
    dataset: Dataset,
    size: int | None,
    cache_bytes: int,
    workers: int | None,
    decoder: str,
    preprocessing: Preprocessing,
    progress: Progress | None,
    sides: tuple[int, int] | None,
) -> Source:
    parts = dataset.splits
    program, notes = "", []
    asked = preprocessing
    if dataset.preprocessing is not None:
        preprocessing = dataclasses.replace(asked, orientation=dataset.preprocessing.orientation)
    notes += _orientation_notes(dataset, asked, preprocessing)
    if dataset.train.raw is None:
        program = describe_decoder(decoder)
        notes.append(f"pictures decoded by {program}")
        if sides is not None:
            shape, size = (*sides, 3), max(sides)
        elif size is not None:
            shape = size, size, 3
        else:
            shape = _first_shape(dataset.train, decoder, preprocessing)
        placed = in_files(dataset.train.labels) is not None
        decoding = Decoding(size, shape, decoder, preprocessing, placed)
        notes += _placed_notes(dataset, shape, preprocessing) if placed else []

    def stored(name: str, pictures: Pictures) -> StoredSplit:
        assert pictures.ranges is not None
        where = name, pictures.names, pictures.ranges
        if pictures.raw is not None:
            return RawSplit(*where, pictures.raw, pictures.labels, size)
        files = in_files(pictures.labels)
        labels = pictures.labels if files is None else files.on(decoding.shape[:2], preprocessing)
        return PictureSplit(*where, labels, decoding)

    found = {name: stored(name, pictures) for name, pictures in parts.items()}
    splits: dict[str, Split] = {}
    in_all = sum(map(len, parts.values()))
    free = memory.host()
    if free is not None:
        cache_bytes = min(cache_bytes, free.fast // 2)
    in_memory = in_all * math.prod(found["train"].image_shape) <= cache_bytes
    done = 0
    for name, pictures in parts.items():
        splits[name] = split = found[name]
        split.left_out = len(pictures.left_out)
        if in_memory:
            splits[name] = split.into_memory(workers, _offset(progress, done, in_all))
            done += len(split)
    if program and not in_memory:
        notes.append("pictures are decoded whenever they are read")
    train = splits["train"]
    return _source(dataset, train, splits.get("test", train), preprocessing, notes, program)


def _orientation_notes(dataset: Dataset, asked: Preprocessing, found: Preprocessing) -> list[str]:
    """Return notes if pictures are not turned upright, or are turned otherwise than requested."""
    if found.orientation == "stored" and dataset.preprocessing is not None:
        return [
            "these shards were made before pictures were turned upright by their EXIF data; shards that "
            "are made anew are upright"
        ]
    if found.orientation == "stored":
        return ["pictures are not turned upright by their EXIF data: the run was begun without that"]
    if asked.orientation == "stored":
        return ["these shards contain upright pictures; the run was begun with pictures as they are stored"]
    return []


def _placed_notes(dataset: Dataset, shape: tuple[int, int, int], rules: Preprocessing) -> list[str]:
    """Return notes on pictures with label images that are larger or smaller than the canvas."""
    notes = []
    for name, pictures in dataset.splits.items():
        labels = in_files(pictures.labels)
        assert labels is not None
        if note := dataclasses.replace(labels, preprocessing=rules).size_note(shape[:2]):
            notes.append(f"{name}: {note}")
    return notes


def _source(
    dataset: Dataset,
    train: Split,
    test: Split,
    preprocessing: Preprocessing,
    notes: list[str] | None = None,
    decoder: str = "",
) -> Source:
    notes = [*dataset.notes, *(notes or [])]
    # The mean of the files applies only to images of their size.
    fitting = dataset.mean is not None and dataset.mean.shape == train.image_shape
    if fitting and dataset.mean_file:
        notes.append(f"the mean image is {dataset.mean_file}")
    left_out = [
        Skipped(name, *left) for name, pictures in dataset.splits.items() for left in pictures.left_out
    ]
    return Source(
        dataset.name,
        dataset.classes,
        train,
        test,
        notes,
        dataset.folder,
        decoder,
        mean=dataset.mean if fitting else None,
        colors=dataset.colors if fitting else None,
        titles=dataset.titles,
        ranges=dataset.train.ranges,
        preprocessing=preprocessing,
        left_out=left_out,
        account=dataset.account(),
        dataset=dataset,
    )


def _first_shape(pictures: Pictures, decoder: str, preprocessing: Preprocessing) -> tuple[int, int, int]:
    """Return the shape of the first picture that is not broken."""
    assert pictures.ranges is not None
    for index, name in enumerate(pictures.names):
        (stored,) = pictures.ranges.select(np.array([index]))
        try:
            height, width, channels = read_image(
                stored, None, None, decoder, preprocessing=preprocessing
            ).shape
            return height, width, channels
        except BrokenImage:
            continue
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}") from error
    raise DataError(f"not one picture can be decoded; the first is {pictures.names[0]}")


def _offset(progress: Progress | None, before: int, in_all: int) -> Progress | None:
    if progress is None:
        return None
    report = progress
    return lambda done, _: report(before + done, in_all)
