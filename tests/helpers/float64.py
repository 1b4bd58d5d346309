"""Normally distributed float64 arrays, and their comparison up to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def normal(shape: Any, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def assert_same(a: Array, b: Array) -> None:
    np.testing.assert_allclose(a, b.reshape(a.shape), atol=1e-12)
