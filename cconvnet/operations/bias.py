"""Biases of rows, and their gradients."""

from __future__ import annotations

import numpy as np

from cconvnet._problem import BiasProblem
from cconvnet.operations.operation import ANY, Array, Operation, Value

BIAS_ADD = Operation(
    "bias_add",
    (BiasProblem,),
    (Array("x", ANY, "rows,k"), Array("bias", "K", "k", np.float32), Value("relu")),
    (Array("y", ANY, "rows,k"),),
    out="y",
    in_place=("x",),
    elementwise=True,
)

BIAS_GRAD = Operation(
    "bias_grad",
    (BiasProblem,),
    (Array("dy", ANY, "rows,k"),),
    (Array("db", "K", "k", np.float32),),
    out="db",
    workspace="bias_grad_workspace",
)

RELU_BIAS_BACKWARD = Operation(
    "relu_bias_backward",
    (BiasProblem,),
    (Array("y", ANY, "rows,k"), Array("dy", ANY, "rows,k"), Value("scale")),
    (Array("dx", ANY, "rows,k"), Array("db", "K", "k", np.float32)),
    out="dx",
    in_place=("dy",),
    workspace="bias_grad_workspace",
)
