"""Locally connected layers in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, Taps, add_product, channel_groups, to_float
from cconvnet.testing.reference.bias import input_epilogue
from cconvnet.testing.reference.products import add_bias_relu, apply_dropout


def _by_position(values: Array) -> Array:
    """Return [n,p,q,...] as [p,q,n,...], one matrix for each position."""
    return values.transpose(1, 2, 0, 3)


def local_fprop(
    problem: Any,
    x: Array,
    w: Array,
    bias: Array | None = None,
    relu: bool = False,
    dropout: Any = None,
    step: Array | None = None,
) -> Array:
    """Return y[N,P,Q,K] of x[N,H,W,C], w[P,Q,K,R,S,C/groups] and bias[P,Q,K], finished like conv_fprop."""
    x, w = to_float(x, problem.x_shape), to_float(w, problem.w_shape)
    y = np.zeros(problem.y_shape, dtype=x.dtype)
    for r, s, pixels in Taps(problem, x, problem.r, problem.s):
        for c, k in channel_groups(problem):
            filters = w[:, :, k, r, s].swapaxes(2, 3)
            add_product(_by_position(y)[..., k], _by_position(pixels)[..., c], filters)
    return apply_dropout(add_bias_relu(y, bias, relu, bias_axes=3), dropout, step)


def local_dgrad(problem: Any, dy: Array, w: Array, **epilogue: Any) -> Any:
    """Return dx[N,H,W,C] of dy[N,P,Q,K] and w[P,Q,K,R,S,C/groups], finished by input_epilogue."""
    dy, w = to_float(dy, problem.y_shape), to_float(w, problem.w_shape)
    taps = Taps(problem, np.zeros(problem.x_shape, dtype=dy.dtype), problem.r, problem.s)
    for r, s, pixels in taps:
        for c, k in channel_groups(problem):
            add_product(_by_position(pixels)[..., c], _by_position(dy)[..., k], w[:, :, k, r, s])
    return input_epilogue(taps.image.copy(), **epilogue)


def local_wgrad(problem: Any, x: Array, dy: Array) -> Array:
    """Return dw[P,Q,K,R,S,C/groups] of x[N,H,W,C] and dy[N,P,Q,K]."""
    x, dy = to_float(x, problem.x_shape), to_float(dy, problem.y_shape)
    dw = np.zeros(problem.w_shape, dtype=x.dtype)
    for r, s, pixels in Taps(problem, x, problem.r, problem.s):
        for c, k in channel_groups(problem):
            gradients = _by_position(dy)[..., k].swapaxes(2, 3)
            add_product(dw[:, :, k, r, s], gradients, _by_position(pixels)[..., c])
    return dw
