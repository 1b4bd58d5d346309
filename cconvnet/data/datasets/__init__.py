"""The kinds of data that can be read, a file for each: what they hold is found here, decoded elsewhere."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from cconvnet.data import shards
from cconvnet.data.dataset import Labels, LeftOut, Origin, Pictures
from cconvnet.data.datasets import (
    cifar10,
    cuda_convnet,
    digits,
    folder,
    imagenet,
    labels,
    mnist,
    near_misses,
    webdataset,
)
from cconvnet.data.datasets.layouts import LAYOUTS
from cconvnet.data.listing import entries
from cconvnet.data.names import composed
from cconvnet.data.splits import Progress, broken_allowed
from cconvnet.errors import DataError

__all__ = ["LAYOUTS", "Labels", "LeftOut", "Origin", "Pictures", "find", "stored"]


EMBEDDED = "digits"


def find(data: str | os.PathLike[str] | None, progress: Progress | None = None) -> Origin:
    """Open `data`: None is the embedded default, anything else a folder.

    "digits" is the embedded default too, unless there is a folder of that name.

    progress: called with the number of archives or folders looked through, and in all.

    Errors: DataError, which names the file and says what would be right.
    """
    origin = _find(data, progress)
    for name, pictures in (("training", origin.train), ("test", origin.test)):
        if pictures is not None:
            _check_left_out(origin, name, pictures)
    classes = [composed(name) for name in origin.classes]
    origin = dataclasses.replace(origin, classes=classes)
    return dataclasses.replace(origin, notes=[*origin.notes, *labels.check(origin)])


def _check_left_out(origin: Origin, name: str, pictures: Pictures) -> None:
    count = len(pictures) + len(pictures.left_out)
    if pictures.left_out and len(pictures.left_out) > broken_allowed(count):
        first = [f"  {left.name}: {left.reason}" for left in pictures.left_out[:10]]
        raise DataError(
            f"{origin.folder}: {len(pictures.left_out):,} of the {count:,} {name} pictures cannot be used, "
            f"more than {broken_allowed(count):,}; the first are:\n" + "\n".join(first)
        )


def _find(data: str | os.PathLike[str] | None, progress: Progress | None) -> Origin:
    if data is None or (data == EMBEDDED and not Path(EMBEDDED).is_dir()):
        return digits.find()
    if data != EMBEDDED:
        return _in_folder(Path(data), progress)
    # A folder of the user's comes before the word.
    whence = "the embedded digits are used where no data is named"
    try:
        origin = _in_folder(Path(data), progress)
    except DataError as error:
        raise DataError(f"{error}\n(this is the folder ./{EMBEDDED}; {whence})") from error
    return dataclasses.replace(origin, notes=[f"the folder ./{EMBEDDED} is used; {whence}", *origin.notes])


def _in_folder(root: Path, progress: Progress | None) -> Origin:
    if not root.exists():
        raise near_misses.nothing(root)
    if not root.is_dir():
        raise near_misses.no_folder(root)
    names = {entry.name for entry in entries(root)}
    near_misses.check(root, names)
    if mnist.is_here(root, names):
        return mnist.find(root)
    if cifar10.is_here(root, names):
        return cifar10.find(root)
    if cuda_convnet.is_here(root, names):
        return cuda_convnet.find(root)
    if shards.are_here(names):
        return shards.open_origin(root)
    # Tars may have stayed beside the folders that they were unpacked to.
    if imagenet.is_here(root, names) and not folder.is_here(root):
        return imagenet.find(root, progress)
    if webdataset.is_here(root, names) and not folder.is_here(root):
        return webdataset.find(root, progress)
    near_misses.check_pictures(root)
    return folder.find(root, progress)


def stored(data: str | None) -> str | None:
    """The data that a run's settings name: there "digits" is always the embedded default."""
    return None if data == EMBEDDED else data
