"""Datasets before anything is decoded: names, labels and byte ranges of pictures, or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cconvnet.data.account import Account, SplitAccount, Unused
from cconvnet.data.byte_ranges import ByteRanges, RawShapes
from cconvnet.data.images import Content, Pixels, read_bytes, read_raw
from cconvnet.data.preprocessing import Preprocessing
from cconvnet.errors import DataError

Labels = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]


class LeftOut(NamedTuple):
    """A picture that cannot be used, for a reason other than its pixels."""

    name: str
    reason: str


@dataclass(frozen=True)
class Pictures:
    """One split of a dataset, n pictures in a fixed order.

    Attributes:
        names: The unique names that messages and reports use.
        labels: int32[n], from 0 to classes - 1; or label images, of arrays uint8[n,H,W] or of LabelFiles.
        ranges: The byte ranges of encoded pictures; None for arrays.
        pixels: The images as uint8[n,H,W,C], with C of 1 or 3; None for encoded pictures.
        raw: The shapes of pictures whose bytes are raw pixels, or None.
        left_out: Pictures that are not among the n, such as those without a label. Too many are an error.
        ignored: Other files in the same folders, such as hidden ones, named relative to the data folder.
    """

    names: Sequence[str]
    labels: Labels
    ranges: ByteRanges | None = None
    pixels: Pixels | None = None
    raw: RawShapes | None = None
    left_out: Sequence[LeftOut] = ()
    ignored: Unused = field(default_factory=Unused)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """The channels of arrays and of raw pixels; 3 for encoded pictures."""
        if self.pixels is not None:
            return int(self.pixels.shape[3])
        return 3 if self.raw is None else self.raw.channels

    def content(self, number: int) -> Content:
        """Read one picture as its source stores it.

        Raises:
            BrokenImage: The bytes are missing, or they have changed.
            OSError: The file cannot be read.
        """
        if self.ranges is None:
            assert self.pixels is not None
            one: Pixels = self.pixels[number]
            return one
        (stored,) = self.ranges.select(np.array([number]))
        raw = self.raw
        if raw is None:
            return read_bytes(stored)
        pixels = np.empty((raw.height[number], raw.width[number], raw.channels), np.uint8)
        read_raw(stored, pixels)
        return pixels


@dataclass(frozen=True)
class Dataset:
    """The contents of a data folder, before anything is decoded.

    Attributes:
        kind: "pictures", "label images", "imagenet tars", "webdataset", "shards", "mnist", "cifar10",
            "batches", "digits".
        name: The name in results.
        classes: The labels' names; for ImageNet, the WordNet ids. `titles` are the same in words, where there
            are any.
        train: The training pictures.
        test: The test pictures. None if there are none; then the training pictures are also used for testing.
        notes: Facts about the data that a reader of results should know.
        mean: The mean image, float32[H,W,C], if the data's files contain it. It and `colors`, float32[C,C],
            apply to pictures at their stored size. `mean_file` names the file that they come from.
        folder: The folder of encoded pictures, in which statistics may be saved.
        size: The side that pictures are resized to by default; None keeps their own size.
        preprocessing: The rules by which prepared pictures were read; None for pictures that are not
            prepared.
        beside: Files and folders in the data folder that belong to no split.
        source_account: Account.as_json() of the data that shards were made of.
        form: The form in which shards store the pictures; "" for original pictures.
        fingerprints: The fingerprints of the data that shards were made of, for each split. See
            cconvnet.data.fingerprint.
    """

    kind: str
    name: str
    classes: list[str]
    train: Pictures
    test: Pictures | None
    notes: list[str] = field(default_factory=list)
    titles: list[str] | None = None
    mean: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    colors: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    mean_file: str = ""
    folder: Path | None = None
    size: int | None = None
    preprocessing: Preprocessing | None = None
    beside: Unused = field(default_factory=Unused)
    source_account: dict[str, Any] = field(default_factory=dict)
    form: str = ""
    fingerprints: dict[str, str] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Pictures]:
        """The splits that exist, of "train" and "test"."""
        return {"train": self.train} | ({"test": self.test} if self.test is not None else {})

    def account(self) -> Account:
        """Count the pictures and the files that are not used."""
        root = "" if self.folder is None else f"{self.folder}/"
        splits = {}
        for name, pictures in self.splits.items():
            unused = Unused((left.name.removeprefix(root), left.reason) for left in pictures.left_out)
            unused.update(pictures.ignored)
            splits[name] = SplitAccount(len(pictures), unused)
        return Account(self.kind, self.name, len(self.classes), splits, self.beside, self.source_account)


def of_arrays(called: str, images: Pixels, labels: Labels) -> Pictures:
    """Make pictures of arrays images[n,H,W,C], named "`called` image 0" and so on."""
    return Pictures([f"{called} image {number}" for number in range(len(labels))], labels, pixels=images)


def joined(parts: Sequence[Pictures]) -> Pictures:
    """Join the arrays of several files, in that order."""
    return Pictures(
        [name for part in parts for name in part.names],
        np.concatenate([part.labels for part in parts]),
        pixels=np.concatenate([part.pixels for part in parts if part.pixels is not None]),
    )


def every_fifth(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """Split arrays in a fixed way: every fifth image of each class, from the fifth on, is for testing."""
    is_test = np.zeros(len(pictures), bool)
    for label in np.unique(pictures.labels):
        is_test[np.flatnonzero(pictures.labels == label)[4::5]] = True
    if not is_test.any():
        raise DataError(f"{len(pictures)} images are too few to split into training and test images")

    def part(chosen: npt.NDArray[np.bool_]) -> Pictures:
        assert pictures.pixels is not None
        names = [pictures.names[index] for index in np.flatnonzero(chosen).tolist()]
        return Pictures(names, pictures.labels[chosen], pixels=pictures.pixels[chosen])

    return part(~is_test), part(is_test)
