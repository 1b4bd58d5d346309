"""Weighted sums and conversions, element by element, in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import numpy as np

from cconvnet import bfloat16
from cconvnet.testing.reference.base import Array, to_float


def add(a: Array, b: Array, alpha: float = 1.0, beta: float = 1.0, relu: bool = False) -> Array:
    """Return y = alpha * a + beta * b, then max(0, .) if `relu`."""
    y = alpha * to_float(a) + beta * to_float(b)
    return np.maximum(y, 0) if relu else y


def to_bf16(x: Array) -> Array:
    """Return x, each element rounded to a bfloat16."""
    return to_float(bfloat16.unpack(bfloat16.pack(x)))


def from_bf16(x: Array) -> Array:
    """Return x: a bfloat16 is a float."""
    return to_float(x)
