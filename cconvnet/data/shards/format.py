"""Shards: pictures that were prepared and resized once, one after another in a few large files.

A folder of shards contains:

dataset.json            the description: format, version, classes, encoding, counts, and every other file's
                        length and SHA-256. It is written last: a folder without it is unfinished.
train-00000.bin, ...    the pictures' bytes, one after another: JPEGs, or raw uint8[H,W,C]
train.npy               a RECORD for each picture: its byte range, size, label and CRC-32
train.names             the name of each picture, ended by a zero byte
mean.npy, colors.npy    statistics of the training pictures
skipped.jsonl           the broken pictures that were left out, and why

The same files exist for "test" if there are test pictures. The order is that of the source, so an epoch has
the same order too.

Nothing in the files is executed, and everything is checked. dataset.json contains its own SHA-256. The index
and the names are checked against their SHA-256 when the folder is opened. A picture is checked against its
CRC-32 whenever it is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from cconvnet.data.account import unused_of
from cconvnet.data.images import MAX_PIXELS, MAX_SIDE
from cconvnet.data.preprocessing import UNRECORDED, Preprocessing
from cconvnet.errors import DataError
from cconvnet.system.outputs import write_output

DOCUMENT = "dataset.json"
SPLITS = ("train", "test")
MEAN, COLORS, SKIPPED = "mean.npy", "colors.npy", "skipped.jsonl"
JOURNAL = ".prepare"  # the records of `data prepare`, in the same folder until it is finished
ENCODINGS = ("jpeg", "raw")

RECORD = np.dtype(
    [
        ("file", "<i4"),  # the shard's number
        ("offset", "<i8"),
        ("length", "<i4"),
        ("height", "<i4"),
        ("width", "<i4"),
        ("label", "<i4"),
        ("crc32", "<u4"),
    ]
)
Records = npt.NDArray[np.void]

# Version 2 records the preprocessing. Version 1 always used that of UNRECORDED.
_FORMAT, _VERSION = "cconvnet shards", 2
_READABLE = (1, 2)
_FILE = re.compile(r"(?:train|test)(?:-\d{5}\.bin|\.npy|\.names)|mean\.npy|colors\.npy|skipped\.jsonl")
_SHARD = re.compile(r"(?:train|test)-\d{5}\.bin")
_NO_DIGEST = "0" * 64
AGAIN = "`cconvnet data prepare` with the same source and options makes what is missing again"


def shard_name(split: str, number: int) -> str:
    """Return the name of a split's shard."""
    return f"{split}-{number:05d}.bin"


def is_file(name: str) -> bool:
    """Return True if a set of shards may contain a file of this name."""
    return _FILE.fullmatch(name) is not None


def is_shard(name: str) -> bool:
    """Return True if a name is that of a shard."""
    return _SHARD.fullmatch(name) is not None


def index_name(split: str) -> str:
    """Return the name of a split's index."""
    return f"{split}.npy"


def names_name(split: str) -> str:
    """Return the name of the file with a split's names."""
    return f"{split}.names"


def way(encoding: str, quality: int | None, unchanged: bool) -> str:
    """Describe how pictures are encoded."""
    if encoding == "raw":
        return "raw pixels"
    return f"JPEGs (resized ones of quality {quality})" if unchanged else f"JPEGs of quality {quality}"


# ---- JSON that contains its own SHA-256 -------------------------------------------------------------------


def write_document(path: Path, values: dict[str, Any]) -> None:
    """Write `values` as JSON, atomically; the last entry is the SHA-256 of all other bytes."""
    text = json.dumps({**values, "sha256": _NO_DIGEST}, indent=1) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    before, _, after = text.rpartition(_NO_DIGEST)
    write_output(path, [(before + digest + after).encode()])


def read_document(path: Path) -> dict[str, Any]:
    """Read a file that write_document() wrote.

    Raises:
        DataError: The contents have changed.
        OSError: The file cannot be read.
    """
    data = path.read_bytes()
    ending = len(data) - 64 - len('"\n}\n')
    digest = data[ending : ending + 64]
    whole = hashlib.sha256(data[: max(ending, 0)] + _NO_DIGEST.encode() + data[max(ending, 0) + 64 :])
    if digest != whole.hexdigest().encode():
        raise DataError(f"{path} is damaged or was changed: its SHA-256 differs")
    values = json.loads(data)
    assert isinstance(values, dict)
    return values


# ---- names ----------------------------------------------------------------------------------------------


class Names(Sequence[str]):
    """Many names in one block of memory, because a million strings take too much.

    A zero byte ends each name.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 0)

    @staticmethod
    def packed(names: Iterable[str]) -> bytes:
        """Return names as bytes, each ended by a zero byte."""
        return b"".join(name.replace("\0", "?").encode(errors="surrogateescape") + b"\0" for name in names)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        start = int(self._ends[at - 1]) + 1 if at else 0
        return self._data[start : self._ends[at]].decode(errors="surrogateescape")


# ---- dataset.json ----------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """The length and SHA-256 of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardSet:
    """A folder of shards, as its dataset.json describes it.

    Attributes:
        name and origin: The name and the kind of the data that the pictures come from.
        size: The side that the pictures were resized to; the shorter side if `whole`. None: they kept their
            own.
        encoding: "jpeg" or "raw". `quality` is that of JPEGs. With `unchanged`, JPEGs that already had the
            size were stored unchanged.
        encoder, decoder: The programs that encoded and decoded, with their versions.
        preprocessing: The rules by which the source's files were read.
        pictures, skipped: The number of pictures, and of broken ones that were left out, for each split.
        per_shard: The number of the source's pictures for each shard.
        source: The fingerprint of the data that the pictures come from.
        files: The length and SHA-256 of each file, by name.
        account: Account.as_json() of the data that the pictures come from; empty in older shards.
        fingerprints: The fingerprints of the same data, for each split; see cconvnet.data.fingerprint. They
            are empty in older shards.
    """

    root: Path
    name: str
    origin: str
    classes: list[str]
    titles: list[str] | None
    size: int | None
    whole: bool
    encoding: str
    quality: int | None
    unchanged: bool
    channels: int
    encoder: str
    decoder: str
    notes: list[str]
    pictures: dict[str, int]
    skipped: dict[str, int]
    per_shard: int
    source: str
    files: dict[str, File]
    preprocessing: Preprocessing = UNRECORDED
    account: dict[str, Any] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)

    def write(self) -> None:
        """Write dataset.json.

        Raises:
            OSError: The file cannot be written.
        """
        values = {name: value for name, value in vars(self).items() if name != "root"}
        values["preprocessing"] = self.preprocessing.record()
        files = {name: vars(file) for name, file in sorted(self.files.items())}
        write_document(
            self.root / DOCUMENT, {"format": _FORMAT, "version": _VERSION, **values, "files": files}
        )

    def shards(self, split: str) -> list[str]:
        """Return the names of a split's shards, in order."""
        return sorted(name for name in self.files if name.startswith(f"{split}-"))

    def describe(self) -> str:
        """Describe how the pictures are stored."""
        kind = way(self.encoding, self.quality, self.unchanged)
        part = "whole pictures, the shorter side" if self.whole else "centre squares of"
        kept = "of their own size" if self.size is None else f"{part} {self.size} pixels"
        return f"{kept}, {kind}"

    def content(self, name: str) -> bytes:
        """Read and check a file that is small enough for memory.

        Raises:
            DataError: The file cannot be read or is damaged.
        """
        path = self.root / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}; {AGAIN}") from error
        if hashlib.sha256(data).hexdigest() != self.files[name].sha256:
            raise DataError(f"{path} is damaged: its SHA-256 differs; remove it, and {AGAIN}")
        return data

    def left_out(self) -> list[dict[str, str]]:
        """Return the "split", "name" and "reason" of each picture that was left out.

        Raises:
            DataError: The file cannot be read or is damaged.
        """
        return [json.loads(line) for line in self.content(SKIPPED).splitlines()]

    def array(self, name: str) -> npt.NDArray[Any]:
        """Read the array in a checked file.

        Raises:
            DataError: The file cannot be read, is damaged or contains no array.
        """
        try:
            return np.asarray(np.load(io.BytesIO(self.content(name)), allow_pickle=False))
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{self.root / name} is no array: {error}") from error

    def names(self, split: str) -> Names:
        """Return the names of a split's pictures.

        Raises:
            DataError: The file cannot be read or is damaged, or its number of names is wrong.
        """
        names = Names(self.content(names_name(split)))
        if len(names) != self.pictures[split]:
            raise DataError(
                f"{self.root / names_name(split)} has {len(names):,} names; {DOCUMENT} lists "
                f"{self.pictures[split]:,} pictures"
            )
        return names

    def records(self, split: str) -> Records:
        """Return the index of a split, after checking that every byte range is within its shard.

        Raises:
            DataError: The index cannot be read or is damaged, or a record is impossible.
        """
        file = self.root / index_name(split)
        records = self.array(index_name(split))
        if records.dtype != RECORD or records.shape != (self.pictures[split],):
            raise DataError(
                f"{file} has the shape {records.shape} and the fields {records.dtype.names}, not "
                f"({self.pictures[split]},) and {RECORD.names}"
            )
        lengths = np.array([self.files[name].bytes for name in self.shards(split)], np.int64)
        height, width, length = (records[name].astype(np.int64) for name in ("height", "width", "length"))
        good = (records["file"] >= 0) & (records["file"] < len(lengths))
        good &= (records["label"] >= 0) & (records["label"] < len(self.classes))
        good &= (height > 0) & (width > 0) & (height * width <= MAX_PIXELS)
        good &= np.maximum(height, width) <= MAX_SIDE
        good &= (length == height * width * self.channels) if self.encoding == "raw" else length > 0
        if good.all():
            good &= (records["offset"] >= 0) & (records["offset"] + length <= lengths[records["file"]])
        if not good.all():
            at = int(np.argmin(good))
            raise DataError(f"{file}: record {at} is impossible: {records[at].tolist()}")
        return records


def read_shard_set(root: Path) -> ShardSet:
    """Read dataset.json; the other files are checked when they are used.

    Raises:
        DataError: dataset.json is missing, cannot be read, is damaged or is of a newer version.
    """
    path = root / DOCUMENT
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    if not path.is_file():
        raise DataError(
            f"{root} is unfinished: it has no {DOCUMENT}; the `cconvnet data prepare` command that began it "
            "resumes it"
        )
    try:
        _check_version(path)
        values = read_document(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{error}; remove it, and {AGAIN}") from error
    try:
        del values["format"], values["version"], values["sha256"]
        files = {name: File(**file) for name, file in values.pop("files").items()}
        preprocessing = Preprocessing.recorded(values.pop("preprocessing", None))
        shard_set = ShardSet(root=root, files=files, preprocessing=preprocessing, **values)
        wanted = {MEAN, COLORS, SKIPPED}
        for split in shard_set.pictures:
            wanted |= {index_name(split), names_name(split), *shard_set.shards(split)}
            wanted |= {shard_name(split, i) for i in range(len(shard_set.shards(split)))}
        sound = (
            isinstance(shard_set.classes, list)
            and all(isinstance(name, str) for name in (shard_set.name, *shard_set.classes, *shard_set.notes))
            and all(isinstance(text, str) for text in shard_set.fingerprints.values())
            and isinstance(shard_set.size, int | None)
            and all(
                isinstance(count, int)
                for count in (*shard_set.pictures.values(), *shard_set.skipped.values())
            )
            and all(isinstance(file.bytes, int) for file in files.values())
            and shard_set.encoding in ENCODINGS
            and shard_set.channels in (1, 3)
            and set(shard_set.pictures) <= set(SPLITS)
            and "train" in shard_set.pictures
            and all(_FILE.fullmatch(name) for name in files)
            and wanted == set(files)
        )
        list(unused_of(shard_set.account))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is not cconvnet's: {error}") from error
    if not sound:
        raise DataError(f"{path} is not cconvnet's: its entries do not fit together")
    return shard_set


def _check_version(path: Path) -> None:
    """Refuse a newer version of the format, whatever else it changed."""
    try:
        values = json.loads(path.read_bytes())
        found = values["format"], values["version"]
    except (ValueError, KeyError, TypeError):
        return  # the check of the SHA-256 will report more
    if found[0] != _FORMAT or found[1] not in _READABLE:
        raise DataError(
            f"{path} is of format {found[0]!r}, version {found[1]!r}; this cconvnet reads {_FORMAT!r}, "
            f"versions {' and '.join(map(str, _READABLE))}"
        )


def matches(names: set[str]) -> bool:
    """Return True if a folder with these entries contains shards, finished or not."""
    return JOURNAL in names or any(map(is_shard, names)) or {DOCUMENT, index_name("train")} <= names
