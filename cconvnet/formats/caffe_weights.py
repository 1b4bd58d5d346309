"""The weights of a .caffemodel: for each layer, by its name, some arrays.

Older files have another form of layers, and name the four sizes of each array: number, channels, height and
width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.errors import DataError
from cconvnet.formats.protobuf import Message, Schema, open_message

Array = np.ndarray[Any, Any]

_BLOB: Schema = {
    **{"num": 1, "channels": 2, "height": 3, "width": 4, "data": 5, "shape": (7, {"dim": 1})},
    "double_data": 8,
}
_NET: Schema = {
    "name": 1,
    "layers": (2, {"name": 4, "blobs": (6, _BLOB)}),
    "layer": (100, {"name": 1, "blobs": (7, _BLOB)}),
}
_OLD_SIZES = ("num", "channels", "height", "width")


class Blobs:
    """The arrays of a network's layers.

    Attributes:
        path: of the file.
        known: whether there are weights; without them all arrays are constants in their place.
    """

    def __init__(self, path: Path, layers: Mapping[str, list[Message]] | None) -> None:
        self.path = path
        self.known = layers is not None
        self._layers = layers or {}
        self._taken: set[str] = set()

    def count(self, layer: str, expected: int) -> int:
        """Return how many arrays a layer has; without weights as many as expected."""
        return len(self._layers.get(layer, [])) if self.known else expected

    def take(self, layer: str, index: int, shape: tuple[int, ...], default: float = 0.0) -> Array:
        """Return an array of a layer.

        Args:
            layer: its name.
            index: of the array.
            shape: that it must have; leading sizes of 1 are left out in old files.
            default: without weights, the value in their place.

        Raises:
            DataError: there is none, or it has another shape; the text names file, layer and array.
        """
        if not self.known:
            return np.broadcast_to(np.float32(default), shape)
        if layer not in self._layers:
            raise DataError(f"{self.path}: has no layer {layer!r} with weights")
        self._taken.add(layer)
        blobs = self._layers[layer]
        where = f"layer {layer!r}: blob {index}"
        if index >= len(blobs):
            raise DataError(f"{self.path}: {where} is missing; there are {len(blobs)}")
        blob = blobs[index]
        sizes = _sizes(blob)
        if _without_ones(sizes) != _without_ones(shape):
            raise DataError(
                f"{self.path}: {where} has the shape {list(sizes)}, but {list(shape)} is expected"
            )
        values = blob.reals("data") if "data" in blob else blob.reals("double_data", "<f8")
        if len(values) != math.prod(shape):
            raise DataError(
                f"{self.path}: {where} has {len(values):,} values, but its shape is {math.prod(shape):,}"
            )
        return values.reshape(shape)

    def unused(self) -> list[str]:
        """Return the layers with weights that the network does not have."""
        return sorted(name for name, blobs in self._layers.items() if blobs and name not in self._taken)


def read_blobs(path: Path) -> Blobs:
    """Read a file; its values stay in the file's memory.

    Raises:
        DataError: the file is damaged, or no .caffemodel.
        OSError: it cannot be read.
    """
    net = open_message(path, _NET)
    found: dict[str, list[Message]] = {}
    for form in ("layer", "layers"):
        for layer in net.messages(form):
            name = layer.text("name")
            blobs = [*layer.messages("blobs")]
            if blobs and name in found:
                raise DataError(f"{path}: has two layers {name!r} with weights")
            if blobs:
                found[name] = blobs
    if not found:
        raise DataError(f"{path}: contains no layers with weights, so it is no .caffemodel")
    return Blobs(path, found)


def _sizes(blob: Message) -> tuple[int, ...]:
    """Return the shape that a blob says it has."""
    shape = blob.message("shape")
    if shape is not None:
        return tuple(map(int, shape.integers("dim")))
    return tuple(blob.integer(name) for name in _OLD_SIZES)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    first = next((index for index, size in enumerate(shape) if size != 1), len(shape))
    return shape[first:]
