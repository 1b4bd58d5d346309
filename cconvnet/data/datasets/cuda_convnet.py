"""Pickled batches in cuda-convnet's format, which CIFAR-10's version for Python has too.

``batches.meta`` contains label_names and num_vis, the number of values of an image. In cuda-convnet's files
it also contains data_mean[num_vis, 1]. Each ``data_batch_N`` contains labels and data, uint8. In
cuda-convnet's files an image is a column, data[num_vis, n]. In CIFAR-10's own files it is a row, data[n,
num_vis]. In both, its values are the red, green and blue planes of a square image, or one grey plane.

:mod:`cconvnet.formats.pickles` reads the pickles without running any code in them.

Source: cuda-convnet2's python_util/data.py and convdata.py; https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cconvnet.data.dataset import Dataset, Labels, every_fifth, joined, of_arrays
from cconvnet.data.images import Pixels
from cconvnet.data.listing import beside, entries
from cconvnet.errors import DataError
from cconvnet.formats import pickles

Mean = npt.NDArray[np.float32]

META = "batches.meta"
TEST = "test_batch"
_NUMBERED = re.compile(r"data_batch_(\d+)")


@dataclass(frozen=True)
class _Meta:
    classes: list[str]
    values: int | None  # per image
    mean: npt.NDArray[Any] | None


def matches(root: Path, names: set[str]) -> bool:
    """Return True if a folder with files of these names has pickled batches."""
    return any(name == META or _NUMBERED.fullmatch(name) for name in names)


def open_dataset(root: Path) -> Dataset:
    """Read all batches of a folder.

    If there is no test_batch, the batch with the highest number is for testing, as in cuda-convnet's own
    CIFAR-10.

    Raises:
        DataError: A file is missing or has unexpected contents; the text names it. ForbiddenPickle is a
            DataError.
    """
    named = map(_NUMBERED.fullmatch, (entry.name for entry in entries(root)))
    numbers = sorted(int(found[1]) for found in named if found)
    if not (root / META).is_file():
        raise DataError(f"{root} lacks {META}, which names the classes")
    if not numbers:
        raise DataError(f"{root} has {META} but no data_batch_1")
    absent = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
    if absent:
        raise DataError(f"{root} has data_batch_{numbers[-1]} but no data_batch_{absent[0]}")
    meta = _read_meta(root / META)

    files = [root / f"data_batch_{number}" for number in numbers]
    notes: list[str] = []
    test_file: Path | None = root / TEST
    if not (root / TEST).is_file():
        test_file = files.pop() if len(files) > 1 else None
        if test_file is not None:
            notes.append(f"{root} has no {TEST}: {test_file.name}, the last, is used for testing")
    parts = [_read_batch(file, meta) for file in files]
    for file, (images, _) in zip(files, parts, strict=True):
        _same_shape(file, images, files[0], parts[0][0])
    train = joined([of_arrays(file.name, *part) for file, part in zip(files, parts, strict=True)])
    if test_file is not None:
        images, labels = _read_batch(test_file, meta)
        _same_shape(test_file, images, files[0], parts[0][0])
        test = of_arrays(test_file.name, images, labels)
    else:
        notes.append(f"{root} has only one batch: of each class every fifth image is used for testing")
        train, test = every_fifth(train)
    mean = None if meta.mean is None else _mean_image(root / META, meta.mean, parts[0][0].shape[1:])
    return Dataset(
        "batches",
        f"batches {root.name}",
        meta.classes,
        train,
        test,
        notes,
        mean=mean,
        mean_file=f"data_mean of {root / META}",
        beside=beside(root, {META, TEST, *(f"data_batch_{number}" for number in numbers)}),
    )


def _load(file: Path) -> dict[Any, Any]:
    if file.is_dir():
        raise DataError(
            f"{file} is a folder, as cuda-convnet2 keeps batches of compressed pictures; they are not read: "
            "unpack the pictures into train/CLASS/*.jpg and test/CLASS/*.jpg"
        )
    try:
        values = pickles.load(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    if not isinstance(values, dict):
        raise DataError(f"{file} contains a {type(values).__name__}, not a dictionary")
    # Files that Python 3 converted from Python 2's may have keys of bytes.
    return {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in values.items()}


def _wanted(file: Path, values: dict[Any, Any], name: str) -> Any:
    if name not in values:
        there = ", ".join(sorted(key for key in values if isinstance(key, str))[:8])
        raise DataError(f"{file} has no {name!r}; it has {there or 'nothing'}")
    return values[name]


def _read_meta(file: Path) -> _Meta:
    values = _load(file)
    names = _wanted(file, values, "label_names")
    if not isinstance(names, list | tuple) or not names:
        raise DataError(f"{file}: label_names is not a list of names")
    if not all(isinstance(name, str | bytes) for name in names):
        raise DataError(f"{file}: label_names contains something that is no name")
    classes = [name.decode("latin-1") if isinstance(name, bytes) else name for name in names]
    count = values.get("num_vis")
    if count is not None and not (isinstance(count, int | np.integer) and count > 0):
        raise DataError(f"{file}: num_vis is not a number of values")
    mean = values.get("data_mean")
    if mean is not None and not (isinstance(mean, np.ndarray) and mean.dtype.kind in "fiu"):
        raise DataError(f"{file}: data_mean is not an array of numbers")
    return _Meta(classes, None if count is None else int(count), mean)


def _read_batch(file: Path, meta: _Meta) -> tuple[Pixels, Labels]:
    """Read one batch's images and labels."""
    values = _load(file)
    data = _wanted(file, values, "data")
    labels = _labels(file, _wanted(file, values, "labels"), len(meta.classes))
    if isinstance(data, list | tuple):
        raise DataError(
            f"{file}: data is a list, as of compressed pictures; only arrays of pixels are read: unpack the "
            "pictures into train/CLASS/*.jpg and test/CLASS/*.jpg"
        )
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
        what = f"{data.dtype}{list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{file}: data must be a matrix of uint8, not {what}")
    n = len(labels)
    shapes = {"columns": (meta.values or data.shape[0], n), "rows": (n, meta.values or data.shape[1])}
    fitting = [name for name, shape in shapes.items() if data.shape == shape]
    if not fitting:
        what = f", and {META} has {meta.values:,} values per image" if meta.values else ""
        raise DataError(f"{file}: data is {data.shape[0]}x{data.shape[1]}, but there are {n:,} labels{what}")
    # A square matrix fits both layouts. Only cuda-convnet's files have a mean.
    columns = fitting[0] == "columns" if len(fitting) == 1 else meta.mean is not None
    rows = data.T if columns else data
    side, channels = _image_size(file, rows.shape[1])
    planes = rows.reshape(n, channels, side, side)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _labels(file: Path, given: Any, classes: int) -> Labels:
    """Return labels as int32[n]; they may be a list, an array, one row or column, or whole floats."""
    try:
        labels = np.asarray(given)
    except ValueError as error:
        raise DataError(f"{file}: labels are not numbers") from error
    if labels.dtype.kind not in "iuf" or labels.size == 0 or labels.size != max(labels.shape, default=0):
        raise DataError(f"{file}: labels must be one number for each image")
    labels = labels.reshape(-1)
    whole = labels.astype(np.int32) if np.isfinite(labels).all() else np.full(len(labels), -1, np.int32)
    wrong = (whole != labels) | (whole < 0) | (whole >= classes)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(f"{file}: image {at} has label {labels[at]}, but {META} names {classes:,} classes")
    return whole


def _image_size(file: Path, values: int) -> tuple[int, int]:
    """Return the side and the channels of a square image with this number of values."""
    for channels in (3, 1):
        side = math.isqrt(values // channels)
        if side > 0 and channels * side * side == values:
            return side, channels
    raise DataError(f"{file}: {values:,} values per image are no square image of 3 channels or of 1")


def _same_shape(file: Path, images: Pixels, first_file: Path, first: Pixels) -> None:
    if images.shape[1:] != first.shape[1:]:
        here, there = ("x".join(map(str, array.shape[1:])) for array in (images, first))
        raise DataError(f"{file} has images of {here}, {first_file} of {there}")


def _mean_image(file: Path, mean: npt.NDArray[Any], shape: tuple[int, ...]) -> Mean:
    height, width, channels = shape
    if mean.size != math.prod(shape):
        raise DataError(f"{file}: data_mean has {mean.size:,} values, an image {math.prod(shape):,}")
    if not np.isfinite(mean).all():
        raise DataError(f"{file}: data_mean contains values that are not finite")
    planes = mean.reshape(channels, height, width).transpose(1, 2, 0)
    return np.ascontiguousarray(planes, np.float32)
