"""Digits of one width: the bounding box of each is scaled to so many columns, and stays as high as it is.

Source: Ciresan, Meier and Schmidhuber 2012, "Multi-column Deep Neural Networks for Image Classification",
section 3.1. There the columns of the network read digits of the widths 10, 12, ..., 20, or of their own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cconvnet.checks import whole
from cconvnet.data.datasets import mnist
from cconvnet.data.images import Pixels
from cconvnet.data.sources import Source
from cconvnet.errors import DataError

_CHUNK = 4096


def with_width(images: Pixels, width: int) -> Pixels:
    """Return digits[n,H,W,1] whose bounding boxes have this width, in the middle of the image's columns.

    A digit is what is not 0. The columns of its box are resized by a filter that widens with the reduction.
    An image of zeros stays one.

    Raises:
        ValueError: The images are not grey, or are narrower than the width.
    """
    from PIL import Image

    height, columns, channels = images.shape[1:]
    if channels != 1:
        raise ValueError(f"digits must be grey, not of {channels} channels")
    whole("--width", width, 1, columns)
    result = np.zeros_like(images)
    first = (columns - width) // 2
    for image, wide in zip(images[..., 0], result[..., 0], strict=True):
        inked = np.flatnonzero(image.any(axis=0))
        if len(inked):
            box = Image.fromarray(np.ascontiguousarray(image[:, inked[0] : inked[-1] + 1]))
            wide[:, first : first + width] = box.resize((width, height), Image.Resampling.BILINEAR)
    return result


def write(source: Source, width: int, out: Path) -> None:
    """Write the training and test digits of a source as MNIST's files, all of one width and in their order.

    Raises:
        ValueError: The images are not grey, or are narrower than the width.
        DataError: `out` exists, or an image cannot be read.
        OSError: The files cannot be written.
    """
    if out.exists():
        raise DataError(f"{out} exists already")
    parts = {}
    for split in (source.train, source.test):
        numbers = np.arange(len(split))
        read = [split.read(numbers[at : at + _CHUNK])[0] for at in range(0, len(split), _CHUNK)]
        if sum(map(len, read)) != len(split):
            raise DataError(f"some {split.name} images of {source.name} cannot be read")
        parts[split.name] = np.concatenate([with_width(images, width) for images in read]), split.labels
    out.mkdir(parents=True)
    for prefix, name in zip(mnist.PREFIXES, ("train", "test"), strict=True):
        mnist.write(out, prefix, *parts[name])
