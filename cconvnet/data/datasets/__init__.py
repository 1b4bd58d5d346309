"""Readers for all kinds of datasets, and the choice of the reader for a folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from cconvnet.data import shards
from cconvnet.data.dataset import Dataset, Labels, LeftOut, Pictures
from cconvnet.data.datasets import (
    arrays,
    cifar10,
    cuda_convnet,
    digits,
    folder,
    imagenet,
    labels,
    mnist,
    near_misses,
    segmentation,
    webdataset,
)
from cconvnet.data.datasets.arrays import Arrays
from cconvnet.data.datasets.layouts import LAYOUTS
from cconvnet.data.label_images import has_pixels
from cconvnet.data.listing import entries
from cconvnet.data.names import composed
from cconvnet.data.splits import Progress, broken_allowed
from cconvnet.errors import DataError

__all__ = [
    "LAYOUTS",
    "NONE",
    "Arrays",
    "Dataset",
    "Labels",
    "LeftOut",
    "Pictures",
    "Where",
    "from_settings",
    "open_dataset",
]


EMBEDDED = "digits"
NONE = "none"  # in the settings of a run that was imported without data

# Where data is: a folder, a file of arrays, or memory; None: the embedded digits.
Where = str | os.PathLike[str] | Arrays | None


def open_dataset(data: Where, progress: Progress | None = None) -> Dataset:
    """Open `data`: None is the embedded default, anything else is a folder, a file of arrays, or arrays.

    "digits" is the embedded default too, unless there is a folder of that name.

    Args:
        data: The folder, a file whose name ends in .npz, arrays, None, or "digits".
        progress: Called with the number of archives or folders searched so far and their total.

    Raises:
        DataError: The data is missing, damaged or in no known layout. The text names the file and the remedy.
    """
    dataset = _find(data, progress)
    for name, pictures in (("training", dataset.train), ("test", dataset.test)):
        if pictures is not None:
            _check_left_out(dataset, name, pictures)
    classes = [composed(name) for name in dataset.classes]
    dataset = dataclasses.replace(dataset, classes=classes)
    unchecked = (isinstance(data, Arrays) and data.is_sample) or has_pixels(dataset.train.labels)
    notes = [] if unchecked else labels.check(dataset)
    return dataclasses.replace(dataset, notes=[*dataset.notes, *notes])


def _check_left_out(dataset: Dataset, name: str, pictures: Pictures) -> None:
    count = len(pictures) + len(pictures.left_out)
    if pictures.left_out and len(pictures.left_out) > broken_allowed(count):
        first = [f"  {left.name}: {left.reason}" for left in pictures.left_out[:10]]
        raise DataError(
            f"{dataset.folder}: {len(pictures.left_out):,} of the {count:,} {name} pictures cannot be used, "
            f"more than {broken_allowed(count):,}; the first are:\n" + "\n".join(first)
        )


def _find(data: Where, progress: Progress | None) -> Dataset:
    if isinstance(data, Arrays):
        return data.dataset()
    if data is None or (data == EMBEDDED and not Path(EMBEDDED).is_dir()):
        return digits.open_dataset()
    if data != EMBEDDED:
        return _in_folder(Path(data), progress)
    # A user's folder called digits takes precedence over the embedded default.
    whence = "the embedded digits are used where no data is named"
    try:
        dataset = _in_folder(Path(data), progress)
    except DataError as error:
        raise DataError(f"{error}\n(this is the folder ./{EMBEDDED}; {whence})") from error
    return dataclasses.replace(dataset, notes=[f"the folder ./{EMBEDDED} is used; {whence}", *dataset.notes])


def _in_folder(root: Path, progress: Progress | None) -> Dataset:
    if not root.exists():
        raise near_misses.missing_path(root)
    if arrays.matches(root):
        return arrays.open_dataset(root)
    if not root.is_dir():
        raise near_misses.not_a_folder(root)
    names = {entry.name for entry in entries(root)}
    near_misses.check(root, names)
    if segmentation.matches(root):  # before class folders: images and labels would be two classes
        return segmentation.open_dataset(root)
    if mnist.matches(root, names):
        return mnist.open_dataset(root)
    if cifar10.matches(root, names):
        return cifar10.open_dataset(root)
    if cuda_convnet.matches(root, names):
        return cuda_convnet.open_dataset(root)
    if shards.matches(names):
        return shards.open_dataset(root)
    # A user may have left tars in the folder where they were unpacked.
    if imagenet.matches(root, names) and not folder.matches(root):
        return imagenet.open_dataset(root, progress)
    if webdataset.matches(root, names) and not folder.matches(root):
        return webdataset.open_dataset(root, progress)
    near_misses.check_pictures(root)
    return folder.open_dataset(root, progress)


def from_settings(data: str | None, run: Path) -> str | Path | None:
    """Return the argument of open_dataset() for the data that a run's settings name.

    In settings, "digits" always means the embedded default, "arrays" those that were given in Python, and
    "none" that there is no data.

    Args:
        data: The name in the settings.
        run: The run's folder.

    Raises:
        DataError: The run was trained on arrays, and its folder does not keep them; or it was imported
            without data.
    """
    if data == NONE:
        raise DataError(f"{run} was imported without data; --data names some")
    if data == arrays.NAME:
        return arrays.recorded(run)
    return None if data == EMBEDDED else data
