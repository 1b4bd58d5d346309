"""The kinds of data that can be read, a file for each: what they hold is found here, decoded elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from cconvnet.data.images import DataError
from cconvnet.data.origins import batches, cifar10, digits, folder, mnist
from cconvnet.data.origins.origin import LAYOUTS, Labels, LeftOut, Origin, Pictures, entries

__all__ = ["LAYOUTS", "Labels", "LeftOut", "Origin", "Pictures", "find"]


def find(data: str | os.PathLike[str] | None) -> Origin:
    """What `data` holds: None or "digits" is the embedded default, anything else a folder.

    Errors: DataError, which names the file and says what would be right.
    """
    if data is None or data == "digits":
        return digits.find()
    root = Path(data)
    if not root.exists():
        raise DataError(f"there is no {root}; data is 'digits' (embedded) or a folder")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; unpack an archive first. {LAYOUTS}")
    names = {entry.name for entry in entries(root)}
    if mnist.is_here(root, names):
        return mnist.find(root)
    if cifar10.is_here(root, names):
        return cifar10.find(root)
    if batches.is_here(root, names):
        return batches.find(root)
    return folder.find(root)
