"""Weighted sums and conversions, element by element."""

from __future__ import annotations

from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.operations.elementwise import ADD, FROM_BF16, TO_BF16
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def add(
    a: Array, b: Array, alpha: float = 1.0, beta: float = 1.0, *, relu: bool = False,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return alpha * a + beta * b for arrays of one shape; in place allowed (``out=a`` or ``out=b``).

    With `relu` max(0, .) of the sum is returned.
    """
    call = Call(ADD, device, a=a, b=b)
    return call.run(out=out, alpha=real("alpha", alpha), beta=real("beta", beta), relu=bool(relu))


def to_bf16(x: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """Return float32 numbers of any shape rounded to bfloat16s, to the nearest, ties to even."""
    return Call(TO_BF16, device, x=x).run(out=out)


def from_bf16(x: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """Return the float32 numbers that an array of bfloat16s contains."""
    return Call(FROM_BF16, device, x=x).run(out=out)
