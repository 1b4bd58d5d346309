"""The rate of a tensor by LARS in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, to_float


def lars_rate(problem: Any, w: Array, g: Array, rates: Array) -> Array:
    """Return the rates[2] of a tensor, by the norms of its weights w and of their gradient g."""
    lr, momentum = to_float(rates)
    of_w, of_g = (np.sqrt(np.sum(to_float(values) ** 2)) for values in (w, g))
    if of_w > 0 and of_g > 0:
        lr = lr * problem.eta * of_w / (of_g + problem.weight_decay * of_w + problem.eps)
    return np.stack([lr, momentum])
