"""Local contrast normalisation."""

from __future__ import annotations

from cconvnet._problem import ContrastNormProblem
from cconvnet.operations.operation import Array, Operation

_X, _Y, _DY, _DX = (Array(name, "N,H,W,C", "x_shape") for name in ("x", "y", "dy", "dx"))

CONTRAST_NORM_FORWARD = Operation(
    "contrast_norm_forward",
    (ContrastNormProblem,),
    (_X,),
    (_Y,),
    out="y",
    workspace="contrast_norm_forward_workspace",
    elementwise=True,
)

CONTRAST_NORM_BACKWARD = Operation(
    "contrast_norm_backward",
    (ContrastNormProblem,),
    (_X, _DY),
    (_DX,),
    out="dx",
    workspace="contrast_norm_backward_workspace",
)
