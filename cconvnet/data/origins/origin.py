"""What was found: an Origin, and what the kinds of data have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cconvnet.data.extents import Extents, Raw
from cconvnet.data.images import DataError, Pixels
from cconvnet.data.preprocessing import Preprocessing

Labels = npt.NDArray[np.int32]

LAYOUTS = """a data folder is one of
  train/CLASS/*.jpg and test/CLASS/*.jpg (or val, valid, validation), or only CLASS/*.jpg; .jpeg and .png too
  MNIST's files: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte,
    t10k-labels-idx1-ubyte, each perhaps with .gz
  CIFAR-10's binary version: data_batch_1.bin to data_batch_5.bin, test_batch.bin, batches.meta.txt
  cuda-convnet's or CIFAR-10's batches for Python: data_batch_1, data_batch_2, ..., batches.meta, and perhaps
    test_batch
  ILSVRC-2012's archives as they come: ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and
    ILSVRC2012_devkit_t12.tar.gz (or Caffe's synset_words.txt and val.txt)
  WebDataset tars: train/*.tar and test/*.tar (or val/*.tar), or *.tar called train..., test... or val...;
    labels are in .cls or .json, and classes.txt may name the classes
  shards that `cconvnet data prepare` made"""

PICTURES = (".jpg", ".jpeg", ".png")


def is_picture(name: str) -> bool:
    """Whether a file of this name ought to be a picture. Hidden ones are none: macOS puts a ._NAME.jpg beside
    each NAME.jpg on other systems' disks and into tars."""
    return name.lower().endswith(PICTURES) and not name.rpartition("/")[2].startswith(".")


def printable(name: str) -> str:
    """A file's name as text: what a terminal might obey, and bytes that are no text, are escaped."""
    if name.isprintable():
        return name
    return "".join(sign if sign.isprintable() else f"%{ord(sign):X}" for sign in name)


class LeftOut(NamedTuple):
    """A picture that is there but cannot be used, for another reason than its pixels."""

    name: str
    reason: str


@dataclass(frozen=True)
class Pictures:
    """One split of an origin, n pictures in a fixed order.

    names: what each is called in a message and a report; unique.
    labels: int32[n], from 0 to classes - 1.
    extents: where encoded pictures lie, or None where they are arrays already:
    pixels: uint8[n,H,W,C], C of 1 or 3.
    raw: that the extents' bytes are pixels themselves, or None.
    left_out: what is not among the n, such as a picture without a label.
    """

    names: Sequence[str]
    labels: Labels
    extents: Extents | None = None
    pixels: Pixels | None = None
    raw: Raw | None = None
    left_out: Sequence[LeftOut] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Origin:
    """What a folder or file of data holds, before anything is decoded.

    kind: "pictures", "imagenet tars", "webdataset", "shards", "mnist", "cifar10", "batches", "digits".
    name: what results call it.
    classes: the labels' names (of ImageNet the WordNet ids); titles: the same in words, where there are any.
    train, test: test is None where the data has no test pictures: those for training serve then.
    notes: what a reader of a result should know.
    mean: float32[H,W,C] and colors: float32[C,C], where the data's files hold them, of pictures of the size
        that they are stored in; mean_file says where they are from.
    folder: where encoded pictures lie; what is computed of them may be kept there.
    size: the side that pictures are brought to where none is asked for; None: none but their own.
    preprocessing: the rules by which pictures were read that are stored prepared; None: they are not.
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

    @property
    def splits(self) -> dict[str, Pictures]:
        """What there is of "train" and "test"."""
        return {"train": self.train} | ({"test": self.test} if self.test is not None else {})


def of_arrays(called: str, images: Pixels, labels: Labels) -> Pictures:
    """Pictures that are arrays already, images[n,H,W,C], named "`called` image 0" and so on."""
    return Pictures([f"{called} image {number}" for number in range(len(labels))], labels, pixels=images)


def joined(parts: Sequence[Pictures]) -> Pictures:
    """The arrays of several files as one, in that order."""
    return Pictures(
        [name for part in parts for name in part.names],
        np.concatenate([part.labels for part in parts]),
        pixels=np.concatenate([part.pixels for part in parts if part.pixels is not None]),
    )


def every_fifth(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """A fixed split of arrays: of each class every fifth, beginning with the fifth, is for testing."""
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


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name. Errors: DataError."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def lines(file: Path) -> list[str]:
    """A text's lines without space around them, up to the last that is not empty. Errors: DataError."""
    try:
        found = [line.strip() for line in file.read_text(encoding="utf-8").rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return found if any(found) else []


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of many names."""
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
