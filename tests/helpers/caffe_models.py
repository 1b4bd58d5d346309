"""Caffe's files for tests: networks in its text format, and their weights in either binary form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.formats.protobuf import encode

Array = np.ndarray[Any, Any]

_BLOB = {
    "num": 1,
    "channels": 2,
    "height": 3,
    "width": 4,
    "data": 5,
    "shape": (7, {"dim": 1}),
    "double_data": 8,
}
_NEW = {"layer": (100, {"name": 1, "type": 2, "blobs": (7, _BLOB)})}
_OLD = {"layers": (2, {"name": 4, "type": 5, "blobs": (6, _BLOB)})}


def caffemodel(weights: Mapping[str, Sequence[Array]], old: bool = False, double: bool = False) -> bytes:
    """Return the file with the blobs of each layer.

    Args:
        weights: by layer its arrays, as newer files have them.
        old: whether the file has the older form of layers and of shapes.
        double: whether values are doubles.
    """

    def blob(values: Array) -> dict[str, Any]:
        data = {"double_data": values.astype("<f8")} if double else {"data": values.astype("<f4")}
        if not old:
            return {**data, "shape": {"dim": list(values.shape)}}
        sizes = [1] * (4 - values.ndim) + list(values.shape)
        return {**data, **dict(zip(("num", "channels", "height", "width"), sizes, strict=True))}

    layers = [{"name": name, "blobs": [blob(one) for one in arrays]} for name, arrays in weights.items()]
    return b"".join(encode(_OLD if old else _NEW, {"layers" if old else "layer": layers}))


def files(folder: Path, text: str, weights: Mapping[str, Sequence[Array]], **form: bool) -> tuple[Path, Path]:
    """Write a network and its weights."""
    net, model = folder / "net.prototxt", folder / "net.caffemodel"
    net.write_text(text, encoding="utf-8")
    model.write_bytes(caffemodel(weights, **form))
    return net, model
