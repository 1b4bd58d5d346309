"""Pictures in folders, one for each class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cconvnet.data.extents import Extents
from cconvnet.data.images import DataError
from cconvnet.data.origins.origin import (
    LAYOUTS,
    PICTURES,
    LeftOut,
    Origin,
    Pictures,
    entries,
    is_picture,
    printable,
    some,
)
from cconvnet.data.splits import Progress

TESTS = ("test", "val", "valid", "validation")


class _Class(NamedTuple):
    """The picture files of a class, sorted by name; and what is left out or ignored."""

    files: list[str]
    left_out: list[LeftOut]
    others: int


_Listing = dict[str, _Class]  # by the classes' names, sorted


def is_here(root: Path) -> bool:
    """Whether there are folders of classes."""
    return _has_pictures(root / "train") or _has_pictures(root)


def find(root: Path, progress: Progress | None = None) -> Origin:
    """train/CLASS/* and test/CLASS/*, or one of TESTS, or only CLASS/*.

    progress: called with the number of classes' folders looked through, and in all.

    Errors: DataError.
    """
    notes: list[str] = []
    folders = {"train": root / "train" if (root / "train").is_dir() else root}
    tests = [root / name for name in TESTS if (root / name).is_dir()]
    if tests and folders["train"] != root:
        # ImageNet's own test pictures have no labels: they lie in test without folders of classes.
        test = folders["test"] = next(filter(_has_pictures, tests), tests[0])
        for other in tests:
            if other != test:
                why = f"{test} is there" if _has_pictures(other) else "it has no class folders with pictures"
                notes.append(f"{other} is not used: {why}")
    else:
        notes.append(f"{root} has no test pictures: the training pictures serve for testing too")
    found = {name: _classes(folder) for name, folder in folders.items()}
    done, in_all = 0, sum(map(len, found.values()))
    listings: dict[str, _Listing] = {}
    for split, classes in found.items():
        listing = listings[split] = {}
        for entry in classes:
            listing[entry.name] = _list_pictures(entry.path)
            done += 1
            if progress is not None:
                progress(done, in_all)
        _check(folders[split], listing, notes)
    names = list(listings["train"])
    if "test" in listings and list(listings["test"]) != names:
        raise DataError(_class_difference(folders, listings))
    splits = {split: _pictures(listing) for split, listing in listings.items()}
    return Origin(
        "pictures",
        f"pictures {root.name}",
        [printable(name) for name in names],
        splits["train"],
        splits.get("test"),
        notes,
        folder=root,
    )


def _classes(folder: Path) -> list[os.DirEntry[str]]:
    return [entry for entry in entries(folder) if entry.is_dir() and not entry.name.startswith(".")]


def _has_pictures(folder: Path) -> bool:
    """Whether it has a class folder with a picture."""
    return folder.is_dir() and any(
        is_picture(file.name) for entry in _classes(folder) for file in entries(Path(entry.path))
    )


def _pictures(listing: _Listing) -> Pictures:
    files = [file for found in listing.values() for file in found.files]
    counts = [len(found.files) for found in listing.values()]
    labels = np.repeat(np.arange(len(listing), dtype=np.int32), counts)
    left_out = [left for found in listing.values() for left in found.left_out]
    return Pictures([printable(file) for file in files], labels, Extents.whole(files), left_out=left_out)


def _list_pictures(folder: str) -> _Class:
    files, left_out, others = [], [], 0
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if is_picture(entry.name) and not entry.is_dir():
                    if entry.is_file():
                        files.append(entry.path)
                    else:
                        left_out.append(LeftOut(printable(entry.path), "a link to nothing, or no file"))
                else:
                    others += entry.is_file()
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    return _Class(sorted(files), sorted(left_out), others)


def _check(folder: Path, listing: _Listing, notes: list[str]) -> None:
    if not any(found.files for found in listing.values()):
        raise DataError(f"{folder} has no class folders with pictures; {LAYOUTS}")
    empty = [name for name, found in listing.items() if not found.files]
    if empty:
        raise DataError(
            f"{folder} has no pictures ({', '.join(PICTURES)}) of {some(empty)}; fill or remove the folder"
        )
    others = sum(found.others for found in listing.values())
    if others:
        notes.append(f"{folder}: {others:,} files that are not {', '.join(PICTURES)}, or hidden, are ignored")


def _class_difference(folders: dict[str, Path], listings: dict[str, _Listing]) -> str:
    lines = ["training and test pictures must have the same class folders:"]
    for name, other in (("train", "test"), ("test", "train")):
        alone = [label for label in listings[name] if label not in listings[other]]
        if alone:
            lines.append(f"only {folders[name]} has {some(alone)}")
    return " ".join(lines)
