"""bfloat16 on the host: the upper half of a float32, kept as uint16 arrays of its bits.

Neither NumPy nor CuPy has the type, so every array of bfloat16 in this package is one of ``uint16``. The
rounding is that of kernels/core/bfloat16.h, to the bit.

>>> unpack(pack([1.0, 3.14159, 1e39]))
array([1.      , 3.140625,      inf], dtype=float32)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray[Any, Any]

# The bits of an array of bfloat16 are one of this type.
BITS = np.uint16


def pack(values: ArrayLike) -> Array:
    """uint16: the bits of the values rounded to the nearest bfloat16, ties to even; every NaN becomes 0x7fff.

    Values of a wider type are rounded to float32 first: kernels compute in floats and round what they write.
    """
    with np.errstate(over="ignore"):
        floats = np.asarray(values, np.float32)
    bits = floats.view(np.uint32)
    # A NaN's bits may overflow here; it is replaced.
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(floats), np.uint32(0x7FFF), rounded).astype(BITS)


def unpack(bits: Array) -> Array:
    """float32: the values of which `bits` (uint16) are the bits; none is rounded."""
    if bits.dtype != BITS:
        raise TypeError(f"bits must be uint16, not {bits.dtype}")
    return (bits.astype(np.uint32) << 16).view(np.float32)
