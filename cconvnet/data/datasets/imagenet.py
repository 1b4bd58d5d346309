"""ImageNet of ILSVRC-2012 in its original tars, read in place without unpacking.

ILSVRC2012_img_train.tar contains a tar for each class, named by its WordNet id. ILSVRC2012_img_val.tar
contains 50,000 files. The devkit numbers the classes in its own order. It lists the class of each of these
files, in the order of their names. Labels are the positions of the WordNet ids in sorted order, as for all
other kinds of data.

Source: the devkit's readme.txt. Caffe's data/ilsvrc12 has the same labels in two text files. Each line of
synset_words.txt contains a WordNet id and words. Each line of val.txt contains a file and the number of one
of those lines, from 0.
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from cconvnet.data.account import Unused
from cconvnet.data.dataset import Dataset, LeftOut, Pictures
from cconvnet.data.datasets import tars
from cconvnet.data.listing import HIDDEN, beside, is_picture, lines, why_unused
from cconvnet.data.names import listed
from cconvnet.data.splits import Progress
from cconvnet.errors import DataError
from cconvnet.formats import matlab

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
WORDS, LABELS = "synset_words.txt", "val.txt"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
# The limit of the unpacked devkit. The true one has 2.5 MB packed.
MAX_DEVKIT = 64 * 2**20

_CLASS_TAR = re.compile(r"(n\d{8})\.tar")
_WORDNET_ID = re.compile(r"n\d{8}")


class _Class(NamedTuple):
    files: list[str]
    places: tars.Places
    left_out: list[LeftOut]
    ignored: Unused


class _Key(NamedTuple):
    """The labels of the validation pictures and the words of the classes.

    Attributes:
        words: The words of each WordNet id.
        labels: The WordNet id of each picture, by its name or else in the order of the names.
        file: The file that contains the labels.
    """

    words: dict[str, str]
    labels: dict[str, str] | list[str]
    file: Path


def matches(root: Path, names: set[str]) -> bool:
    """Return True if a folder with these entries has one of the tars."""
    return TRAIN in names or VAL in names


def open_dataset(root: Path, progress: Progress | None = None) -> Dataset:
    """Find the pictures in the tars.

    `progress` is called with the number of classes found so far and their total.

    Raises:
        DataError: A tar or the labels are missing, cannot be read or are damaged.
    """
    for name, what in ((TRAIN, "the training pictures"), (VAL, "the validation pictures")):
        if not (root / name).is_file():
            raise DataError(f"{root} lacks {name}, {what} of ILSVRC-2012; {_WHERE}")
    key = _key(root)
    classes, train = _train(root / TRAIN, progress)
    val = _val(root / VAL, key, classes)
    others = beside(root, {TRAIN, VAL, key.file.name, WORDS if key.file.name == LABELS else DEVKIT})
    titles = [key.words.get(wordnet_id, wordnet_id) for wordnet_id in classes]
    name = f"imagenet {root.name}"
    return Dataset("imagenet tars", name, classes, train, val, [], titles, folder=root, beside=others)


_WHERE = "get it from https://image-net.org/challenges/LSVRC/2012/, whole and not unpacked"


def _train(file: Path, progress: Progress | None) -> tuple[list[str], Pictures]:
    with tars.TarFile(file) as tar:
        inside: dict[str, tars.Member] = {}
        found, left_out = tars.usable(tar.members(), file.name)
        ignored = Unused()
        for name, member in found.items():
            named = _CLASS_TAR.fullmatch(PurePosixPath(name).name)
            if named is None:
                ignored.add(f"{file.name}/{name}", HIDDEN if _is_hidden(name) else "not a class's tar")
            elif named[1] in inside:
                raise DataError(f"{file} has two tars of the class {named[1]}; the second is {name}")
            else:
                inside[named[1]] = member
        if not inside:
            raise DataError(f"{file} contains no tars of classes, such as n01440764.tar")
        names = sorted(inside)

        def scan(name: str) -> _Class:
            return _scan(tar, inside[name], name)

        classes = tars.in_threads(scan, names, progress)
    empty = [name for name, pictures in zip(names, classes, strict=True) if not pictures.files]
    if empty:
        raise DataError(f"{file}: there are no pictures of {listed(empty)}")
    for pictures in classes:
        ignored.update(pictures.ignored)
    places = np.concatenate([pictures.places for pictures in classes])
    train = Pictures(
        [f"{name}/{file}" for name, found in zip(names, classes, strict=True) for file in found.files],
        np.repeat(np.arange(len(names), dtype=np.int32), [len(found.files) for found in classes]),
        tars.ranges([(file, places)]),
        left_out=[*left_out, *(left for found in classes for left in found.left_out)],
        ignored=ignored,
    )
    return names, train


def _is_hidden(name: str) -> bool:
    return PurePosixPath(name).name.startswith(".")


def _scan(tar: tars.TarFile, within: tars.Member | None, where: str) -> _Class:
    """Find the pictures in a tar, sorted by name, as they would be in a folder."""
    found, left_out = tars.usable(tar.members(within), where)
    files = sorted(name for name in found if is_picture(name))
    pictures = set(files)
    ignored = Unused((f"{where}/{name}", why_unused(name)) for name in found if name not in pictures)
    return _Class(files, tars.places([found[name] for name in files]), left_out, ignored)


def _val(file: Path, key: _Key, classes: list[str]) -> Pictures:
    with tars.TarFile(file) as tar:
        found = _scan(tar, None, file.name)
    if not found.files:
        raise DataError(f"{file} contains no pictures")
    if isinstance(key.labels, list):
        # Leaving out a picture would shift the labels of all pictures after it.
        if found.left_out:
            raise DataError(f"{file}: {found.left_out[0].name}: {found.left_out[0].reason}")
        if len(key.labels) != len(found.files):
            raise DataError(
                f"{file} contains {len(found.files):,} pictures, but {key.file} has "
                f"{len(key.labels):,} labels"
            )
        ids = key.labels
    else:
        bases = [PurePosixPath(name).name for name in found.files]
        without = [base for base in bases if base not in key.labels]
        if without:
            raise DataError(f"{key.file} has no label for {listed(without)} in {file}")
        ids = [key.labels[base] for base in bases]
    numbers = {wordnet_id: number for number, wordnet_id in enumerate(classes)}
    unknown = sorted({wordnet_id for wordnet_id in ids if wordnet_id not in numbers})
    if unknown:
        raise DataError(f"{key.file} has pictures of {listed(unknown)}, of which {TRAIN} has none")
    labels = np.array([numbers[wordnet_id] for wordnet_id in ids], np.int32)
    ranges = tars.ranges([(file, found.places)])
    names = [f"val/{name}" for name in found.files]
    return Pictures(names, labels, ranges, left_out=found.left_out, ignored=found.ignored)


# ---- labels of the validation pictures --------------------------------------------------------------------


def _key(root: Path) -> _Key:
    if (root / WORDS).is_file() and (root / LABELS).is_file():
        return _texts(root / WORDS, root / LABELS)
    if (root / DEVKIT).is_file():
        return _devkit(root / DEVKIT)
    raise DataError(
        f"{root} lacks {DEVKIT}, which names the classes and labels {VAL}; {_WHERE}. Caffe's {WORDS} and "
        f"{LABELS} will do too"
    )


def _texts(words_file: Path, labels_file: Path) -> _Key:
    words: dict[str, str] = {}
    for number, line in enumerate(lines(words_file)):
        wordnet_id, _, title = line.partition(" ")
        if not _WORDNET_ID.fullmatch(wordnet_id) or wordnet_id in words:
            raise DataError(
                f"{words_file}, line {number + 1}: {line[:60]!r} does not begin with a new WordNet id"
            )
        words[wordnet_id] = title.strip()
    ids = list(words)
    labels: dict[str, str] = {}
    for number, line in enumerate(lines(labels_file)):
        name, _, label = line.rpartition(" ")
        if not (label.isascii() and label.isdigit()) or len(label) > 6 or int(label) >= len(ids) or not name:
            raise DataError(
                f"{labels_file}, line {number + 1}: {line[:60]!r} is not a file and a number from 0 to "
                f"{len(ids) - 1:,}"
            )
        labels[PurePosixPath(name.strip()).name] = ids[int(label)]
    return _Key(words, labels, labels_file)


def _devkit(file: Path) -> _Key:
    try:
        with gzip.open(file) as stream:
            content = stream.read(MAX_DEVKIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be unpacked: {error}; download it again") from error
    if len(content) > MAX_DEVKIT:
        raise DataError(f"{file} is no devkit: unpacked it has more than {MAX_DEVKIT:,} bytes")

    def read(offset: int, length: int) -> bytes:
        return content[offset : offset + length]

    found, _ = tars.usable(tars.members(read, 0, len(content), str(file)), file.name)

    def part(end: str) -> bytes:
        member = next((member for name, member in found.items() if name.endswith(end)), None)
        if member is None:
            raise DataError(f"{file} contains no {end}")
        return read(member.offset, member.size)

    synsets = _synsets(part(META), f"{META} in {file}")
    ids = []
    for number, line in enumerate(part(TRUTH).split()):
        if not line.isdigit() or len(line) > 6 or int(line) not in synsets:
            raise DataError(f"{TRUTH} in {file}, line {number + 1}: {line[:20]!r} is no class's number")
        ids.append(synsets[int(line)][0])
    return _Key(dict(synsets.values()), ids, file)


def _synsets(content: bytes, called: str) -> dict[int, tuple[str, str]]:
    """Return WordNet id and words of each ILSVRC2012_ID, from the devkit's MATLAB table."""
    try:
        rows = matlab.table(content, "synsets", ("ILSVRC2012_ID", "WNID", "words"))
    except ValueError as error:
        raise DataError(f"{called} is not the table of classes that it should be: {error}") from error
    synsets: dict[int, tuple[str, str]] = {}
    for number, wordnet_id, words in rows:
        new = isinstance(number, float) and number.is_integer() and number not in synsets
        if not (new and isinstance(wordnet_id, str) and _WORDNET_ID.fullmatch(wordnet_id)):
            raise DataError(f"{called}: {number!r}, {str(wordnet_id)[:20]!r} is no new number and WordNet id")
        assert isinstance(number, float)
        synsets[int(number)] = (wordnet_id, words if isinstance(words, str) else wordnet_id)
    return synsets
