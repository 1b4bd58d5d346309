"""Datasets of arrays: those that a Python program has in memory, and those of an ``.npz`` file."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cconvnet import checks
from cconvnet.data.dataset import Dataset, Ints, Labels, Pictures
from cconvnet.data.images import Pixels
from cconvnet.data.label_images import IGNORED, has_pixels
from cconvnet.data.names import listed
from cconvnet.errors import DataError, nearest
from cconvnet.system.outputs import replacing

SUFFIX = ".npz"
FILE = "arrays.npz"  # the arrays that a run's folder keeps
# What a run's settings name as its data if arrays were given; a folder of that name is given by its path.
NAME = "arrays"

# The names of images and labels in a file, in the order of the search.
TRAIN_KEYS = (("x", "y"), ("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"))
TEST_KEYS = (("x_test", "y_test"), ("test_images", "test_labels"), ("x_val", "y_val"))
POSITIONS, CLASSES = "test", "classes"

_CPU_KINDS = (1, 3)  # DLPack's kDLCPU and kDLCUDAHost


def host_array(value: Any) -> npt.NDArray[Any]:
    """Return an array of any library as one of NumPy's, without a copy if its memory is the host's.

    Args:
        value: An array of NumPy, CuPy or PyTorch, anything with ``__dlpack__``, or nested sequences.
    """
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):  # PyTorch exports no tensor that takes part in a gradient
        value = value.detach()
    if hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] not in _CPU_KINDS:
        value = value.get() if hasattr(value, "get") else value.cpu()  # CuPy, PyTorch
    if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray):
        return np.from_dlpack(value)
    return np.asarray(value)


# ---- images ----------------------------------------------------------------------------------------------


def image_array(value: Any, name: str = "x") -> Pixels:
    """Return images as uint8[n,H,W,C].

    Args:
        value: Images [n,H,W] or [n,H,W,C] with C of 1 or 3; whole numbers from 0 to 255.
        name: The argument, for errors.

    Raises:
        DataError: They are something else. The text contains the line that converts them, where there is one.
    """
    array = host_array(value)
    if array.dtype.kind not in "uifb":
        raise DataError(f"{name} must be an array of images, not of {array.dtype}: {_excerpt(array)}")
    if array.size == 0:
        raise DataError(f"{name} has no images: its shape is {array.shape}")
    if array.dtype.kind in "fb":
        raise DataError(_not_whole(array, name))
    shape = array.shape
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        raise DataError(_other_shape(shape, name))
    if array.dtype != np.uint8:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            raise DataError(f"{name} is {array.dtype} with values from {low} to {high}; images are 0 to 255")
        array = array.astype(np.uint8)
    return array


def _not_whole(array: npt.NDArray[Any], name: str) -> str:
    """Return the error for floats and truth values, with the line that makes bytes of them."""
    if array.dtype.kind == "b":
        return f"{name} is bool; images are uint8: {name}.astype(np.uint8) * 255"
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{name} is {array.dtype} with values that are not finite; images are uint8 from 0 to 255"
    if low < 0:
        scaled = f"(({name} - {low:g}) * (255 / {high - low or 1:g}))"
    elif 16 < high <= 255 and (array[:64] % 1 == 0).all():
        scaled = name
    else:
        scaled = f"({name} * {'255' if high <= 1 else f'(255 / {high:g})'})"
    line = f"{scaled}.astype(np.uint8)" if scaled == name else f"{scaled}.round().astype(np.uint8)"
    values = f"{array.dtype} with values from {low:g} to {high:g}"
    return f"{name} is {values}; images are uint8 from 0 to 255: {line}"


def _other_shape(shape: tuple[int, ...], name: str) -> str:
    """Return the error for a shape that is not one of images, with the line that makes it so."""
    text = f"{name} has the shape {shape}; images are [n,H,W], [n,H,W,1] or [n,H,W,3]"
    if len(shape) == 2:
        for channels in (1, 3):
            side = math.isqrt(shape[1] // channels)
            if side * side * channels == shape[1]:
                return f"{text}: {name}.reshape(-1, {side}, {side}, {channels})"
    if len(shape) == 4 and shape[1] in (1, 3):
        return f"{text}: {name}.transpose(0, 2, 3, 1)"
    if len(shape) == 4 and shape[3] == 4:
        return f"{text}: {name}[..., :3] leaves out the fourth, such as the opacity"
    return text


def _excerpt(array: npt.NDArray[Any]) -> str:
    text = repr(array.reshape(-1)[:1].tolist())
    return text if len(text) < 60 else f"{text[:57]}..."


# ---- labels ----------------------------------------------------------------------------------------------


def _label_array(value: Any, name: str, images: Pixels) -> npt.NDArray[Any]:
    """Return labels as int64[n] or as names[n], or label images as uint8[n,H,W]."""
    array = host_array(value)
    if array.ndim == 3:
        return _label_images(array, name, images)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = f": {name}.argmax(axis=1)" if array.ndim == 2 else ""
        raise DataError(f"{name} has the shape {array.shape}; labels are [n], one for each image{hint}")
    if len(array) != len(images):
        raise DataError(f"{name} has {len(array):,} labels for {len(images):,} images")
    if array.dtype.kind == "O" and all(isinstance(one, str) for one in array):
        array = array.astype(str)
    if array.dtype.kind == "U":
        return array
    if array.dtype.kind not in "ui":
        hint = f": {name}.astype(int)" if array.dtype.kind in "fb" else ""
        raise DataError(f"{name} is {array.dtype}; labels are whole numbers from 0 on, or names{hint}")
    if int(array.min()) < 0 or int(array.max()) > checks.MAX_INT32:
        worst = int(array.min()) if int(array.min()) < 0 else int(array.max())
        raise DataError(f"{name} has the label {worst:,}; labels are whole numbers from 0 on, or names")
    return array.astype(np.int64)


def _label_images(array: npt.NDArray[Any], name: str, images: Pixels) -> npt.NDArray[np.uint8]:
    """Return a label for each pixel."""
    if array.shape != images.shape[:3]:
        raise DataError(
            f"{name} has the shape {array.shape}; labels of pixels are {images.shape[:3]}, as the images"
        )
    if array.dtype.kind not in "ui" or int(array.min()) < 0 or int(array.max()) > IGNORED:
        raise DataError(
            f"{name} is {array.dtype}, from {array.min()} to {array.max()}; labels of pixels are whole "
            f"numbers from 0 on, or {IGNORED}, which is ignored"
        )
    if (array == IGNORED).all():
        raise DataError(f"{name} has no label but {IGNORED}, which is ignored")
    return array.astype(np.uint8)


def _class_names(classes: Sequence[str] | None, labels: Sequence[npt.NDArray[Any]]) -> list[str]:
    """Return the names of the classes.

    Without given ones they are the names among the labels, sorted as a folder's classes are, or the numbers
    from 0 to the largest label.
    """
    if classes is not None:
        names = [str(name) for name in classes]
        if not names or len(set(names)) < len(names):
            raise DataError(f"classes must be different names, not {list(classes)!r}")
        return names
    if len({has_pixels(array) for array in labels}) == 2:
        raise DataError("the labels of training and test images must both be of pixels or both of images")
    if len({array.dtype.kind == "U" for array in labels}) == 2:
        raise DataError("the labels of training and test images must both be numbers or both be names")
    if labels[0].dtype.kind == "U":
        return sorted({str(name) for name in np.unique(labels[0])})
    highest = max(int(array[array != IGNORED if has_pixels(array) else ...].max()) for array in labels)
    return [str(number) for number in range(1 + highest)]


def _numbers(labels: npt.NDArray[Any], name: str, classes: list[str]) -> Labels:
    """Return labels as numbers of the classes, int32[n]."""
    if has_pixels(labels):
        if int(worst := labels[labels != IGNORED].max()) >= len(classes):
            raise DataError(f"{name} has the label {worst}, but there are {len(classes):,} classes")
        return labels  # a byte for each pixel is enough
    if labels.dtype.kind != "U":
        if int(labels.max()) >= len(classes):
            raise DataError(
                f"{name} has the label {int(labels.max()):,}, but there are {len(classes):,} classes, "
                f"{listed(classes)}"
            )
        return labels.astype(np.int32)
    number = {text: index for index, text in enumerate(classes)}
    found, places = np.unique(labels, return_inverse=True)
    for text in found:
        if str(text) not in number:
            raise DataError(nearest(f"the labels of {name}", str(text), classes))
    return np.array([number[str(text)] for text in found], np.int32)[places]


# ---- test images of the training images ------------------------------------------------------------------


def split_positions(labels: Labels, share: float | None, seed: int = 0) -> Ints:
    """Choose test images, of each class the same share.

    The choice depends on the labels, the share and the seed alone, with any version of NumPy.

    Args:
        labels: int32[n], or label images, all of which are taken for those of one class.
        share: The share of each class's images, from 0 to less than 1. Of classes with at least two images
            one is chosen, and one stays, at least. None: every fifth image of each class, from the fifth on.
        seed: Of the random choice.

    Returns:
        The sorted positions of the test images.
    """
    if has_pixels(labels):
        labels = np.zeros(len(labels), np.int32)
    chosen = []
    for label in np.unique(labels).tolist():
        places = np.flatnonzero(labels == label)
        if share is None:
            chosen.append(places[4::5])
            continue
        count = min(max(math.floor(len(places) * share + 0.5), 1), len(places) - 1) if share else 0
        # Raw words never change between versions of NumPy.
        words = np.random.Philox(key=np.array([seed, label], np.uint64)).random_raw(len(places))
        chosen.append(places[np.argsort(words, kind="stable")[:count]])
    return np.sort(np.concatenate(chosen))


# ---- the arrays of a training ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images and labels in memory, as a training uses them.

    The images are not copied, unless some of `x` are for testing.

    Attributes:
        x: uint8[n,H,W,C].
        y: int32[n], the numbers of their classes, or uint8[n,H,W], those of their pixels.
        classes: The names of the classes.
        x_test: Test images, uint8[m,H,W,C]; None if they are among `x`.
        y_test: Their labels, int32[m].
        test: The sorted positions in `x` of the test images; empty if there are none.
        name: The data's name in results.
        is_sample: True if all are test images of a trained network, which need not be of every class.
    """

    x: Pixels
    y: Labels
    classes: list[str]
    x_test: Pixels | None = None
    y_test: Labels | None = None
    test: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    name: str = NAME
    is_sample: bool = False

    @classmethod
    def of(
        cls,
        data: Sequence[Any],
        *,
        classes: Sequence[str] | None = None,
        test: float | None = None,
        test_seed: int = 0,
    ) -> Arrays:
        """Check and convert arrays.

        Args:
            data: ``(x, y)``, or ``((x, y), (x_test, y_test))``. Images are as for image_array(); labels are
                whole numbers from 0 on, or names, or numbers of pixels, [n,H,W], of which 255 is ignored.
            classes: The names of the classes, in the order of their numbers.
            test: The share of the images of each class that are for testing; 0: none. None: every fifth.
            test_seed: Of the choice of test images.

        Raises:
            DataError: The arrays cannot be used; the text contains the line that converts them, if one does.
            ValueError: Another argument is out of range.
        """
        if len(data) != 2:
            raise DataError(f"data must be (x, y) or ((x, y), (x_test, y_test)), not {len(data)} arrays")
        first, second = data
        if _is_pair(first) and _is_pair(second):
            if test is not None:
                raise DataError(f"test={test} chooses test images, but data has x_test and y_test already")
            return cls._of_pairs(first, second, ("x", "y", "x_test", "y_test"), classes)
        checks.whole("test_seed", test_seed, 0, checks.MAX_SEED)
        if test is not None and not checks.real("test", test, low=0) < 1:
            raise checks.NumberError(f"test must be below 1, a share of the images, not {test}")
        arrays = cls._of_pairs((first, second), None, ("x", "y"), classes)
        positions = split_positions(arrays.y, test, test_seed)
        if test is None and not len(positions):
            raise DataError(
                f"{len(arrays.y):,} images are too few to use every fifth of a class for testing; "
                "give data=((x, y), (x_test, y_test)), or test=0 to test on the training images"
            )
        return cls(arrays.x, arrays.y, arrays.classes, test=positions)

    @classmethod
    def _of_pairs(
        cls, train: Any, test: Any, names: Sequence[str], classes: Sequence[str] | None, name: str = NAME
    ) -> Arrays:
        """Check the arrays of training, and those of testing if they are given."""
        pairs = [train] if test is None else [train, test]
        images = [image_array(pair[0], names[2 * i]) for i, pair in enumerate(pairs)]
        labels = [_label_array(pair[1], names[2 * i + 1], images[i]) for i, pair in enumerate(pairs)]
        found = _class_names(classes, labels)
        numbers = [_numbers(array, names[2 * i + 1], found) for i, array in enumerate(labels)]
        if test is None:
            return cls(images[0], numbers[0], found, name=name)
        if images[0].shape[1:] != images[1].shape[1:]:
            raise DataError(
                f"{names[0]} has images of {_size(images[0])}, but {names[2]} of {_size(images[1])}"
            )
        return cls(images[0], numbers[0], found, images[1], numbers[1], name=name)

    @classmethod
    def for_testing(cls, data: Sequence[Any], classes: Sequence[str]) -> Arrays:
        """Check and convert ``(x, y)``, all of which are test images of a trained network.

        Raises:
            DataError: As :meth:`of`.
        """
        if len(data) != 2 or (_is_pair(data[0]) and _is_pair(data[1])):
            raise DataError("data must be (x, y), the images and labels to test with")
        return dataclasses.replace(cls._of_pairs(data, None, ("x", "y"), classes), is_sample=True)

    @classmethod
    def read(cls, file: Path) -> Arrays:
        """Read the arrays of an ``.npz`` file.

        Args:
            file: Its images and labels are called as in TRAIN_KEYS and TEST_KEYS. Without test images,
                ``test`` may contain the positions of those among the others; otherwise every fifth image of
                each class is for testing. ``classes`` may name the classes.

        Raises:
            DataError: The file is damaged, or it lacks images or labels.
        """
        values = _read(file)
        train = next((pair for pair in TRAIN_KEYS if pair[0] in values), None)
        test = next((pair for pair in TEST_KEYS if pair[0] in values), None)
        if train is None:
            there = listed(sorted(values)) or "none"
            raise DataError(f"{file} has no images called x; its arrays are {there}")
        for images, labels in (train, test or train):
            if labels not in values:
                raise DataError(f"{file} has {images} but no {labels}")
        pairs = [tuple(values[key] for key in pair) for pair in (train, *([test] if test else []))]
        names = [f"{file}: {key}" for pair in (train, *([test] if test else [])) for key in pair]
        classes = [str(name) for name in values[CLASSES].tolist()] if CLASSES in values else None
        name = NAME if file.name == FILE else f"{NAME} {file.stem}"
        arrays = cls._of_pairs(pairs[0], pairs[1] if test else None, names, classes, name)
        if test:
            return arrays
        positions = values[POSITIONS] if POSITIONS in values else split_positions(arrays.y, None)
        _check_positions(positions, len(arrays.y), f"{file}: {POSITIONS}")
        if POSITIONS not in values and not len(positions):
            raise DataError(
                f"{file} has no test images (x_test, y_test), and its {len(arrays.y):,} images are too few "
                "to use every fifth of a class"
            )
        return cls(arrays.x, arrays.y, arrays.classes, test=positions.astype(np.int64), name=name)

    @property
    def nbytes(self) -> int:
        """The bytes of all images."""
        return self.x.nbytes + (0 if self.x_test is None else self.x_test.nbytes)

    def save(self, file: Path) -> None:
        """Write the arrays to an ``.npz`` file, atomically. ``Arrays.read`` returns the same from it.

        Raises:
            OSError: The file cannot be written.
        """
        values: dict[str, Any] = {"x": self.x, "y": self.y, CLASSES: np.array(self.classes)}
        if self.x_test is None:
            values[POSITIONS] = self.test
        else:
            values |= {"x_test": self.x_test, "y_test": self.y_test}
        with replacing(file) as descriptor, os.fdopen(os.dup(descriptor), "wb") as stream:
            np.savez(stream, **values)

    def dataset(self) -> Dataset:
        """Return the arrays as a dataset; its pictures are called ``x[5]`` and ``x_test[5]``."""
        test: Pictures | None = None
        if self.x_test is not None and self.y_test is not None:
            names = [f"x_test[{number}]" for number in range(len(self.y_test))]
            test = Pictures(names, self.y_test, pixels=self.x_test)
        elif len(self.test):
            test = self._part(self.test)
        train = self._part(np.setdiff1d(np.arange(len(self.y)), self.test))
        notes = []
        if test is None and not self.is_sample:
            notes.append("there are no test images: the training images serve for testing too")
        return Dataset(NAME, self.name, self.classes, train, test, notes)

    def _part(self, positions: Ints) -> Pictures:
        """Return some of the images; all of them are not copied."""
        names = [f"x[{number}]" for number in positions.tolist()]
        if len(positions) == len(self.y):
            return Pictures(names, self.y, pixels=self.x)
        return Pictures(names, self.y[positions], pixels=self.x[positions])


def open_dataset(file: Path) -> Dataset:
    """Open an ``.npz`` file of arrays; see :meth:`Arrays.read`."""
    return Arrays.read(file).dataset()


def matches(path: Path) -> bool:
    """Return True if a path is that of a file of arrays."""
    return path.suffix.lower() == SUFFIX and path.is_file()


def recorded(run: str | os.PathLike[str]) -> Path:
    """Return the file of the arrays that a run was trained on.

    Args:
        run: The run's folder.

    Raises:
        DataError: The run's folder does not keep them.
    """
    file = Path(run) / FILE
    if not file.exists():
        raise DataError(
            f"{run} was trained on arrays that it does not keep; give them again: in Python data=(x, y), or "
            "as --data an .npz file with x, y, x_test and y_test"
        )
    return file


def _read(file: Path) -> Mapping[str, npt.NDArray[Any]]:
    try:
        arrays = np.load(file, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            raise DataError(f"{file} contains one array, not several: it is a .npy file")
        with arrays:
            keys = {key for pair in (*TRAIN_KEYS, *TEST_KEYS) for key in pair} | {POSITIONS, CLASSES}
            return {name: arrays[name] if name in keys else np.zeros(0) for name in arrays.files}
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise DataError(f"there is not enough memory to read {file}") from error
    except Exception as error:  # a damaged zip file raises nearly anything
        raise DataError(f"{file} is no sound .npz file of arrays: {error}") from error


def _check_positions(positions: npt.NDArray[Any], images: int, name: str) -> None:
    rising = positions.ndim == 1 and positions.dtype.kind in "ui" and bool((np.diff(positions) > 0).all())
    if not rising or (len(positions) and not 0 <= positions[0] <= positions[-1] < images):
        raise DataError(f"{name} must be rising positions of test images among the {images:,} of x")
    if len(positions) == images:
        raise DataError(f"{name} leaves no image for training")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def _size(images: Pixels) -> str:
    return "x".join(map(str, images.shape[1:]))
