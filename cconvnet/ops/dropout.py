"""Dropout."""

from __future__ import annotations

from cconvnet._problem import DropoutProblem
from cconvnet.checks import real, whole
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call


def dropout(
    x: Array, *, keep: float, seed: int, subsequence: int = 0, scale: float = 1.0, columns: int = 0,
    row_stride: int = 0, first: int = 0, out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """x * scale where kept, else 0; each element is kept with probability `keep`. In place allowed
    (``out=x``).

    The mask is a function of `seed`, `subsequence` and the element's position alone, the same on every
    device; the backward pass is the same call on the gradient.

    A part of a tensor draws what it would in the whole: with ``x = whole[:, first : first + columns]`` of a
    whole with rows of `row_stride` elements, the result is that slice of ``dropout(whole)``.
    """
    call = Call(device, x=x)
    x = call.numbers("x", "any")
    problem = DropoutProblem(
        x.size,
        real("keep", keep),
        real("scale", scale),
        whole("seed", seed, high=2**64 - 1),
        whole("subsequence", subsequence, high=2**64 - 1),
        whole("columns", columns),
        whole("row_stride", row_stride),
        whole("first", first),
    )
    y = call.output(out, x.shape, dtype=call.element, in_place=("x",))
    call.module.dropout(problem, x, y, call.stream)
    return y
