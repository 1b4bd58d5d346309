"""Max unpooling."""

from __future__ import annotations

from cconvnet._problem import PoolProblem
from cconvnet.operations.operation import Array, Operation

# The problem is that of the pooling, whose output has the shape of x here.
_X, _DX = (Array(name, "N,P,Q,C", "y_shape") for name in ("x", "dx"))
_U, _Y, _DY = (Array(name, "N,H,W,C", "x_shape") for name in ("u", "y", "dy"))

MAXUNPOOL_FORWARD = Operation("maxunpool_forward", (PoolProblem,), (_X, _U), (_Y,), out="y")

MAXUNPOOL_BACKWARD = Operation("maxunpool_backward", (PoolProblem,), (_U, _DY), (_DX,), out="dx")
