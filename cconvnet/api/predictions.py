"""Predicted classes of single images, given as arrays, pictures or files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from cconvnet.data.datasets.arrays import host_array, image_array
from cconvnet.data.images import Pixels, fit_pixels
from cconvnet.data.listing import is_picture
from cconvnet.errors import DataError
from cconvnet.evaluate import Segmenter, Trained, image_views, mean_probabilities, read_picture
from cconvnet.evaluate.predictions import read_whole
from cconvnet.evaluate.segmentation import picture_of, shares
from cconvnet.system.outputs import save_picture

_SHOWN = 3  # classes in a text
_SHOWN_IMAGES = 20


class Prediction:
    """The probabilities of the classes for one image.

    Attributes:
        name: The file, or the image's place among the given ones.
        classes: The names of the classes.
        probabilities: float64[classes].
    """

    def __init__(self, name: str, classes: list[str], probabilities: npt.NDArray[np.float64]) -> None:
        self.name, self.classes, self.probabilities = name, classes, probabilities

    @property
    def label(self) -> int:
        """The number of the most probable class."""
        return int(self.probabilities.argmax())

    @property
    def class_name(self) -> str:
        """The name of the most probable class."""
        return self.classes[self.label]

    @property
    def probability(self) -> float:
        """The probability of the most probable class, from 0 to 1."""
        return float(self.probabilities[self.label])

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the most probable classes, each with its probability, the most probable first."""
        order = (-self.probabilities).argsort(kind="stable")[:count].tolist()
        return [(self.classes[label], float(self.probabilities[label])) for label in order]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {100 * share:.1f}%" for name, share in self.top(_SHOWN))
        return f"{self.name}: {shown}" if self.name else shown


class Predictions(Sequence[Prediction]):
    """The predictions for several images, in their order.

    Attributes:
        names: The files, or the images' places among the given ones.
        classes: The names of the classes.
        probabilities: float64[images, classes].
    """

    def __init__(self, names: list[str], classes: list[str], probabilities: npt.NDArray[np.float64]) -> None:
        self.names, self.classes, self.probabilities = names, classes, probabilities

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The number of the most probable class of each image, int64[images]."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def class_names(self) -> list[str]:
        """The name of the most probable class of each image."""
        return [self.classes[label] for label in self.labels.tolist()]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> Predictions: ...
    def __getitem__(self, index: int | slice) -> Prediction | Predictions:
        if isinstance(index, slice):
            return Predictions(self.names[index], self.classes, self.probabilities[index])
        return Prediction(self.names[index], self.classes, self.probabilities[index])

    def __repr__(self) -> str:
        lines = [repr(one) for one in self[:_SHOWN_IMAGES]]
        if len(self) > _SHOWN_IMAGES:
            lines.append(f"... and {len(self) - _SHOWN_IMAGES:,} more")
        return "\n".join(lines)


class Segmentation:
    """The most probable class of each pixel of one image.

    Attributes:
        name: The file, or the image's place among the given ones.
        classes: The names of the classes.
        labels: uint8[H,W], of the image's size.
    """

    def __init__(self, name: str, classes: list[str], labels: npt.NDArray[np.uint8]) -> None:
        self.name, self.classes, self.labels = name, classes, labels

    def shares(self) -> list[tuple[str, float]]:
        """Return the classes that there are with their shares of the pixels, the largest first."""
        return shares(self.labels, self.classes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the labels as a PNG with Pascal VOC's palette, whose indices they are.

        Raises:
            OSError: The file cannot be written.
        """
        save_picture(picture_of(self.labels), Path(path))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {100 * share:.1f}%" for name, share in self.shares()[:_SHOWN])
        return f"{self.name}: {shown}" if self.name else shown


# ---- the images that a program gives -----------------------------------------------------------------------


def named_images(images: Any, channels: int) -> tuple[list[str], list[Any], bool]:
    """Take apart what was given as an image or several.

    Args:
        images: A file, a folder of pictures, a picture of Pillow, an array [H,W], [H,W,C], [n,H,W] or
            [n,H,W,C], or a sequence of these.
        channels: Of the network's images. An array of three dimensions is one image if its last is this.

    Returns:
        A name for each image, the images, and True if it is a single one.

    Raises:
        DataError: There is no image, or a folder has no picture.
    """
    if isinstance(images, str | Path):
        path = Path(images)
        if not path.is_dir():
            return [str(path)], [path], True
        files = sorted(file for file in path.iterdir() if file.is_file() and is_picture(file.name))
        if not files:
            raise DataError(f"{path} contains no pictures (.jpg, .jpeg, .png)")
        return [str(file) for file in files], list(files), False
    if _is_pillow(images):
        return [_pillow_name(images)], [images], True
    if hasattr(images, "shape"):
        array = host_array(images)
        single = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == channels)
        pixels = image_array(array[None] if single else array, "images")
        return [""] if single else [f"image {number}" for number in range(len(pixels))], list(pixels), single
    names: list[str] = []
    parts: list[Any] = []
    for number, one in enumerate(images):
        found, inside, single = named_images(one, channels)
        if not single:
            raise DataError(f"image {number} of the given ones is several images: {found[0]}, ...")
        names.append(found[0] or f"image {number}")
        parts += inside
    if not parts:
        raise DataError("there are no images to predict")
    return names, parts, False


def stored_image(image: Any, trained: Trained) -> Pixels:
    """Return one image as the network's data stores it, uint8[H,W,C], read and resized by its rules."""
    height, width, channels = trained.image_shape
    if isinstance(image, Path):
        return read_picture(image, trained.image_shape, trained.preprocessing)
    return _with_channels(fit_pixels(_pixels(image, trained), (height, width)), channels)


def _pixels(image: Any, trained: Trained) -> Pixels:
    """Return a picture of Pillow or an array as uint8[H,W,C]."""
    if _is_pillow(image):
        from PIL import ImageOps

        if trained.preprocessing.orientation == "exif":
            image = ImageOps.exif_transpose(image)
        image = np.asarray(image.convert("RGB"))
    return np.ascontiguousarray(image)


def _with_channels(pixels: Pixels, channels: int) -> Pixels:
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def segmentations(trained: Trained, names: list[str], images: list[Any]) -> list[Segmentation]:
    """Return the labels that a network gives the pixels of images from named_images(), each of its own size.

    Raises:
        DataError: A file cannot be read, or is larger than the network takes.
    """
    segmenter, channels = Segmenter(trained), trained.image_shape[2]
    found = []
    for name, image in zip(names, images, strict=True):
        if isinstance(image, Path):
            pixels = read_whole(image, channels, trained.preprocessing)
        else:
            pixels = _with_channels(_pixels(image, trained), channels)
        found.append(Segmentation(name, trained.classes, segmenter.labels(pixels)))
    return found


def predictions(trained: Trained, names: list[str], images: list[Any], views: str = "center") -> Predictions:
    """Return the predictions of a network for images from named_images().

    Raises:
        DataError: A file cannot be read.
        ValueError: There are no such views.
    """
    batch, chosen = trained.network.batch, image_views(trained, views)
    found = [
        mean_probabilities(
            trained.network,
            np.stack([stored_image(image, trained) for image in images[start : start + batch]]),
            chosen,
        )
        for start in range(0, len(images), batch)
    ]
    return Predictions(names, trained.classes, np.concatenate(found))


def _is_pillow(image: Any) -> bool:
    return hasattr(image, "convert") and hasattr(image, "getbands")


def _pillow_name(image: Any) -> str:
    return str(getattr(image, "filename", "") or "")
