"""Fully connected layers in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, add_product, to_float
from cconvnet.testing.reference.bias import input_epilogue
from cconvnet.testing.reference.products import add_bias_relu, apply_dropout


def fc_fprop(
    problem: Any,
    x: Array,
    w: Array,
    bias: Array | None = None,
    relu: bool = False,
    dropout: Any = None,
    step: Array | None = None,
) -> Array:
    """Return y[N,K] = x[N,C] w[K,C]^T + bias[K], finished like conv_fprop."""
    x, w = to_float(x, problem.x_shape), to_float(w, problem.w_shape)
    y = np.zeros(problem.y_shape, dtype=x.dtype)
    add_product(y, x, w.T)
    return apply_dropout(add_bias_relu(y, bias, relu), dropout, step)


def fc_dgrad(problem: Any, dy: Array, w: Array, **epilogue: Any) -> Any:
    """Return dx[N,C] = dy[N,K] w[K,C], finished by input_epilogue."""
    dy, w = to_float(dy, problem.y_shape), to_float(w, problem.w_shape)
    dx = np.zeros(problem.x_shape, dtype=dy.dtype)
    add_product(dx, dy, w)
    return input_epilogue(dx, **epilogue)


def fc_wgrad(problem: Any, x: Array, dy: Array) -> Array:
    """Return dw[K,C] = dy[N,K]^T x[N,C]."""
    x, dy = to_float(x, problem.x_shape), to_float(dy, problem.y_shape)
    dw = np.zeros(problem.w_shape, dtype=x.dtype)
    add_product(dw, dy.T, x)
    return dw
