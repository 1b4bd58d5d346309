"""Large random arrays for timing: a short draw, repeated on the device.

Drawing hundreds of megabytes on the host takes seconds for each case, and copying them as long. A kernel's
speed does not depend on whether its numbers repeat after millions of others.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet.bfloat16 import BITS, pack
from cconvnet.devices import Device

Array = np.ndarray[Any, Any]

# Odd, so that rows and channels are not aligned with the tile.
TILE = (1 << 22) - 3


@dataclass(frozen=True)
class Tiled:
    """Stand-in for an array of normally distributed numbers, which a side makes where it computes."""

    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)


@functools.cache
def tile() -> Array:
    """Return float32[TILE], normally distributed."""
    return np.random.default_rng(0).standard_normal(TILE, np.float32)


class Tiles:
    """Fill arrays of one device with the tile, as floats or as bfloat16's bits."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._made: dict[Any, Any] = {}

    def _of(self, dtype: Any) -> Any:
        if dtype not in self._made:
            values = pack(tile()) if dtype == BITS else tile().astype(dtype)
            self._made[dtype] = self._device.array(values)
        return self._made[dtype]

    def array(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return a new array on the device. `dtype` is a float type or that of bfloat16's bits."""
        array = self._device.empty(shape, dtype)
        self.fill(array)
        return array

    def fill(self, array: Any) -> None:
        """Fill a C-contiguous array."""
        values, flat = self._of(np.dtype(array.dtype)), array.reshape(-1)
        with self._device:
            for begin in range(0, flat.size, values.size):
                part = flat[begin : begin + values.size]
                part[...] = values[: part.size]


def count_bad(xp: Any, array: Any) -> int:
    """Count the NaN or infinite elements on the device. Integers have none, except bfloat16's bits."""
    if array.dtype == BITS:
        return int(xp.count_nonzero((array & 0x7F80) == 0x7F80))
    return int(xp.count_nonzero(~xp.isfinite(array))) if array.dtype.kind == "f" else 0
