"""Weighted sums and conversions, element by element."""

from __future__ import annotations

from cconvnet import bfloat16
from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call


def add(
    a: Array, b: Array, alpha: float = 1.0, beta: float = 1.0, *, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """alpha * a + beta * b for arrays of one shape; in place allowed (``out=a`` or ``out=b``)."""
    call = Call(device, a=a, b=b)
    a = call.numbers("a", "any")
    b = call.shaped("b", a.shape, call.element)
    y = call.output(out, a.shape, dtype=call.element, in_place=("a", "b"))
    call.module.add(a, b, y, call.stream, real("alpha", alpha), real("beta", beta))
    return y


def to_bf16(x: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """float32 numbers of any shape rounded to bfloat16s, to the nearest, ties to even."""
    call = Call(device, x=x)
    x = call.get("x", "any")
    y = call.output(out, x.shape, dtype=bfloat16.BITS)
    call.module.to_bf16(x, y, call.stream)
    return y


def from_bf16(x: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """The float32 numbers that an array of bfloat16s holds."""
    call = Call(device, x=x)
    x = call.get("x", "any", bfloat16.BITS)
    y = call.output(out, x.shape)
    call.module.from_bf16(x, y, call.stream)
    return y
