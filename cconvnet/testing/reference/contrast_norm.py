"""Local contrast normalisation in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, to_float
from cconvnet.testing.reference.lrn import map_sum


def _contrast(problem: Any, x: Array) -> tuple[Array, Array, Array]:
    """Return u[N,H,W,C] = x - (the window's mean), d = k + alpha * (its sum of u^2), and sizes[1,H,W,1]."""
    sizes = map_sum(problem, np.ones((1, problem.h, problem.w, 1), dtype=x.dtype))
    u = x - map_sum(problem, x) / sizes
    return u, problem.k + problem.alpha * map_sum(problem, u * u), sizes


def contrast_norm_forward(problem: Any, x: Array) -> Array:
    """Return y[N,H,W,C] = x * d^-beta."""
    x = to_float(x, problem.x_shape)
    _, d, _ = _contrast(problem, x)
    return np.asarray(x * d**-problem.beta)


def contrast_norm_backward(problem: Any, x: Array, dy: Array) -> Array:
    """Return dx[N,H,W,C] of x and dy, the gradient through the mean included."""
    x, dy = to_float(x, problem.x_shape), to_float(dy, problem.x_shape)
    u, d, sizes = _contrast(problem, x)
    ratio = map_sum(problem, dy * x * d ** (-problem.beta - 1), transposed=True)
    g = -2 * problem.alpha * problem.beta * u * ratio
    return np.asarray(dy * d**-problem.beta + g - map_sum(problem, g / sizes, transposed=True))
