"""A photograph of every tenth class of ImageNet, of the folder CCONVNET_TEST_DATA, and networks' answers."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cconvnet.network import Network

Array = np.ndarray[Any, Any]
PHOTOS = 100
LABELS = 10 * np.arange(PHOTOS)


def photographs(real: Path, side: int) -> Array:
    """Return the centres of this side, uint8[100, side, side, 3], in the order of their classes."""
    with tarfile.open(real / "imagenet-100-photos.tar") as archive:
        members = sorted((one for one in archive if one.isfile()), key=lambda one: one.name)
        files = (archive.extractfile(member) for member in members)
        return np.stack([_centre(file.read(), side) for file in files if file is not None])


def _centre(content: bytes, side: int) -> Array:
    """The RGB centre, after the shorter side became 256 pixels."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = 256 / min(image.size)
    width, height = (round(length * scale) for length in image.size)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    top, left = ((length - 256) // 2 + (256 - side) // 2 for length in (height, width))
    return resized[top : top + side, left : left + side]


def logits(network: Network, images: Array, layer: str) -> Array:
    """Return what a layer computes of whole batches of photographs: a number for each class."""
    rows = []
    for batch in np.split(images, len(images) // network.batch):
        network.load(np.ascontiguousarray(batch), np.zeros(len(batch), np.int64))
        network.forward(train=False)
        rows.append(network.outputs(layer).reshape(len(batch), -1))
    return np.concatenate(rows)


def projections(found: Array) -> Array:
    """Return the logits of each photograph times cos(0), ..., cos(999), divided by that vector's length."""
    return found.astype(np.float64) @ np.cos(np.arange(1000.0)) / np.sqrt(500)


def right(found: Array) -> tuple[int, int]:
    """The number of photographs whose class is first, and of those whose class is among the first five."""
    ranks = (found > found[np.arange(PHOTOS), LABELS][:, None]).sum(1)
    return int((ranks == 0).sum()), int((ranks < 5).sum())
