"""Passes that convolutions, locally connected and fully connected layers share."""

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet import bfloat16
from cconvnet.operations.input_epilogue import input_epilogue
from cconvnet.operations.operation import ANY, Array, Operation, Value

# A gradient of weights may update `w` at once: `update` is the SgdProblem. A module takes all of these as one
# tuple, in this order.
_UPDATE = (
    Value("update"),
    Array("v", ANY, "w_shape", np.float32),
    Array("w", ANY, "w_shape", np.float32),
    Array("w_bf16", ANY, "w_shape", bfloat16.BITS, optional=True, written=True),
    Array("rates", "2", lambda problem: (2,), np.float32, optional=True),
    Array("halt", "1", lambda problem: (1,), np.int32, optional=True),
)
# Elements of a product may be dropped at once: `dropout` is the DropoutProblem.
_DROPOUT = (Value("dropout"), Array("step", "1", lambda problem: (1,), np.int64, optional=True))
# What batch normalisation needs of y[N,P,Q,K]. Of its pixels the first `counted` count, or all if it is 0.
_STATISTICS = (
    Array("mean", "K", "k", np.float32, optional=True, written=True),
    Array("variance", "K", "k", np.float32, optional=True, written=True),
    Array("unbiased", "K", "k", np.float32, optional=True, written=True),
    Value("counted"),
)


def _flops(problem: Any) -> float:
    return float(problem.flops)


def passes(
    family: str,
    problem_type: type,
    *,
    x: str,
    w: str,
    y: str,
    bias: str,
    bias_shape: str = "k",
    measured: bool = False,
) -> tuple[Operation, Operation, Operation]:
    """Describe the forward pass and both gradients of a family of products.

    Args:
        family: The first word of the operations' names.
        problem_type: The problem of all three passes.
        x: The axes of the images.
        w: The axes of the filters.
        y: The axes of the product.
        bias: The axes of the bias.
        bias_shape: The bias's shape in terms of the problem.
        measured: Whether the forward pass can compute the statistics of y.
    """
    images, filters, product = Array("x", x, "x_shape"), Array("w", w, "w_shape"), Array("y", y, "y_shape")
    gradient = Array("dy", y, "y_shape")

    fprop = Operation(
        f"{family}_fprop",
        (problem_type,),
        (images, filters, Array("bias", bias, bias_shape, np.float32, optional=True), Value("relu")),
        (product,),
        (*_DROPOUT, *(_STATISTICS if measured else ())),
        out="y",
        workspace=f"{family}_fprop_workspace",
        sums="mean" if measured else None,
        has_impls=True,
        flops=_flops,
    )
    dgrad = Operation(
        f"{family}_dgrad",
        (problem_type,),
        (gradient, filters),
        (Array("dx", x, "x_shape"),),
        input_epilogue(images),
        out="dx",
        workspace=f"{family}_dgrad_workspace",
        sums="db",
        has_impls=True,
        flops=_flops,
    )
    wgrad = Operation(
        f"{family}_wgrad",
        (problem_type,),
        (images, gradient),
        (Array("dw", w, "w_shape", np.float32),),
        _UPDATE,
        out="dw",
        workspace=f"{family}_wgrad_workspace",
        has_impls=True,
        flops=_flops,
    )
    return fprop, dgrad, wgrad
