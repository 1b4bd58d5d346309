"""Arrays between guard bands, which catch a kernel that leaves its buffer.

The bands and every output are filled with NaN, as floats and as bfloat16s. A write beyond a buffer changes a
band, a value read from beyond it spoils the result, and an element that was not written stays NaN. Each
buffer has a NaN of its own, so that a value copied from one band into another is noticed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cconvnet.devices import Device

# The address sanitizer watches the ends of an allocation; CCONVNET_TEST_GUARD=0 leaves out the bands there.
GUARD = int(os.environ.get("CCONVNET_TEST_GUARD", "1024"))
_ALIGNMENT = 256
_numbers = itertools.count()


class Buffer:
    """An array on `device`, its address a multiple of 256 bytes plus `offset`.

    Attributes:
        array: The device's array, filled with NaN or with the host array `values`.
    """

    def __init__(
        self,
        device: Device,
        shape: Sequence[int],
        dtype: Any = np.float32,
        *,
        values: np.ndarray[Any, Any] | None = None,
        offset: int = 0,
    ) -> None:
        self.device = device
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        slack = _ALIGNMENT if GUARD or offset else 0
        with device:
            words = -(-(2 * GUARD + slack + size) // 4)
            # Both halves are a bfloat16's quiet NaN: all bits of the exponent and the first of the fraction.
            half = 0xFFC0 + next(_numbers) % 0x40
            self._pattern = np.full(words, half << 16 | half, np.uint32).view(np.uint8)
            self._memory = device.empty(4 * words, np.uint8)
            address = self._memory.data.ptr if device.kind == "cuda" else self._memory.ctypes.data
            begin = GUARD + ((offset - address - GUARD) % _ALIGNMENT if slack else 0)
            self._inside = slice(begin, begin + size)
            device.fill(self._memory, self._pattern)
            self.array = self._memory[self._inside].view(dtype).reshape(tuple(shape))
        if values is not None:
            device.fill(self.array, values.reshape(tuple(shape)))

    def host(self) -> np.ndarray[Any, Any]:
        """Copy the array to the host."""
        return self.device.host(self.array)

    def fill(self) -> None:
        """Fill the array with NaN again."""
        self.device.fill(self._memory[self._inside], self._pattern[self._inside])

    def assert_guarded(self, name: str) -> None:
        """Assert that nothing outside the array was written; `name` is the array's name in errors."""
        memory = self.device.host(self._memory)
        outside = np.ones(memory.size, dtype=bool)
        outside[self._inside] = False
        touched = np.flatnonzero(outside & (memory != self._pattern))
        if touched.size:
            first = int(touched[0]) - self._inside.start
            size = self._inside.stop - self._inside.start
            raise AssertionError(
                f"{touched.size} bytes outside {name} were written, the first at byte {first} "
                f"of an array of {size} bytes"
            )
