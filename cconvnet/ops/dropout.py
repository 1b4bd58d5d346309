"""Dropout."""

from __future__ import annotations

from cconvnet._problem import DropoutProblem
from cconvnet.checks import real, whole
from cconvnet.devices import Device
from cconvnet.operations.dropout import DROPOUT
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def dropout(
    x: Array, *, keep: float, seed: int, subsequence: int = 0, scale: float = 1.0, columns: int = 0,
    row_stride: int = 0, first: int = 0, first_row: int = 0, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return x * scale where kept, else 0; in place allowed (``out=x``).

    The mask is a function of `seed`, `subsequence` and the element's position alone, the same on every
    device. The backward pass is the same call on the gradient.

    A part of a tensor has the mask that it has in the whole. For
    ``x = whole[first_row : first_row + rows, first : first + columns]`` of a whole with rows of `row_stride`
    elements, the result is that slice of ``dropout(whole)``.

    Args:
        x: The array, of any shape.
        keep: The probability with which an element is kept.
        seed: The key of the random numbers, of 64 bits.
        subsequence: Their stream, of 64 bits.
        scale: The factor of kept elements.
        columns: The row length of a part; 0 if x is a whole.
        row_stride: The row length of the whole.
        first: The part's first column in the whole.
        first_row: The part's first row in the whole.
        out: The array to write to.
        device: The device of host arrays.
    """
    call = Call(DROPOUT, device, x=x)
    problem = DropoutProblem(
        call.size("x"),
        real("keep", keep),
        real("scale", scale),
        whole("seed", seed, high=2**64 - 1),
        whole("subsequence", subsequence, high=2**64 - 1),
        whole("columns", columns),
        whole("row_stride", row_stride),
        whole("first", first),
        whole("first_row", first_row),
    )
    return call.run(problem, out=out)
