"""Sums of parts in a fixed tree in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

from cconvnet.testing.reference.base import Array, to_float


def tree_sum(problem: Any, x: Array) -> Array:
    """Return y[count] = scale * the sum of the rows of x[parts,count], added as the problem's merges say."""
    stack: list[Array] = []
    for part, merges in zip(to_float(x, (problem.parts, problem.count)), problem.merges, strict=True):
        stack.append(part)
        for _ in range(merges):
            later = stack.pop()
            stack[-1] = stack[-1] + later
    (total,) = stack
    return total * problem.scale
