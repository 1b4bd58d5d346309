"""Pictures in folders, one for each class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cconvnet.data.extents import Extents
from cconvnet.data.images import DataError
from cconvnet.data.origins.origin import LAYOUTS, PICTURES, Origin, Pictures, entries, is_picture, some

Listing = dict[str, list[str]]  # a class's name to its picture files, both sorted by name


def is_here(root: Path) -> bool:
    """Whether there are folders of classes."""
    return any(
        next((file for file in entries(Path(entry.path)) if is_picture(file.name)), None) is not None
        for folder in (root / "train", root)
        if folder.is_dir()
        for entry in entries(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )


def find(root: Path) -> Origin:
    """train/CLASS/* and test/CLASS/* or val/CLASS/*, or only CLASS/*. Errors: DataError."""
    notes: list[str] = []
    folders = {"train": root / "train" if (root / "train").is_dir() else root}
    tests = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if tests and folders["train"] != root:
        folders["test"] = tests[0]
        if len(tests) == 2:
            notes.append(f"{tests[1]} is not used: {tests[0]} is there")
    else:
        notes.append(f"{root} has no test pictures: the training pictures serve for testing too")
    listings = {name: _list_pictures(folder, notes) for name, folder in folders.items()}
    classes = list(listings["train"])
    if "test" in listings and list(listings["test"]) != classes:
        raise DataError(_class_difference(folders, listings))
    splits = {name: _pictures(listing) for name, listing in listings.items()}
    name = f"pictures {root.name}"
    return Origin("pictures", name, classes, splits["train"], splits.get("test"), notes, folder=root)


def _pictures(listing: Listing) -> Pictures:
    files = [file for pictures in listing.values() for file in pictures]
    counts = [len(pictures) for pictures in listing.values()]
    labels = np.repeat(np.arange(len(listing), dtype=np.int32), counts)
    return Pictures(files, labels, Extents.whole(files))


def _list_pictures(folder: Path, notes: list[str]) -> Listing:
    listing: Listing = {}
    other = 0
    try:
        for entry in os.scandir(folder):
            if not entry.is_dir() or entry.name.startswith("."):
                continue
            names = [file.name for file in os.scandir(entry.path) if file.is_file()]
            pictures = [name for name in names if is_picture(name)]
            other += len(names) - len(pictures)
            listing[entry.name] = [f"{entry.path}/{name}" for name in sorted(pictures)]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    if not any(listing.values()):
        raise DataError(f"{folder} has no class folders with pictures; {LAYOUTS}")
    empty = sorted(name for name, pictures in listing.items() if not pictures)
    if empty:
        raise DataError(
            f"{folder} has no pictures ({', '.join(PICTURES)}) of {some(empty)}; fill or remove the folder"
        )
    if other:
        notes.append(f"{folder}: {other:,} files that are not {', '.join(PICTURES)} are ignored")
    return dict(sorted(listing.items()))


def _class_difference(folders: dict[str, Path], listings: dict[str, Listing]) -> str:
    lines = ["training and test pictures must have the same class folders:"]
    for name, other in (("train", "test"), ("test", "train")):
        alone = [label for label in listings[name] if label not in listings[other]]
        if alone:
            lines.append(f"only {folders[name]} has {some(alone)}")
    return " ".join(lines)
