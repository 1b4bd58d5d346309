"""Local response normalisation in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, to_float


def _window_sum(values: Array, axis: int, first: int, last: int) -> Array:
    """Return out[i] = the sum of values[i+first] .. values[i+last] along `axis`, clipped at its ends."""
    extent = values.shape[axis]
    values = np.moveaxis(values, axis, 0)
    total = np.zeros_like(values)
    for offset in range(max(first, 1 - extent), min(last, extent - 1) + 1):
        begin, end = max(0, -offset), min(extent, extent - offset)
        total[begin:end] += values[begin + offset : end + offset]
    return np.moveaxis(total, 0, axis)


def _reach(problem: Any, transposed: bool) -> tuple[int, int]:
    """Return the first and the last offset from an element to those in its window.

    With `transposed` they are the offsets to the elements whose windows contain it.
    """
    first = -(problem.size // 2)
    last = first + problem.size - 1
    return (-last, -first) if transposed else (first, last)


def map_sum(problem: Any, values: Array, transposed: bool = False) -> Array:
    """Return the sums of lrn_sum for windows in the same map."""
    reach = _reach(problem, transposed)
    return _window_sum(_window_sum(values, 1, *reach), 2, *reach)


def lrn_sum(problem: Any, values: Array, transposed: bool = False) -> Array:
    """Return the sum over each element's window.

    With `transposed` the sum is over the elements whose windows contain it.
    """
    if problem.region == "same_map":
        return map_sum(problem, values, transposed)
    n, h, w, c = values.shape
    grouped = values.reshape(n, h, w, problem.groups, c // problem.groups)
    return _window_sum(grouped, 4, *_reach(problem, transposed)).reshape(values.shape)


def lrn_forward(problem: Any, x: Array) -> Array:
    """Return y[N,H,W,C] = x * d^-beta with d = k + alpha * (the window's sum of x^2)."""
    x = to_float(x, problem.x_shape)
    return np.asarray(x * (problem.k + problem.alpha * lrn_sum(problem, x * x)) ** -problem.beta)


def lrn_backward(problem: Any, x: Array, dy: Array) -> Array:
    """Return dx[N,H,W,C] of x and dy."""
    x, dy = to_float(x, problem.x_shape), to_float(dy, problem.x_shape)
    d = problem.k + problem.alpha * lrn_sum(problem, x * x)
    ratio = lrn_sum(problem, dy * x * d ** (-problem.beta - 1), transposed=True)
    return np.asarray(dy * d**-problem.beta - 2 * problem.alpha * problem.beta * x * ratio)
