"""Checks of the labels of any dataset: gaps, classes without pictures, labels that must be wrong."""

from __future__ import annotations

import numpy as np

from cconvnet.data.dataset import Dataset, Ints, Pictures
from cconvnet.data.names import listed
from cconvnet.errors import DataError

# A label must be wrong if more classes are without a picture than with one, and more than this number.
MAX_PHANTOMS = 15


def check(dataset: Dataset) -> list[str]:
    """List notes on labels that a user should know.

    Raises:
        DataError: No class names confirm the labels, and one must be wrong. It is far beyond the others, or a
            test picture's label is beyond those of the training pictures.
    """
    classes = dataset.classes
    numbered = classes == [str(label) for label in range(len(classes))]
    train = np.bincount(dataset.train.labels, minlength=len(classes))
    present, missing = np.flatnonzero(train), np.flatnonzero(train == 0)
    test = None if dataset.test is None else np.bincount(dataset.test.labels, minlength=len(classes))
    if numbered:
        _refuse(dataset, train, present, missing)
    notes = []
    if len(missing):
        what = f"label {_ranges(missing)}" if numbered else _named(dataset, missing)
        seen = f"; labels are {_ranges(present)}" if numbered else ""
        notes.append(f"no training pictures of {what}{seen}{_odd(dataset.train, train, present)}")
    if test is not None:
        alone = np.flatnonzero((test > 0) & (train == 0))
        if len(alone):
            what = f"label {_ranges(alone)}" if numbered else _named(dataset, alone)
            notes.append(
                f"{test[alone].sum():,} test pictures are of {what}, of which there are no training pictures"
            )
        untested = np.flatnonzero((test == 0) & (train > 0))
        if len(untested):
            what = f"label {_ranges(untested)}" if numbered else _named(dataset, untested)
            notes.append(f"no test pictures of {what}")
    if len(present) == 1:
        notes.append(f"all training pictures are of one class, {classes[present[0]]}")
    twice = sorted({name for name in classes if classes.count(name) > 1}) if _repeated(classes) else []
    if twice:
        notes.append(f"several classes have the same name: {listed(twice)}")
    return notes


def _refuse(dataset: Dataset, train: Ints, present: Ints, missing: Ints) -> None:
    """Refuse labels beyond all others where no class names confirm them."""
    last = int(present[-1])
    if dataset.test is not None:
        beyond = np.flatnonzero(dataset.test.labels > last)
        if len(beyond):
            first = int(beyond[0])
            raise DataError(
                f"{dataset.name}: {dataset.test.names[first]} has label {dataset.test.labels[first]}, but "
                f"the training pictures' labels are {_ranges(present)}"
            )
    if len(missing) > max(len(present), MAX_PHANTOMS):
        first = int(np.argmax(dataset.train.labels == last))
        raise DataError(
            f"{dataset.name}: {dataset.train.names[first]} has label {last}, but there are no training "
            f"pictures of label {_ranges(missing)}; labels are {_ranges(present)}, counted from 0"
            + (f"; {train[last]:,} have label {last}" if train[last] > 1 else "")
        )


def _odd(pictures: Pictures, train: Ints, present: Ints) -> str:
    """Return the words to add if the label after the last gap is rare, which may be a mistake."""
    last = int(present[-1])
    alone = len(present) > 1 and present[-2] != last - 1
    if not alone or train[last] * 20 > np.median(train[present]):
        return ""
    first = int(np.argmax(pictures.labels == last))
    return f"; few have label {last} ({train[last]:,}), the first is {pictures.names[first]}"


def _named(dataset: Dataset, labels: Ints) -> str:
    return listed([dataset.classes[label] for label in labels])


def _ranges(labels: Ints) -> str:
    """Format sorted numbers, as in "0, 3 to 5 and 9"; of many ranges, only the first few."""
    cuts = np.flatnonzero(np.diff(labels) != 1) + 1
    parts = [
        f"{part[0]}" if len(part) == 1 else f"{part[0]}{' to ' if len(part) > 2 else ', '}{part[-1]}"
        for part in np.split(labels, cuts)
    ]
    return listed(parts)


def _repeated(classes: list[str]) -> bool:
    return len(set(classes)) < len(classes)
