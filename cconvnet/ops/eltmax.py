"""Elementwise maximum and its gradient."""

from __future__ import annotations

from cconvnet.devices import Device
from cconvnet.operations.eltmax import ELTMAX_BACKWARD, ELTMAX_FORWARD
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def eltmax_forward(
    a: Array, b: Array, *, out: Array | None = None, device: str | Device | None = None
) -> Array:
    """Return the larger of a and b, arrays of one shape; NaN wins.

    In place allowed (``out=a`` or ``out=b``).
    """
    return Call(ELTMAX_FORWARD, device, a=a, b=b).run(out=out)


def eltmax_backward(
    x: Array, y: Array, dy: Array, *, out: Array | None = None, device: str | Device | None = None
) -> Array:
    """Return ``dx`` = dy where the input x equals the maximum y, else 0; in place allowed (``out=dy``).

    Equal inputs all receive dy, as in cuda-convnet.
    """
    return Call(ELTMAX_BACKWARD, device, x=x, y=y, dy=dy).run(out=out)
