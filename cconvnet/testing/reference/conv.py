"""Convolution in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet._problem import BatchNormProblem
from cconvnet.testing.reference.base import Array, Taps, add_product, channel_groups, to_float
from cconvnet.testing.reference.batch_norm import batch_norm_statistics
from cconvnet.testing.reference.bias import input_epilogue
from cconvnet.testing.reference.products import add_bias_relu, apply_dropout


def conv_fprop(
    problem: Any,
    x: Array,
    w: Array,
    bias: Array | None = None,
    relu: bool = False,
    dropout: Any = None,
    step: Array | None = None,
    mean: bool = False,
    variance: bool = False,
    unbiased: bool = False,
    counted: int = 0,
) -> Any:
    """Return y[N,P,Q,K] = x[N,H,W,C] * w[K,R,S,C/groups] + bias[K].

    max(0, .) follows if `relu`, then dropout if `dropout`, a DropoutProblem, is not None. With `mean`,
    batch_norm_statistics of y come too, of the first `counted` pixels or, if it is 0, of all.
    """
    x, w = to_float(x, problem.x_shape), to_float(w, problem.w_shape)
    y = np.zeros(problem.y_shape, dtype=x.dtype)
    for r, s, pixels in Taps(problem, x, problem.r, problem.s):
        for c, k in channel_groups(problem):
            add_product(y[..., k], pixels[..., c], w[k, r, s].T)
    y = apply_dropout(add_bias_relu(y, bias, relu), dropout, step)
    if not mean:
        return y
    return y, *batch_norm_statistics(BatchNormProblem(y.size // problem.k, problem.k, counted), y)


def conv_dgrad(problem: Any, dy: Array, w: Array, **epilogue: Any) -> Any:
    """Return dx[N,H,W,C] of dy[N,P,Q,K] and w[K,R,S,C/groups], finished by input_epilogue."""
    dy, w = to_float(dy, problem.y_shape), to_float(w, problem.w_shape)
    taps = Taps(problem, np.zeros(problem.x_shape, dtype=dy.dtype), problem.r, problem.s)
    for r, s, pixels in taps:
        for c, k in channel_groups(problem):
            add_product(pixels[..., c], dy[..., k], w[k, r, s])
    return input_epilogue(taps.image.copy(), **epilogue)


def conv_wgrad(problem: Any, x: Array, dy: Array) -> Array:
    """Return dw[K,R,S,C/groups] of x[N,H,W,C] and dy[N,P,Q,K]."""
    x, dy = to_float(x, problem.x_shape), to_float(dy, problem.y_shape)
    dw = np.zeros(problem.w_shape, dtype=x.dtype)
    for r, s, pixels in Taps(problem, x, problem.r, problem.s):
        for c, k in channel_groups(problem):
            rows = problem.n * problem.p * problem.q
            gradients, seen = dy[..., k].reshape(rows, -1), pixels[..., c].reshape(rows, -1)
            add_product(dw[k, r, s], gradients.T, seen)
    return dw
