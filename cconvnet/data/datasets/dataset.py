"""What was found: an Origin, and what the kinds of data have in common."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cconvnet.data.account import Unused
from cconvnet.data.byte_ranges import Extents, Raw
from cconvnet.data.images import Pixels
from cconvnet.data.preprocessing import Preprocessing
from cconvnet.errors import DataError

Labels = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

# Of statistics that are kept beside the pictures.
OWN_FILES = ".cconvnet-"

LAYOUTS = """a data folder is one of
  train/CLASS/*.jpg and test/CLASS/*.jpg (or val, valid, validation), or only CLASS/*.jpg; .jpeg and .png too,
    also in subfolders of CLASS
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
# Pictures too, which are not read.
OTHER_PICTURES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpx", ".jxl"),
    *(".pbm", ".pgm", ".ppm", ".svg", ".tga", ".tif", ".tiff", ".webp"),
)

HIDDEN = "hidden"
NO_TARGET = "a link to nothing, or no file"
OUTSIDE = "outside of any class folder"
OTHER_FOLDER, OTHER_FILE = "another folder", "not a picture"
READ_ALREADY = "a link back, or to a folder that is read already"


def is_picture(name: str) -> bool:
    """Whether a file of this name ought to be a picture. Hidden ones are none: macOS puts a ._NAME.jpg beside
    each NAME.jpg on other systems' disks and into tars."""
    return name.lower().endswith(PICTURES) and not name.rpartition("/")[2].startswith(".")


def why_unused(name: str) -> str:
    """The reason why a file of this name is no picture that is used."""
    base = name.rpartition("/")[2]
    if base.startswith("."):
        return HIDDEN
    if is_picture(base):
        return OUTSIDE
    suffix = os.path.splitext(base)[1].lower()  # noqa: PTH122 - a Path takes as long as the call
    return f"of a kind that is not read, {suffix}" if suffix in OTHER_PICTURES else OTHER_FILE


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC), in which names are compared.

    The same name may come in another form from another system: macOS writes an accent apart from its letter.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


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
    left_out: what is not among the n, such as a picture without a label. Too many of them are an error.
    ignored: other files that lie among them, such as hidden ones. Names are taken from the data's folder on.
    """

    names: Sequence[str]
    labels: Labels
    extents: Extents | None = None
    pixels: Pixels | None = None
    raw: Raw | None = None
    left_out: Sequence[LeftOut] = ()
    ignored: Unused = field(default_factory=Unused)

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
    beside: files and folders in the data's folder that belong to no split.
    source_account: Account.as_json() of the data that shards were made of.
    form: how shards keep the pictures; "" for pictures as they came.
    fingerprints: those of the data that shards were made of, for each split; see cconvnet.data.fingerprint.
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


FOLDER, FILE, NOTHING = "folder", "file", "nothing"


def kind_of(entry: os.DirEntry[str]) -> str:
    """FOLDER or FILE, links followed; NOTHING for links to nothing or to themselves, devices and pipes."""
    try:
        if entry.is_dir():
            return FOLDER
        return FILE if entry.is_file() else NOTHING
    except OSError:  # ELOOP, or a folder on the way that may not be entered
        return NOTHING


def beside(root: Path, used: set[str]) -> Unused:
    """The contents of a folder apart from the entries of these names. Errors: DataError."""
    unused = Unused()
    for entry in entries(root):
        if entry.name in used or entry.name.startswith(OWN_FILES):
            continue
        kind = kind_of(entry)
        reason = NO_TARGET if kind == NOTHING else OTHER_FOLDER if kind == FOLDER else why_unused(entry.name)
        hidden = entry.name.startswith(".")
        unused.add(printable(entry.name), HIDDEN if hidden else reason)
    return unused


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
