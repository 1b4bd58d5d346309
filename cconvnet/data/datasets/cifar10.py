"""CIFAR-10's binary version."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cconvnet.data.dataset import Dataset, Pictures, joined, of_arrays
from cconvnet.data.listing import beside, lines
from cconvnet.errors import DataError


def matches(root: Path, names: set[str]) -> bool:
    """Return True if a folder with files of these names has binary batches."""
    return any(name.startswith(("data_batch_", "test_batch")) and name.endswith(".bin") for name in names)


def open_dataset(root: Path) -> Dataset:
    """Read the five training batches and the test batch.

    Raises:
        DataError: A file is missing, cannot be read or is damaged.
    """
    files = [root / f"data_batch_{number}.bin" for number in range(1, 6)]
    test, meta = root / "test_batch.bin", root / "batches.meta.txt"
    missing = [file.name for file in (*files, test, meta) if not file.is_file()]
    if missing:
        raise DataError(
            f"{root} lacks {', '.join(missing)} of CIFAR-10's binary version (cifar-10-binary.tar.gz)"
        )
    classes = lines(meta)
    train = joined([_read(file, len(classes)) for file in files])
    others = beside(root, {file.name for file in (*files, test, meta)})
    name = f"cifar10 {root.name}"
    return Dataset("cifar10", name, classes, train, _read(test, len(classes)), beside=others)


def _read(file: Path, classes: int) -> Pictures:
    """Read records of a label byte and the red, green and blue planes of 32x32 bytes.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
    """
    record = 1 + 3 * 32 * 32
    length = file.stat().st_size
    if length == 0 or length % record:
        raise DataError(f"{file} has {length:,} bytes, which is no multiple of a record's {record:,}")
    records = np.fromfile(file, np.uint8).reshape(-1, record)
    labels = records[:, 0].astype(np.int32)
    if labels.max() >= classes:
        at = int(np.argmax(labels >= classes))
        raise DataError(
            f"{file}: record {at} has label {labels[at]}, but batches.meta.txt names {classes} classes"
        )
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return of_arrays(file.name, np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)
