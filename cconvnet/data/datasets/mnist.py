"""MNIST's IDX files, compressed or not: a short header and bytes."""

from __future__ import annotations

import dataclasses
import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cconvnet.data.dataset import Dataset, Pictures, every_fifth, of_arrays
from cconvnet.data.datasets.layouts import LAYOUTS
from cconvnet.data.images import Pixels
from cconvnet.data.listing import beside
from cconvnet.errors import DataError
from cconvnet.system.outputs import write_output

PREFIXES = ("train", "t10k")
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def matches(root: Path, names: set[str]) -> bool:
    """Return True if a folder with entries of these names has one of the four files."""
    return any(
        _idx_file(root, f"{prefix}-{what}") is not None
        for prefix in PREFIXES
        for what in (IMAGES, LABELS)
        if any(prefix in name for name in names)
    )


def open_dataset(root: Path) -> Dataset:
    """Read the training and test images, or split those that exist.

    Raises:
        DataError: A file is missing, cannot be read or is damaged.
    """
    dataset = _find(root)
    files = (_idx_file(root, f"{prefix}-{what}") for prefix in PREFIXES for what in (IMAGES, LABELS))
    return dataclasses.replace(
        dataset, beside=beside(root, {file.name for file in files if file is not None})
    )


def write(root: Path, prefix: str, images: Pixels, labels: npt.NDArray[np.int32]) -> None:
    """Write grey images[n,H,W,1] and their labels, which are below 256, as two compressed files.

    Raises:
        OSError: The files cannot be written.
    """
    for what, values in ((IMAGES, images[..., 0]), (LABELS, labels)):
        header = bytes((0, 0, 8, values.ndim)) + b"".join(size.to_bytes(4, "big") for size in values.shape)
        packed = gzip.compress(header + values.astype(np.uint8).tobytes(), mtime=0)
        write_output(root / f"{prefix}-{what}.gz", [packed])


def _find(root: Path) -> Dataset:
    parts = {
        name: _part(root, prefix)
        for name, prefix in zip(("train", "test"), PREFIXES, strict=True)
        if _idx_file(root, f"{prefix}-{IMAGES}") is not None
    }
    if not parts:
        raise DataError(f"{root} has neither MNIST's training nor its test images; {LAYOUTS}")
    count = 1 + max(int(part.labels.max()) for part in parts.values())
    classes = [str(label) for label in range(count)]
    if len(parts) == 2:
        train, test = parts.values()
        assert train.pixels is not None and test.pixels is not None
        if train.pixels.shape[1:] != test.pixels.shape[1:]:
            raise DataError(f"{root}: training and test images have different sizes")
        return Dataset("mnist", f"mnist {root.name}", classes, train, test)
    (only, part), other = next(iter(parts.items())), {"train": "t10k", "test": "train"}
    note = (
        f"{root} has no {other[only]}-images-idx3-ubyte: of each class every fifth of the "
        f"{len(part):,} {'training' if only == 'train' else 'test (t10k)'} images is used for testing, "
        "the others for training"
    )
    name = f"mnist {root.name} (only {'train' if only == 'train' else 't10k'})"
    return Dataset("mnist", name, classes, *every_fifth(part), [note])


def _part(root: Path, prefix: str) -> Pictures:
    images_file = _idx_file(root, f"{prefix}-{IMAGES}")
    labels_file = _idx_file(root, f"{prefix}-{LABELS}")
    if images_file is None or labels_file is None:
        raise DataError(f"{root} has {prefix}-{IMAGES} but no {prefix}-{LABELS}")
    images, labels = _read_idx(images_file, 3), _read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise DataError(f"{images_file} has {len(images):,} images but {labels_file} {len(labels):,} labels")
    return of_arrays(prefix, images[..., np.newaxis], labels.astype(np.int32))


def _idx_file(root: Path, name: str) -> Path | None:
    """Find the file of this name, perhaps compressed.

    Some programs unpack it to a name with a dot, ".idx3-ubyte".
    """
    names = [f"{form}{packed}" for form in (name, name.replace("-idx", ".idx")) for packed in ("", ".gz")]
    # Others unpack it into a folder of the same name.
    return next((file for one in names for file in (root / one, root / one / one) if file.is_file()), None)


def _read_idx(file: Path, dimensions: int) -> Pixels:
    """Read an IDX file of bytes.

    Its header is 0, 0, 8 (for bytes), the number of dimensions, then the sizes as big-endian 32-bit integers.

    Source: the description on MNIST's page, http://yann.lecun.com/exdb/mnist/.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            header = stream.read(4 + 4 * dimensions)
            magic = bytes((0, 0, 8, dimensions))
            if header[:4] != magic:
                raise DataError(f"{file} begins with {header[:4].hex()}, not with {magic.hex()}")
            shape = [int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4)]
            if len(shape) != dimensions or 0 in shape or math.prod(shape) > 2**40:
                raise DataError(f"{file} claims the impossible sizes {shape}")
            values = stream.read(math.prod(shape))
            # Reading one byte more detects a file that is too long.
            if len(values) < math.prod(shape) or stream.read(1):
                more = "more" if len(values) == math.prod(shape) else f"only {len(values):,}"
                raise DataError(
                    f"{file} has {more} bytes of values; its header claims "
                    f"{'x'.join(map(str, shape))} = {math.prod(shape):,}"
                )
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return np.frombuffer(values, np.uint8).reshape(shape)
