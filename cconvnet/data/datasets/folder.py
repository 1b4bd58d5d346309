"""Pictures in folders, one for each class."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cconvnet.data.account import Unused
from cconvnet.data.byte_ranges import ByteRanges
from cconvnet.data.dataset import Dataset, LeftOut, Pictures
from cconvnet.data.datasets.layouts import LAYOUTS
from cconvnet.data.listing import (
    FILE,
    FOLDER,
    HIDDEN,
    NO_TARGET,
    PICTURES,
    READ_ALREADY,
    beside,
    entries,
    is_picture,
    kind_of,
    why_unused,
)
from cconvnet.data.names import composed, listed, printable
from cconvnet.data.splits import Progress
from cconvnet.errors import DataError

TESTS = ("test", "val", "valid", "validation")


class Listed(NamedTuple):
    """The picture files of a class, sorted by name, and the files that are not used.

    Attributes:
        below: The number of files that are in subfolders; `subfolder` is one of these.
    """

    files: list[str]
    left_out: list[LeftOut]
    ignored: Unused
    below: int
    subfolder: str


_Listing = dict[str, Listed]  # by the classes' names, sorted


def matches(root: Path) -> bool:
    """Return True if the folder contains folders of classes."""
    return _has_pictures(root / "train") or _has_pictures(root)


def open_dataset(root: Path, progress: Progress | None = None) -> Dataset:
    """Open train/CLASS/* and test/CLASS/*, or only CLASS/*.

    The test folder has one of the names in TESTS.

    Pictures in subfolders of CLASS belong to it.

    Args:
        root: The folder.
        progress: Called with the number of class folders searched so far and their total.

    Raises:
        DataError: A folder cannot be read or has no pictures, or the classes of training and testing differ.
    """
    notes: list[str] = []
    folders = {"train": root / "train" if (root / "train").is_dir() else root}
    tests = [root / name for name in TESTS if (root / name).is_dir()]
    if tests and folders["train"] != root:
        # ImageNet's own test pictures have no labels: its folder test has no class folders.
        test = folders["test"] = next(filter(has_pictures_below, tests), tests[0])
        for other in tests:
            if other != test:
                why = (
                    f"{test} is there"
                    if has_pictures_below(other)
                    else "it has no class folders with pictures"
                )
                notes.append(f"{other} is not used: {why}")
    else:
        notes.append(f"{root} has no test pictures: the training pictures serve for testing too")
    found = {name: _classes(folder) for name, folder in folders.items()}
    done, in_all = 0, sum(map(len, found.values()))
    listings: dict[str, _Listing] = {}
    for split, classes in found.items():
        listing = listings[split] = {}
        for name, entry in classes.items():
            listing[name] = list_pictures(entry.path, root)
            done += 1
            if progress is not None:
                progress(done, in_all)
        _check(folders[split], listing)
        notes += _below(folders[split], listing)
    names = list(listings["train"])
    if "test" in listings and list(listings["test"]) != names:
        raise DataError(_class_difference(folders, listings))
    splits = {split: _pictures(listing) for split, listing in listings.items()}
    for split, pictures in splits.items():
        pictures.ignored.update(_outside(folders[split], root))
    apart = folders["train"] != root
    return Dataset(
        "pictures",
        f"pictures {root.name}",
        [printable(name) for name in names],
        splits["train"],
        splits.get("test"),
        notes,
        folder=root,
        beside=beside(root, {folder.name for folder in folders.values()}) if apart else Unused(),
    )


def class_folders(folder: Path) -> list[os.DirEntry[str]]:
    """List the folders in a folder, except for hidden ones, sorted by name.

    Raises:
        DataError: The folder cannot be read.
    """
    return [entry for entry in entries(folder) if not entry.name.startswith(".") and kind_of(entry) == FOLDER]


def _classes(folder: Path) -> dict[str, os.DirEntry[str]]:
    """Map the composed names of the class folders to the folders, sorted by name.

    Raises:
        DataError: The folder cannot be read, or two names differ only in Unicode's form.
    """
    found: dict[str, os.DirEntry[str]] = {}
    for entry in class_folders(folder):
        name = composed(entry.name)
        if name in found:
            forms = " and ".join(f"{one!a} ({_form(one)})" for one in sorted((found[name].name, entry.name)))
            raise DataError(
                f"{folder} has two class folders called {printable(name)}, {forms}: they differ only in "
                "Unicode's form; put the pictures into one of them"
            )
        found[name] = entry
    return dict(sorted(found.items()))


def _form(name: str) -> str:
    return next((form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)), "neither form")


def _has_pictures(folder: Path) -> bool:
    """Return True if a folder has a class folder with a picture."""
    return folder.is_dir() and any(
        is_picture(file.name) for entry in class_folders(folder) for file in entries(Path(entry.path))
    )


def has_pictures_below(folder: Path) -> bool:
    """Return True if a folder has a class folder with a picture, at any depth."""
    if _has_pictures(folder):
        return True
    below = (where for entry in class_folders(folder) for where, _ in _walk(entry.path, Unused(), ""))
    return any(is_picture(file.name) for where in below for file in entries(Path(where)))


def _pictures(listing: _Listing) -> Pictures:
    files = [file for found in listing.values() for file in found.files]
    counts = [len(found.files) for found in listing.values()]
    labels = np.repeat(np.arange(len(listing), dtype=np.int32), counts)
    left_out = [left for found in listing.values() for left in found.left_out]
    ignored = Unused()
    for found in listing.values():
        ignored.update(found.ignored)
    names = [printable(file) for file in files]
    return Pictures(names, labels, ByteRanges.whole(files), left_out=left_out, ignored=ignored)


_Entries = list[tuple[os.DirEntry[str], bool]]  # each with whether it is a file


def _walk(folder: str, ignored: Unused, root: str) -> Iterator[tuple[str, _Entries]]:
    """Yield a folder and those below it, each with its entries that are no folders.

    A folder that several links lead to is read once. So links can neither repeat pictures nor go in circles.
    Folders are read before links to folders, so that the choice between two paths to a folder does not depend
    on names.
    """
    folders, links = [folder], list[str]()
    # A link to a parent folder would count other classes' pictures as this class's.
    seen = set(map(str, Path(os.path.realpath(folder)).parents))
    while folders or links:
        where = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(where)
        if real in seen:
            ignored.add(printable(where.removeprefix(root)), READ_ALREADY)
            continue
        seen.add(real)
        files: _Entries = []
        below: list[str] = []
        for entry in entries(Path(where)):
            kind = kind_of(entry)
            if kind != FOLDER:
                files.append((entry, kind == FILE))
            elif entry.name.startswith("."):
                ignored.add(printable(entry.path.removeprefix(root)), HIDDEN)
            elif entry.is_symlink():
                links.append(entry.path)
            else:
                below.append(entry.path)
        folders += reversed(below)
        yield where, files


def list_pictures(folder: str, root: Path) -> Listed:
    """List the pictures in a folder and those below it; the names of unused files are relative to `root`.

    Raises:
        DataError: A folder cannot be read.
    """
    start = f"{root}{os.sep}"
    files: list[str] = []
    left_out: list[LeftOut] = []
    ignored = Unused()
    below, subfolder = 0, ""
    for where, found in _walk(folder, ignored, start):
        before = len(files)
        for entry, there in found:
            if is_picture(entry.name):
                if there:
                    files.append(entry.path)
                else:
                    left_out.append(LeftOut(printable(entry.path), NO_TARGET))
            else:
                hidden = entry.name.startswith(".")
                reason = why_unused(entry.name) if there or hidden else NO_TARGET
                ignored.add(printable(entry.path.removeprefix(start)), reason)
        if where != folder and len(files) > before:
            below += len(files) - before
            subfolder = subfolder or printable(where.removeprefix(start))
    files.sort()
    if not all(map(str.isascii, files)):
        files.sort(key=composed)  # the order does not depend on the form of the names
    return Listed(files, sorted(left_out), ignored, below, subfolder)


def _outside(folder: Path, root: Path) -> Unused:
    """Collect the entries of a split's folder that are not class folders."""
    found = beside(folder, {entry.name for entry in class_folders(folder)})
    return found if folder == root else found.below(folder.name)


def _below(folder: Path, listing: _Listing) -> list[str]:
    """Return notes on pictures in subfolders of classes, since the subfolders may be meant as classes."""
    count = sum(found.below for found in listing.values())
    if not count:
        return []
    first = next(found.subfolder for found in listing.values() if found.below)
    lie, belong = ("picture is", "it belongs") if count == 1 else ("pictures are", "they belong")
    return [
        f"{folder}: {count:,} {lie} in subfolders of the class folders, such as {first}; {belong} to these "
        "classes"
    ]


def _check(folder: Path, listing: _Listing) -> None:
    if not any(found.files for found in listing.values()):
        raise DataError(f"{folder} has no class folders with pictures; {LAYOUTS}")
    empty = [name for name, found in listing.items() if not found.files]
    if empty:
        others = Unused()
        for name in empty:
            others.update(listing[name].ignored)
            others.update(Unused((left.name, left.reason) for left in listing[name].left_out))
        there = f" (there are {others})" if len(others) else ""
        raise DataError(
            f"{folder} has no pictures ({', '.join(PICTURES)}) of {listed([*map(printable, empty)])}{there}; "
            "fill or remove the folder"
        )


def _class_difference(folders: dict[str, Path], listings: dict[str, _Listing]) -> str:
    lines = ["training and test pictures must have the same class folders:"]
    for name, other in (("train", "test"), ("test", "train")):
        alone = [label for label in listings[name] if label not in listings[other]]
        if alone:
            lines.append(f"only {folders[name]} has {listed([*map(printable, alone)])}")
    return " ".join(lines)
