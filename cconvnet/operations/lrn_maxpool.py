"""Local response normalisation across channels, and the max pooling behind it, in one."""

from __future__ import annotations

from cconvnet._problem import LrnProblem, PoolProblem
from cconvnet.operations.input_epilogue import bias_gradient
from cconvnet.operations.operation import Array, Operation, Value

_X, _DX = (Array(name, "N,H,W,C", lambda problems: problems[0].x_shape) for name in ("x", "dx"))
_Y, _DY = (Array(name, "N,P,Q,C", lambda problems: problems[1].y_shape) for name in ("y", "dy"))

LRN_MAXPOOL_FORWARD = Operation(
    "lrn_maxpool_forward", (LrnProblem, PoolProblem), (_X,), (_Y,), out="y", elementwise=True
)

LRN_MAXPOOL_BACKWARD = Operation(
    "lrn_maxpool_backward",
    (LrnProblem, PoolProblem),
    (_X, _Y, _DY, Value("relu")),
    (_DX,),
    (bias_gradient(lambda problems: (problems[1].c,)),),
    out="dx",
    workspace="lrn_maxpool_backward_workspace",
    sums="db",
)
