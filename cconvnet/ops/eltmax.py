"""Elementwise maximum."""

from __future__ import annotations

from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call


def eltmax_forward(
    a: Array, b: Array, *, out: Array | None = None, device: str | Device | None = None
) -> Array:
    """The larger of a and b, arrays of one shape; NaN wins. In place allowed (``out=a`` or ``out=b``)."""
    call = Call(device, a=a, b=b)
    a = call.numbers("a", "any")
    b = call.shaped("b", a.shape, call.element)
    y = call.output(out, a.shape, dtype=call.element, in_place=("a", "b"))
    call.module.eltmax_forward(a, b, y, call.stream)
    return y


def eltmax_backward(
    x: Array, y: Array, dy: Array, *, out: Array | None = None, device: str | Device | None = None
) -> Array:
    """``dx`` = dy where the input x equals the maximum y, else 0: ties get all of it, as in cuda-convnet. In
    place allowed (``out=dy``)."""
    call = Call(device, x=x, y=y, dy=dy)
    x = call.numbers("x", "any")
    y, dy = call.shaped("y", x.shape, call.element), call.shaped("dy", x.shape, call.element)
    dx = call.output(out, x.shape, dtype=call.element, in_place=("dy",))
    call.module.eltmax_backward(x, y, dy, dx, call.stream)
    return dx
