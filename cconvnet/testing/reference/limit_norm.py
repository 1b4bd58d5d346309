"""Limits of the norms of weights in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, to_float


def limit_norm(problem: Any, w: Array) -> Array:
    """w[rows,columns], each row whose norm is above the problem's limit scaled down to it, and below its
    `low`, but not 0, up to that; with `centered` the norm is that of the row minus its mean."""
    o, w = problem, to_float(w, (problem.rows, problem.columns))
    part = w
    if o.centered:
        # Of equal values this leaves zeros; their mean, rounded, would leave something.
        part = w - w[:, :1]
        part = part - part.mean(axis=1, keepdims=True)
    norm = np.sqrt((part * part).sum(axis=1, keepdims=True))
    # A norm between the two, 0 among them, scales by 1.
    limited = np.where(norm > o.limit, w * (o.limit / np.maximum(norm, o.limit)), w)
    short = (norm > 0) & (norm < o.low)
    return np.where(short, w * (o.low / np.where(short, norm, 1)), limited)
