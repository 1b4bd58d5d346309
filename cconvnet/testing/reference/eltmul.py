"""Elementwise product in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from cconvnet.testing.reference.base import Array, to_float


def eltmul(a: Array, b: Array) -> Array:
    """Return y = a * b."""
    return to_float(a) * to_float(b)
