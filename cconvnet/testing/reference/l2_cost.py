"""The squared distance of rows from their targets in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

from cconvnet.testing.reference.base import Array, to_float


def _distances(problem: Any, x: Array, target: Array) -> Array:
    """Return (x - target)[N,K]."""
    return to_float(x, (problem.n, problem.k)) - to_float(target, (problem.n, problem.k))


def l2_cost_forward(problem: Any, x: Array, target: Array) -> Array:
    """Return loss[N] = 0.5 * the sum of (x - target)^2 over each row."""
    return 0.5 * (_distances(problem, x, target) ** 2).sum(axis=1)


def l2_cost_backward(problem: Any, x: Array, target: Array, scale: float) -> Array:
    """Return dx[N,K] = scale * (x - target)."""
    return scale * _distances(problem, x, target)
