"""Where images come from: the embedded digits, MNIST's, CIFAR-10's and cuda-convnet's files, or pictures.

open_source() looks at a path and finds out which of them it is. Whatever is missing or wrong there is a
DataError that names the file and says what would be right.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cconvnet.data import batches, digits, shards
from cconvnet.data.extents import Extents
from cconvnet.data.images import (
    DECODERS,
    BrokenImage,
    DataError,
    Pixels,
    default_decoder,
    describe_decoder,
    read_image,
)
from cconvnet.data.splits import Labels, MemorySplit, PictureSplit, Progress, Split, StoredSplit
from cconvnet.data.workers import Decoding

LAYOUTS = """a data folder is one of
  train/CLASS/*.jpg and test/CLASS/*.jpg (or val/CLASS/*.jpg), or only CLASS/*.jpg; .jpeg and .png too
  MNIST's files: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte,
    t10k-labels-idx1-ubyte, each perhaps with .gz
  CIFAR-10's binary version: data_batch_1.bin to data_batch_5.bin, test_batch.bin, batches.meta.txt
  cuda-convnet's or CIFAR-10's batches for Python: data_batch_1, data_batch_2, ..., batches.meta, and perhaps
    test_batch"""

PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Skipped:
    """A broken image that is left out."""

    split: str
    file: str
    reason: str


@dataclass(frozen=True)
class Source:
    """Labelled images for training and testing.

    `classes` names the labels 0, 1, ...; images are uint8 of `image_shape` (H,W,C); `notes` says what a
    reader of a result should know of the data: how a split was made, what decoded the pictures, what was
    ignored. Where there are no separate test images, `test` is `train`. Of pictures, `folder` is where they
    lie and `decoder` what decodes them. `mean`, float32[H,W,C], is the mean image where the data's files hold
    one; training subtracts it instead of one computed from `train`. `colors`, float32[C,C], likewise.
    """

    name: str
    classes: list[str]
    train: Split
    test: Split
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None
    decoder: str = ""
    mean: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    colors: npt.NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train.image_shape

    def report(self) -> list[Skipped]:
        """The broken images found so far; where pictures are decoded while reading, more may follow."""
        splits = [self.train] if self.test is self.train else [self.train, self.test]
        return [
            Skipped(split.name, split.file(index), split.skipped[index])
            for split in splits
            for index in sorted(split.skipped)
        ]


def open_source(
    data: str | os.PathLike[str] | None = None,
    size: int | None = None,
    *,
    cache_bytes: int = 2**30,
    workers: int | None = None,
    decoder: str | None = None,
    progress: Progress | None = None,
) -> Source:
    """Opens `data`: None or "digits" is the embedded default, anything else a folder.

    size: the stored images' side; the shorter side is resized to it and the centre square kept. None keeps
        the files' own size, which must then be the same for all.
    cache_bytes: pictures are decoded once, here, if all of them together take no more than this in memory,
        and otherwise whenever they are read. The images and batches are the same either way.
    workers: decoding processes; None chooses, 0 is none.
    decoder: one of DECODERS for JPEGs; None takes simplejpeg if it is installed, else pillow.
    progress: called with the number of images decoded and their number in all.

    Errors: DataError; ValueError for the other arguments.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if decoder not in (None, *DECODERS):
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, not {decoder!r}")
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be at least 0, not {workers}")
    if data is None or data == "digits":
        return _digits(size)
    root = Path(data)
    if not root.exists():
        raise DataError(f"there is no {root}; data is 'digits' (embedded) or a folder")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; unpack an archive first. {LAYOUTS}")
    names = {entry.name for entry in root.iterdir()}
    if any("-idx3-ubyte" in name for name in names):
        return _mnist(root, size)
    if any(name.startswith(("data_batch_", "test_batch")) and name.endswith(".bin") for name in names):
        return _cifar10(root, names, size)
    if batches.are_here(names):
        return _batches(root, size)
    if shards.are_here(names):
        return _shards(root, size, cache_bytes, workers, decoder or default_decoder(), progress)
    return _picture_folder(root, size, cache_bytes, workers, decoder or default_decoder(), progress)


# ---- arrays ---------------------------------------------------------------------------------------------


def _digits(size: int | None) -> Source:
    train, test = _every_fifth(*digits.load(), size)
    return Source("digits", [str(digit) for digit in range(10)], train, test)


def _every_fifth(images: Pixels, labels: Labels, size: int | None) -> tuple[Split, Split]:
    """A fixed split: of each class every fifth image, beginning with the fifth, is for testing."""
    is_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        is_test[np.flatnonzero(labels == label)[4::5]] = True
    if not is_test.any():
        raise DataError(f"{len(labels)} images are too few to split into training and test images")
    train = MemorySplit("train", images[~is_test], labels[~is_test], size)
    return train, MemorySplit("test", images[is_test], labels[is_test], size)


def _mnist(root: Path, size: int | None) -> Source:
    parts = {
        name: _mnist_part(root, prefix)
        for name, prefix in (("train", "train"), ("test", "t10k"))
        if _idx_file(root, f"{prefix}-images-idx3-ubyte") is not None
    }
    if not parts:
        raise DataError(f"{root} has neither MNIST's training nor its test images; {LAYOUTS}")
    count = 1 + max(int(labels.max()) for _, labels in parts.values())
    classes = [str(label) for label in range(count)]
    if len(parts) == 2:
        if parts["train"][0].shape[1:] != parts["test"][0].shape[1:]:
            raise DataError(f"{root}: training and test images have different sizes")
        train, test = (MemorySplit(name, *part, size) for name, part in parts.items())
        return Source(f"mnist {root.name}", classes, train, test)
    (only, part), other = next(iter(parts.items())), {"train": "t10k", "test": "train"}
    note = (
        f"{root} has no {other[only]}-images-idx3-ubyte: of each class every fifth of the "
        f"{len(part[1]):,} {'training' if only == 'train' else 'test (t10k)'} images is used for testing, "
        "the others for training"
    )
    name = f"mnist {root.name} (only {'train' if only == 'train' else 't10k'})"
    return Source(name, classes, *_every_fifth(*part, size), [note])


def _mnist_part(root: Path, prefix: str) -> tuple[Pixels, Labels]:
    images_file = _idx_file(root, f"{prefix}-images-idx3-ubyte")
    labels_file = _idx_file(root, f"{prefix}-labels-idx1-ubyte")
    if images_file is None or labels_file is None:
        raise DataError(f"{root} has {prefix}-images-idx3-ubyte but no {prefix}-labels-idx1-ubyte")
    images, labels = _read_idx(images_file, 3), _read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise DataError(f"{images_file} has {len(images):,} images but {labels_file} {len(labels):,} labels")
    return images[..., np.newaxis], labels.astype(np.int32)


def _idx_file(root: Path, name: str) -> Path | None:
    return next((file for file in (root / name, root / f"{name}.gz") if file.is_file()), None)


def _read_idx(file: Path, dimensions: int) -> Pixels:
    """An IDX file of bytes: 0, 0, 8 (bytes), dimensions, the sizes as big-endian 32 bits, the values.

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
                raise DataError(f"{file} says it has the sizes {shape}, which cannot be")
            values = stream.read(math.prod(shape))
            # One byte further tells a file that is too long.
            if len(values) < math.prod(shape) or stream.read(1):
                more = "more" if len(values) == math.prod(shape) else f"only {len(values):,}"
                raise DataError(
                    f"{file} has {more} bytes of values; its header says "
                    f"{'x'.join(map(str, shape))} = {math.prod(shape):,}"
                )
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return np.frombuffer(values, np.uint8).reshape(shape)


def _cifar10(root: Path, names: set[str], size: int | None) -> Source:
    files = [f"data_batch_{number}.bin" for number in range(1, 6)]
    missing = [name for name in (*files, "test_batch.bin", "batches.meta.txt") if name not in names]
    if missing:
        raise DataError(
            f"{root} lacks {', '.join(missing)} of CIFAR-10's binary version (cifar-10-binary.tar.gz)"
        )
    classes = (root / "batches.meta.txt").read_text().split()
    train = [_read_cifar10(root / name, len(classes)) for name in files]
    images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    test = MemorySplit("test", *_read_cifar10(root / "test_batch.bin", len(classes)), size)
    return Source(f"cifar10 {root.name}", classes, MemorySplit("train", images, labels, size), test)


def _read_cifar10(file: Path, classes: int) -> tuple[Pixels, Labels]:
    """Records of a label byte and the red, green and blue planes of 32x32 bytes.

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
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _batches(root: Path, size: int | None) -> Source:
    """cuda-convnet's batches, or CIFAR-10's for Python."""
    found = batches.read(root)
    name = f"batches {root.name}"
    # The mean of resized images is another one.
    mean = found.mean if size is None or found.train[0].shape[1:3] == (size, size) else None
    notes = list(found.notes)
    if mean is not None:
        notes.append(f"the mean image is data_mean of {root / batches.META}")
    train: Split
    test: Split
    if found.test is None:
        notes.append(f"{root} has only one batch: of each class every fifth image is used for testing")
        train, test = _every_fifth(*found.train, size)
    else:
        train, test = MemorySplit("train", *found.train, size), MemorySplit("test", *found.test, size)
    return Source(name, found.classes, train, test, notes, mean=mean)


# ---- pictures -------------------------------------------------------------------------------------------


def _picture_folder(
    root: Path,
    size: int | None,
    cache_bytes: int,
    workers: int | None,
    decoder: str,
    progress: Progress | None,
) -> Source:
    notes = [f"pictures decoded by {describe_decoder(decoder)}"]
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

    files = {
        name: [str(file) for pictures in listing.values() for file in pictures]
        for name, listing in listings.items()
    }
    shape = (size, size, 3) if size is not None else _first_shape(files["train"], decoder)
    decoding = Decoding(size, shape, decoder)
    splits: dict[str, Split] = {}
    in_all = sum(map(len, files.values()))
    in_memory = in_all * math.prod(shape) <= cache_bytes
    done = 0
    for name, listing in listings.items():
        counts = [len(pictures) for pictures in listing.values()]
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
        split = PictureSplit(name, files[name], Extents.whole(files[name]), labels, decoding)
        if in_memory:
            report = _offset(progress, done, in_all)
            splits[name] = split.into_memory(workers, report)
            done += len(split)
        else:
            splits[name] = split
    if not in_memory:
        notes.append("pictures are decoded whenever they are read")
    train, test = splits["train"], splits.get("test", splits["train"])
    return Source(f"pictures {root.name}", classes, train, test, notes, root, describe_decoder(decoder))


def _shards(
    root: Path,
    size: int | None,
    cache_bytes: int,
    workers: int | None,
    decoder: str,
    progress: Progress | None,
) -> Source:
    origin = shards.open_origin(root)
    size = size or origin.size
    splits: list[StoredSplit] = []
    for name, pictures in (("train", origin.train), ("test", origin.test)):
        if pictures is None:
            continue
        assert pictures.extents is not None
        if pictures.raw is not None:
            splits.append(
                shards.RawSplit(name, pictures.names, pictures.extents, pictures.raw, pictures.labels, size)
            )
        else:
            assert size is not None
            decoding = Decoding(size, (size, size, 3), decoder)
            splits.append(PictureSplit(name, pictures.names, pictures.extents, pictures.labels, decoding))
    in_all = sum(map(len, splits))
    found: list[Split] = list(splits)
    if in_all * math.prod(splits[0].image_shape) <= cache_bytes:
        found = [
            split.into_memory(workers, _offset(progress, number * len(splits[0]), in_all))
            for number, split in enumerate(splits)
        ]
    train, test = found[0], found[-1]
    fits = origin.mean is not None and origin.mean.shape == train.image_shape
    mean, colors = (origin.mean, origin.colors) if fits else (None, None)
    return Source(
        origin.name, origin.classes, train, test, origin.notes, root, decoder, mean=mean, colors=colors
    )


def _list_pictures(folder: Path, notes: list[str]) -> dict[str, list[str]]:
    """Class name to its picture files, both sorted by name."""
    listing: dict[str, list[str]] = {}
    other = 0
    try:
        for entry in os.scandir(folder):
            if not entry.is_dir() or entry.name.startswith("."):
                continue
            names = [file.name for file in os.scandir(entry.path) if file.is_file()]
            pictures = [name for name in names if name.lower().endswith(PICTURES)]
            other += len(names) - len(pictures)
            listing[entry.name] = [f"{entry.path}/{name}" for name in sorted(pictures)]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    if not any(listing.values()):
        raise DataError(f"{folder} has no class folders with pictures; {LAYOUTS}")
    empty = sorted(name for name, pictures in listing.items() if not pictures)
    if empty:
        raise DataError(
            f"{folder} has no pictures ({', '.join(PICTURES)}) of {_some(empty)}; fill or remove the folder"
        )
    if other:
        notes.append(f"{folder}: {other:,} files that are not {', '.join(PICTURES)} are ignored")
    return dict(sorted(listing.items()))


def _class_difference(folders: dict[str, Path], listings: dict[str, dict[str, list[str]]]) -> str:
    lines = ["training and test pictures must have the same class folders:"]
    for name, other in (("train", "test"), ("test", "train")):
        alone = [label for label in listings[name] if label not in listings[other]]
        if alone:
            lines.append(f"only {folders[name]} has {_some(alone)}")
    return " ".join(lines)


def _some(names: list[str], most: int = 5) -> str:
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _first_shape(files: list[str], decoder: str) -> tuple[int, int, int]:
    """The shape of the first picture that is not broken."""
    for file in files:
        try:
            height, width, channels = read_image(file, None, None, decoder).shape
            return height, width, channels
        except BrokenImage:
            continue
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}") from error
    raise DataError(f"not one picture can be decoded; the first is {files[0]}")


def _offset(progress: Progress | None, before: int, in_all: int) -> Progress | None:
    if progress is None:
        return None
    report = progress
    return lambda done, _: report(before + done, in_all)
