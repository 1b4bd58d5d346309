"""bfloat16 on the host: the upper half of a float32, stored as uint16 arrays of its bits.

NumPy does not have the type, so kernels and networks store its bits as ``uint16``. The operations also take
and return arrays whose own type is bfloat16, such as those of ml_dtypes. The rounding is bit-identical to
that of kernels/core/bfloat16.h.

>>> unpack(pack([1.0, 3.14159, 1e39]))
array([1.      , 3.140625,      inf], dtype=float32)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray[Any, Any]

# The type of an array of bfloat16's bits.
BITS = np.uint16


def is_type(dtype: Any) -> bool:
    """Return True for the bfloat16 of another package, by its name: ml_dtypes', PyTorch's, JAX's."""
    return str(dtype).rpartition(".")[2] == "bfloat16"


def pack(values: ArrayLike) -> Array:
    """Return the bits (uint16) of values rounded to the nearest bfloat16, ties to even.

    Every NaN becomes 0x7fff. Values of a wider type are rounded to float32 first, since kernels compute in
    floats and round what they write.
    """
    with np.errstate(over="ignore"):
        floats = np.asarray(values, np.float32)
    bits = floats.view(np.uint32)
    # The bits of a NaN may overflow here; they are replaced.
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(floats), np.uint32(0x7FFF), rounded).astype(BITS)


def unpack(bits: Array) -> Array:
    """Return the float32 values of bits (uint16), or of a NumPy array of bfloat16; none is rounded.

    Raises:
        TypeError: The bits are of another type.
    """
    if is_type(bits.dtype):
        bits = bits.view(BITS)
    if bits.dtype != BITS:
        raise TypeError(f"bits must be uint16, not {bits.dtype}")
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)  # in place: the bits may be those of a large file
    return wide.view(np.float32)
