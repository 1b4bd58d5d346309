"""Max and average pooling."""

from __future__ import annotations

from cconvnet._problem import PoolProblem
from cconvnet.operations.input_epilogue import input_epilogue
from cconvnet.operations.operation import Array, Operation

_X, _DX = (Array(name, "N,H,W,C", "x_shape") for name in ("x", "dx"))
_Y, _DY = (Array(name, "N,P,Q,C", "y_shape") for name in ("y", "dy"))

MAXPOOL_FORWARD = Operation("maxpool_forward", (PoolProblem,), (_X,), (_Y,), out="y")

MAXPOOL_BACKWARD = Operation(
    "maxpool_backward",
    (PoolProblem,),
    (_X, _Y, _DY),
    (_DX,),
    input_epilogue(_X),
    out="dx",
    workspace="maxpool_backward_workspace",
    sums="db",
)

AVGPOOL_FORWARD = Operation("avgpool_forward", (PoolProblem,), (_X,), (_Y,), out="y")

AVGPOOL_BACKWARD = Operation(
    "avgpool_backward",
    (PoolProblem,),
    (_DY,),
    (_DX,),
    input_epilogue(_X),
    out="dx",
    workspace="avgpool_backward_workspace",
    sums="db",
)
