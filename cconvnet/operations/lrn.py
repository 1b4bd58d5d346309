"""Local response normalisation."""

from __future__ import annotations

from cconvnet._problem import LrnProblem
from cconvnet.operations.operation import Array, Operation

_X, _Y, _DY, _DX = (Array(name, "N,H,W,C", "x_shape") for name in ("x", "y", "dy", "dx"))

LRN_FORWARD = Operation("lrn_forward", (LrnProblem,), (_X,), (_Y,), out="y", elementwise=True)

LRN_BACKWARD = Operation(
    "lrn_backward", (LrnProblem,), (_X, _DY), (_DX,), out="dx", workspace="lrn_backward_workspace"
)
