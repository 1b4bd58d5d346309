"""Options of the backward passes that compute the gradients of the ReLU and the bias before them too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cconvnet.operations.operation import Array, Shape, Value


def bias_gradient(shape: str | Callable[[Any], Shape] = "c") -> Array:
    """Describe the gradient of the bias, which is written if it is given."""
    return Array("db", "C", shape, np.float32, optional=True, written=True)


def input_epilogue(x: Array) -> tuple[Array | Value, ...]:
    """Describe an InputEpilogue of ``kernels/api.h``.

    Args:
        x: The input whose gradient the pass computes.
    """
    return Array("masked_by", x.axes, x.shape, optional=True), Value("scale"), bias_gradient()
