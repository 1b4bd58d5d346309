"""Local response normalisation and max pooling in one, in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, to_float
from cconvnet.testing.reference.bias import input_epilogue
from cconvnet.testing.reference.lrn import lrn_backward, lrn_forward
from cconvnet.testing.reference.neuron import relu_backward
from cconvnet.testing.reference.pool import maxpool_backward, maxpool_forward


def lrn_maxpool_forward(lrn: Any, pool: Any, x: Array) -> Array:
    """Return y[N,P,Q,C] = the maxima of x[N,H,W,C] normalised across channels."""
    return maxpool_forward(pool, lrn_forward(lrn, x))


def lrn_maxpool_backward(
    lrn: Any, pool: Any, x: Array, y: Array, dy: Array, relu: bool, db: bool = False
) -> Any:
    """Return dx[N,H,W,C] of x, y[N,P,Q,C] and dy[N,P,Q,C]; with `relu`, 0 where x is not positive.

    With `db` also the gradient of the bias of the layer before.
    """
    # A maximum is recognised by its value, rounded as y is.
    normalised = lrn_forward(lrn, x).astype(np.asarray(y).dtype)
    dx = lrn_backward(lrn, x, maxpool_backward(pool, normalised, y, dy))
    if relu:
        dx = relu_backward(to_float(x, lrn.x_shape), dx)
    return input_epilogue(dx, db=db)
