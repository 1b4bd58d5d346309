"""Limits of the norms of weights in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, to_float


def limit_norm(problem: Any, w: Array) -> Array:
    """Return w[rows,columns] with long rows scaled down to the problem's limit, short ones up to its `low`.

    A row of norm 0 stays. With `centered` the norm is that of the row minus its mean.
    """
    w = to_float(w, (problem.rows, problem.columns))
    part = w
    if problem.centered:
        # This leaves zeros of equal values. Their rounded mean would leave a remainder.
        part = w - w[:, :1]
        part = part - part.mean(axis=1, keepdims=True)
    norm = np.sqrt((part * part).sum(axis=1, keepdims=True))
    # A norm between the two, 0 among them, scales by 1.
    limited = np.where(norm > problem.limit, w * (problem.limit / np.maximum(norm, problem.limit)), w)
    short = (norm > 0) & (norm < problem.low)
    return np.where(short, w * (problem.low / np.where(short, norm, 1)), limited)
