"""Activation functions in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, to_float


def relu_forward(x: Array) -> Array:
    """Return y = max(0, x), of x's shape."""
    return np.maximum(to_float(x), 0)


def relu_backward(y: Array, dy: Array) -> Array:
    """Return dx = dy where y > 0, else 0."""
    return np.where(to_float(y) > 0, to_float(dy), 0)


def _logistic(x: Array) -> Array:
    e = np.exp(-np.abs(x))  # never overflows
    return np.where(x >= 0, 1, e) / (1 + e)


def neuron_forward(problem: Any, x: Array) -> Array:
    """Return y = f(x) for the problem's activation function f with its parameters a and b."""
    x, a, b = to_float(x), problem.a, problem.b
    match problem.neuron:
        case "linear":
            return a * x + b
        case "relu":
            return np.maximum(x, 0)
        case "tanh":
            return a * np.tanh(b * x)
        case "logistic":
            return _logistic(x)
        case "softrelu":
            return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
        case "abs":
            return np.abs(x)
        case "square":
            return x * x
        case "sqrt":
            return np.sqrt(x)
        case "brelu":
            return np.minimum(a, np.maximum(x, 0))
        case "silu":
            return x * _logistic(x)
    raise ValueError(f"unknown neuron {problem.neuron!r}")


def neuron_backward(problem: Any, x: Array, y: Array, dy: Array) -> Array:
    """Return dx = dy * f'(x); at a kink the derivative is 0."""
    x, y, dy, a, b = to_float(x), to_float(y), to_float(dy), problem.a, problem.b
    match problem.neuron:
        case "linear":
            return dy * a
        case "relu":
            return dy * (x > 0)
        case "tanh":
            # 1 - tanh(u)^2 = 4 e / (1 + e)^2 with e = exp(-2|u|), which does not cancel.
            e = np.exp(-2 * np.abs(b * x))
            return dy * (a * b * 4 * e / ((1 + e) * (1 + e)))
        case "logistic":
            return dy * (_logistic(x) * _logistic(-x))
        case "softrelu":
            return dy * _logistic(x)
        case "abs":
            return dy * np.sign(x)
        case "square":
            return dy * 2 * x
        case "sqrt":
            with np.errstate(divide="ignore"):
                return np.asarray(dy * (0.5 / y))
        case "brelu":
            return dy * ((x > 0) & (x < a))
        case "silu":
            return dy * (_logistic(x) * (1 + x * _logistic(-x)))
    raise ValueError(f"unknown neuron {problem.neuron!r}")
