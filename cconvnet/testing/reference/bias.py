"""Biases and their gradients in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet._problem import BiasProblem
from cconvnet.testing.reference.base import Array, to_float
from cconvnet.testing.reference.neuron import relu_backward
from cconvnet.testing.reference.products import add_bias_relu


def bias_add(problem: Any, x: Array, bias: Array, relu: bool = False) -> Array:
    """Return y[rows,K] = x[rows,K] + bias[K], then max(0, .) if `relu`."""
    return add_bias_relu(to_float(x, (problem.rows, problem.k)), bias, relu)


def bias_grad(problem: Any, dy: Array) -> Array:
    """Return db[K] = the sum of dy[rows,K] over its rows."""
    # Row by row; NumPy's sum would add a single column pairwise.
    return np.add.accumulate(to_float(dy, (problem.rows, problem.k)), axis=0)[-1]


def relu_bias_backward(problem: Any, y: Array, dy: Array, scale: float) -> tuple[Array, Array]:
    """Return dx[rows,K] = scale * dy where y > 0, else 0, and db[K], its sum over the rows.

    y and dy may be columns of matrices[rows,pitch]; see BiasProblem.placed.
    """
    if problem.pitch:
        columns = slice(problem.first, problem.first + problem.k)
        y, dy = (np.reshape(matrix, (problem.rows, problem.pitch))[:, columns] for matrix in (y, dy))
    dx = relu_backward(y, scale * to_float(dy)).reshape(problem.rows, problem.k)
    return dx, bias_grad(problem, dx)


def input_epilogue(dx: Array, masked_by: Array | None = None, scale: float = 1.0, db: bool = False) -> Any:
    """Return dx, or, with `db`, dx after an InputEpilogue and the gradient of the bias."""
    if not db:
        return dx
    pixels = BiasProblem(dx.size // dx.shape[-1], dx.shape[-1])
    if masked_by is None:
        return dx, bias_grad(pixels, dx)
    matrix = (pixels.rows, pixels.k)
    masked, sums = relu_bias_backward(pixels, np.reshape(masked_by, matrix), dx.reshape(matrix), scale)
    return masked.reshape(dx.shape), sums
