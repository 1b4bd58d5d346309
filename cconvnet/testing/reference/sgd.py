"""The update of stochastic gradient descent in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, to_float


def sgd_update(
    problem: Any,
    g: Array,
    v: Array,
    w: Array,
    rates: Array | None = None,
    halt: Array | None = None,
) -> tuple[Array, Array]:
    """Return (v, w) after v = momentum*v - lr*(g + weight_decay*w), w = w + v.

    With Nesterov's momentum w = w + momentum*v - lr*(g + weight_decay*w), with the new v and the old w.
    `rates` are lr and momentum in the place of the problem's. With a `halt` other than 0 nothing changes.
    """
    g, v, w = to_float(g), to_float(v), to_float(w)
    if halt is not None and np.asarray(halt).item() != 0:
        return v, w
    lr, momentum = (problem.lr, problem.momentum) if rates is None else (float(rate) for rate in rates)
    step = lr * (g.reshape(v.shape) + problem.weight_decay * w)
    v = momentum * v - step
    return v, w + (momentum * v - step if problem.nesterov else v)
