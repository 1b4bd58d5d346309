"""Bias, ReLU and dropout behind a sum of products."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

from cconvnet.testing.reference.base import Array, to_float
from cconvnet.testing.reference.dropout import dropout
from cconvnet.testing.reference.neuron import relu_forward


def add_bias_relu(y: Array, bias: Array | None, relu: bool, bias_axes: int = 1) -> Array:
    """Return y + bias, then max(0, .) if `relu`; `bias_axes` is how many of y's last axes the bias has."""
    if bias is not None:
        y = y + to_float(bias, y.shape[-bias_axes:])
    return relu_forward(y) if relu else y


def apply_dropout(y: Array, dropped: Any, step: Array | None) -> Array:
    """Drop out elements of y unless `dropped`, a DropoutProblem, is None."""
    return y if dropped is None else dropout(dropped, y, step)
