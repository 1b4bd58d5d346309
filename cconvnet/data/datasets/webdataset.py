"""WebDataset tars: members whose names are equal up to the first dot are one sample.

The picture (.jpg, .jpeg, .png) and the label of a sample are used. The label is the whole number in .cls, or
"label", "class" or "cls" in .json. A file classes.txt, classnames.txt or labels.txt in the tars' folder names
the classes.

Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cconvnet.data.account import Unused
from cconvnet.data.dataset import Dataset, LeftOut, Pictures
from cconvnet.data.datasets import tars
from cconvnet.data.listing import FILE, OUTSIDE, PICTURES, beside, entries, kind_of, lines, why_unused
from cconvnet.data.names import composed, listed
from cconvnet.data.splits import Progress
from cconvnet.errors import DataError

COMPRESSED = {".gz": "gunzip", ".tgz": "gunzip", ".xz": "unxz", ".bz2": "bunzip2", ".zst": "unzstd --rm"}
CLASS_NAMES = ("classes.txt", "classnames.txt", "labels.txt")
NO_SAMPLE = "of no sample"
JSON_LABELS = ("label", "class", "cls")
MAX_JSON = 2**20
# Without class names, only this limit detects an impossible label.
MAX_CLASSES = 2**16

_PART = re.compile(r"(?<![a-z])(train(?:ing)?|test|val(?:id(?:ation)?)?)(?![a-z])")
_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")


class _Tar(NamedTuple):
    names: list[str]
    labels: list[int]
    places: tars.Places
    left_out: list[LeftOut]
    ignored: Unused


def matches(root: Path, names: set[str]) -> bool:
    """Return True if the folder, or its folder train, contains tars."""
    return any(_suffix(name) for name in (*names, *_names(root / "train")))


def open_dataset(root: Path, progress: Progress | None = None) -> Dataset:
    """Find the pictures in the tars.

    `progress` is called with the number of tars read so far and their total.

    Raises:
        DataError: A tar is damaged, or there are no samples or no valid labels.
    """
    notes: list[str] = []
    files = _split(root, notes)
    classes_file = next((root / name for name in CLASS_NAMES if (root / name).is_file()), None)
    classes = _class_names(classes_file) if classes_file is not None else None
    numbers = {name: number for number, name in enumerate(classes or ())}

    def scan(file: Path) -> _Tar:
        return _scan(file, file.relative_to(root).as_posix(), numbers if classes else None)

    every = [file for part in files.values() for file in part]
    found = dict(zip(every, tars.in_threads(scan, every, progress), strict=True))
    splits = {name: _pictures({file: found[file] for file in part}) for name, part in files.items()}
    for name, pictures in splits.items():
        if not len(pictures):
            why = "".join(f"; {left.name}: {left.reason}" for left in pictures.left_out[:1])
            raise DataError(f"{root} has no samples of a picture and a label for {name}ing{why}")
    if classes is None:
        classes = _numbered(root, splits)
    if "test" not in splits:
        notes.append(f"{root} has no test tars: the training pictures serve for testing too")
    name = f"webdataset {root.name}"
    folders = {file.parent for file in every if file.parent != root}
    others = beside(root, {file.relative_to(root).parts[0] for file in every} | _file_names(classes_file))
    for folder in sorted(folders):
        others.update(beside(folder, {file.name for file in every}).below(folder.name))
    return Dataset(
        "webdataset",
        name,
        classes,
        splits["train"],
        splits.get("test"),
        notes,
        folder=root,
        beside=others,
    )


def _file_names(file: Path | None) -> set[str]:
    return set() if file is None else {file.name}


def _numbered(root: Path, splits: dict[str, Pictures]) -> list[str]:
    """Return the numbers from 0 on as class names if no file names the classes.

    A gap in the numbers is an error, because it means a wrong label.
    """
    count = 1 + max(int(part.labels.max()) for part in splits.values())
    without = np.setdiff1d(np.arange(count), splits["train"].labels)
    if len(without):
        raise DataError(
            f"{root} has labels up to {count - 1:,}, but no training pictures of "
            f"{listed([*map(str, without)])}; if that is right, name all classes in {root / CLASS_NAMES[0]}"
        )
    return [str(label) for label in range(count)]


# ---- which tars -------------------------------------------------------------------------------------------


def _suffix(name: str) -> str:
    """Return the suffix of a tar, compressed or not, or "" for any other file."""
    if name.startswith("."):
        return ""
    lower = name.lower()
    if lower.endswith((".tar", ".tgz")):
        return lower[-4:]
    return next((suffix for suffix in COMPRESSED if lower.endswith(f".tar{suffix}")), "")


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in entries(folder) if kind_of(entry) == FILE] if folder.is_dir() else []


def _split(root: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Choose the tars for training and for testing, by their folders or else by their names."""
    parts: dict[str, list[Path]] = {}
    other = []
    for folder in ("train", "test", "val"):
        if inside := _tars(root / folder):
            parts[folder] = inside
    for file in _tars(root):
        words = _PART.findall(file.stem.lower())
        if words:
            name = words[-1]
            parts.setdefault(name if name == "test" else "train" if name[0] == "t" else "val", []).append(
                file
            )
        else:
            other.append(file)
    if "train" not in parts and not parts:
        return {"train": other}
    if "train" not in parts:
        raise DataError(
            f"{root} has tars for testing ({listed([file.name for file in next(iter(parts.values()))])}) but "
            "none for training: put them into folders train and test, or call them train-*.tar"
        )
    if other:
        notes.append(
            f"{root}: {listed([file.name for file in other])} not used: their names "
            "contain neither train nor test"
        )
    if "test" in parts and "val" in parts:
        notes.append(f"{root}: tars of val are not used: there are some of test")
    test = parts.get("test") or parts.get("val")
    return {"train": parts["train"]} | ({"test": test} if test else {})


def _tars(folder: Path) -> list[Path]:
    files = [folder / name for name in _names(folder) if _suffix(name)]
    for file in files:
        if (suffix := _suffix(file.name)) != ".tar":
            raise DataError(
                f"{file} is compressed, so its members cannot be read where they lie. Uncompress it with: "
                f"{COMPRESSED[suffix]} {shlex.quote(str(file))}; if it contains folders of pictures, unpack "
                f"it with: tar -xf {shlex.quote(str(file))}"
            )
    return files


def _class_names(file: Path) -> list[str]:
    names = [composed(name) for name in lines(file)]
    if not names or "" in names or len(set(names)) < len(names):
        raise DataError(f"{file} must name a class in each line, and none twice")
    return names


# ---- samples ----------------------------------------------------------------------------------------------


def _scan(file: Path, where: str, numbers: dict[str, int] | None) -> _Tar:
    """Find the samples of one tar, in its order."""
    with tars.TarFile(file) as tar:
        found, unusable = tars.usable(tar.members(), where)
        # An unusable member excludes its whole sample, because it may have been the label.
        wrong: dict[str, LeftOut] = {}
        for left in unusable:
            wrong.setdefault(_key(left.name.removeprefix(f"{where}/"))[0], left)
        samples: dict[str, dict[str, tars.Member]] = {}
        for name, member in found.items():
            key, suffix = _key(name)
            if suffix in samples.setdefault(key, {}):
                wrong.setdefault(key, LeftOut(f"{where}/{name}", f"its sample has two members {suffix}"))
            samples[key][suffix] = member
        names: list[str] = []
        labels: list[int] = []
        pictures: list[tars.Member] = []
        ignored = Unused()
        for key, sample in samples.items():
            picture = next((sample[suffix] for suffix in PICTURES if suffix in sample), None)
            if key in wrong:
                continue
            if picture is None and ".cls" not in sample:  # files of no sample
                for member in sample.values():
                    reason = why_unused(member.name)
                    ignored.add(f"{where}/{member.name}", NO_SAMPLE if reason == OUTSIDE else reason)
                continue
            label = _label(tar, sample, numbers)
            if picture is None:
                wrong[key] = LeftOut(f"{where}/{key}", f"no picture ({', '.join(PICTURES)})")
            elif isinstance(label, str):
                wrong[key] = LeftOut(f"{where}/{key}", label)
            else:
                names.append(f"{where}/{key}")
                labels.append(label)
                pictures.append(picture)
    return _Tar(names, labels, tars.places(pictures), list(wrong.values()), ignored)


def _key(name: str) -> tuple[str, str]:
    """Split a member's name into its sample and its suffix, such as ".cls".

    Hidden files and those without a dot are samples of their own.
    """
    parts = _KEY.fullmatch(name)
    return (parts[1], f".{parts[2].lower()}") if parts is not None else (name, "")


def _label(tar: tars.TarFile, sample: dict[str, tars.Member], numbers: dict[str, int] | None) -> int | str:
    """Return a sample's label, or the reason why it has none."""
    if ".cls" in sample:
        member = sample[".cls"]
        given: Any = _decoded(tar.read(member.offset, min(member.size, 256)))
    elif ".json" in sample:
        member = sample[".json"]
        if member.size > MAX_JSON:
            return f"its .json has {member.size:,} bytes"
        try:
            values = json.loads(tar.read(member.offset, member.size))
        except (ValueError, RecursionError) as error:
            return f"its .json cannot be read: {error}"
        there = [name for name in JSON_LABELS if name in values] if isinstance(values, dict) else []
        if not there:
            return f"its .json has none of {', '.join(JSON_LABELS)}"
        given = values[there[0]]
    else:
        return "no label (.cls or .json)"
    if isinstance(given, str):
        if numbers is not None and composed(given) in numbers:
            return numbers[composed(given)]
        given = int(given) if re.fullmatch("[0-9]{1,9}", given) else given
    if isinstance(given, bool) or not isinstance(given, int):
        return f"its label is {str(given)[:40]!r}, not a whole number"
    most = MAX_CLASSES if numbers is None else len(numbers)
    return given if 0 <= given < most else f"its label is {given}; it must be from 0 to {most - 1:,}"


def _decoded(text: bytes) -> str:
    return text.decode(errors="replace").strip()


def _pictures(found: dict[Path, _Tar]) -> Pictures:
    parts: Sequence[_Tar] = list(found.values())
    ignored = Unused()
    for part in parts:
        ignored.update(part.ignored)
    return Pictures(
        [name for part in parts for name in part.names],
        np.array([label for part in parts for label in part.labels], np.int32),
        tars.ranges([(file, part.places) for file, part in found.items()]),
        left_out=[left for part in parts for left in part.left_out],
        ignored=ignored,
    )
