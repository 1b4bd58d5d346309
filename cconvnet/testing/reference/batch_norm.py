"""Batch normalisation in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, to_float


def _rows(problem: Any, x: Array) -> Array:
    """Return the rows that count."""
    return to_float(x, (problem.rows, problem.k))[: problem.counted]


def _all_rows(problem: Any, counted: Array) -> Array:
    """Return all rows, of which those that do not count are 0."""
    return np.concatenate([counted, np.zeros((problem.rows - problem.counted, problem.k), counted.dtype)])


def _sum(rows: Array) -> Array:
    """Return the sum over the rows, one by one; NumPy's sum would add a single column pairwise."""
    return np.add.accumulate(rows, axis=0)[-1]


def _reciprocal(problem: Any, variance: Array) -> Array:
    """Return 1 / sqrt(variance + eps)."""
    variance = to_float(variance)
    return 1 / np.sqrt(variance + variance.dtype.type(problem.eps))


def batch_norm_statistics(problem: Any, x: Array) -> tuple[Array, Array, Array]:
    """Return mean[K], variance[K] and unbiased[K] of the rows of x[rows,K] that count."""
    rows, n = _rows(problem, x), problem.counted
    mean = _sum(rows) / n
    squares = _sum((rows - mean) ** 2)
    return mean, squares / n, squares / max(1, n - 1)


def batch_norm_forward(
    problem: Any, x: Array, mean: Array, variance: Array, gamma: Array, beta: Array,
    shortcut: Array | None = None, relu: bool = False,
) -> Array:  # fmt: skip
    """Return y = gamma * (x - mean) / sqrt(variance + eps) + beta, + shortcut, then max(0, .) if `relu`."""
    scale = to_float(gamma) * _reciprocal(problem, variance)
    y = (_rows(problem, x) - to_float(mean)) * scale + to_float(beta)
    if shortcut is not None:
        y = y + _rows(problem, shortcut)
    return _all_rows(problem, np.maximum(y, 0) if relu else y)


def batch_norm_backward(
    problem: Any, x: Array, y: Array | None, dy: Array, mean: Array, variance: Array, gamma: Array,
    dshortcut: bool = False,
) -> tuple[Array, ...]:  # fmt: skip
    """Return dx[rows,K], dgamma[K] and dbeta[K], and the gradient of the shortcut if it is asked for."""
    n, reciprocal = problem.counted, _reciprocal(problem, variance)
    gradient = _rows(problem, dy)
    if y is not None:
        gradient = np.where(_rows(problem, y) > 0, gradient, 0)
    normalised = (_rows(problem, x) - to_float(mean)) * reciprocal
    dbeta, dgamma = _sum(gradient), _sum(gradient * normalised)
    dx = to_float(gamma) * reciprocal * (gradient - dbeta / n - normalised * (dgamma / n))
    results = _all_rows(problem, dx), dgamma, dbeta
    return (*results, _all_rows(problem, gradient)) if dshortcut else results
