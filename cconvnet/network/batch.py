"""The arguments of Network.load, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def shown(array: Array) -> str:
    return f"{array.dtype}{list(array.shape)}"


def row(name: str, given: Any, shape: tuple[int, ...], dtype: Any, default: int) -> Array:
    """An argument of load(): one value or row for each image, as the device wants it."""
    if given is None:
        return np.full(shape, default, dtype)
    array = np.asarray(given)
    if array.shape != shape or array.dtype.kind not in ("f" if dtype is np.float32 else "iub"):
        kind = "floats" if dtype is np.float32 else "integers"
        raise ValueError(f"{name} must be {kind}{list(shape)}, not {shown(array)}")
    return np.ascontiguousarray(array, dtype)


def offsets(name: str, given: Any, n: int, room: int) -> Array:
    offsets = row(name, given, (n,), np.int32, room // 2)
    if offsets.min() < 0 or offsets.max() > room:
        raise ValueError(f"{name} must be from 0 to {room}, not from {offsets.min()} to {offsets.max()}")
    return offsets
