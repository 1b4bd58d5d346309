"""Elementwise maximum in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import numpy as np

from cconvnet.testing.reference.base import Array, to_float


def eltmax_forward(a: Array, b: Array) -> Array:
    """Return y = the larger of a and b, NaN if either is NaN."""
    return np.maximum(to_float(a), to_float(b))


def eltmax_backward(x: Array, y: Array, dy: Array) -> Array:
    """Return dx = dy where the input x is the maximum y, else 0."""
    return np.where(to_float(x) == to_float(y), to_float(dy), 0)
