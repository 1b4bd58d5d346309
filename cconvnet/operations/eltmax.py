"""Elementwise maximum and its gradient."""

from __future__ import annotations

from cconvnet.operations.operation import ANY, Array, Operation

_A, _B, _X, _Y, _DY, _DX = (Array(name, ANY, "count") for name in ("a", "b", "x", "y", "dy", "dx"))

ELTMAX_FORWARD = Operation(
    "eltmax_forward", (), (_A, _B), (_Y,), out="y", in_place=("a", "b"), elementwise=True
)

ELTMAX_BACKWARD = Operation(
    "eltmax_backward", (), (_X, _Y, _DY), (_DX,), out="dx", in_place=("dy",), elementwise=True
)
