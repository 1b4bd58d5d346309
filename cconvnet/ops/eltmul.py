"""Elementwise product."""

from __future__ import annotations

from cconvnet.devices import Device
from cconvnet.operations.eltmul import ELTMUL
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def eltmul(a: Array, b: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """Return a * b for arrays of one shape; in place allowed (``out=a`` or ``out=b``).

    The gradients are two more calls: ``eltmul(dy, b)`` by a, and ``eltmul(dy, a)`` by b.
    """
    return Call(ELTMUL, device, a=a, b=b).run(out=out)
