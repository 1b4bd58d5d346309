"""The squared distance of rows from their targets."""

from __future__ import annotations

import numpy as np

from cconvnet._problem import L2CostProblem
from cconvnet.operations.operation import Array, Operation, Value

_X, _DX = Array("x", "N,K", "n,k"), Array("dx", "N,K", "n,k")
_TARGET, _LOSS = Array("target", "N,K", "n,k", np.float32), Array("loss", "N", "n", np.float32)

L2_COST_FORWARD = Operation("l2_cost_forward", (L2CostProblem,), (_X, _TARGET), (_LOSS,))

L2_COST_BACKWARD = Operation(
    "l2_cost_backward",
    (L2CostProblem,),
    (_X, _TARGET, Value("scale")),
    (_DX,),
    out="dx",
    in_place=("x",),
    elementwise=True,
)
