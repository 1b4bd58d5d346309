"""Sums of parts in a fixed tree."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import TreeSumProblem
from cconvnet.checks import real, whole
from cconvnet.devices import Device
from cconvnet.operations.tree_sum import TREE_SUM
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def tree_sum(
    x: Array, merges: Sequence[int], *, scale: float = 1.0, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return y[COUNT] = scale * the sum of the rows of x[PARTS, COUNT], added in a fixed tree.

    Parts are pushed on a stack, and `merges` has a number for each: after part i, the two topmost sums are
    added merges[i] times, the earlier one on the left. ``[0, 1, 0, 2]`` is (x[0] + x[1]) + (x[2] + x[3]).
    Sums are of floats. A CUDA kernel reads 16 bytes at a time where COUNT is a multiple of them.

    Args:
        x: The parts, at most 256.
        merges: The tree. One sum must be left in the end, and at most 9 be on the stack.
        scale: The factor of the sum.
        out: The array to write to.
        device: The device of host arrays.
    """
    call = Call(TREE_SUM, device, x=x)
    parts, count = call.shape("x")
    if not isinstance(merges, Sequence) or isinstance(merges, str):
        raise TypeError(f"merges must be a sequence of integers, not {merges!r}")
    if len(merges) != parts:
        raise ValueError(f"merges must have a number for each of x's {parts} parts, not {len(merges)}")
    numbers = [whole(f"merges[{i}]", merge) for i, merge in enumerate(merges)]
    return call.run(TreeSumProblem(count, numbers, real("scale", scale)), out=out)
