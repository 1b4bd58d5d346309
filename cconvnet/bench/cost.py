"""Least work of an operation, from which its floor follows: arithmetic and bytes moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cconvnet.operations import OPERATIONS


@dataclass(frozen=True)
class Work:
    """Work of one call.

    Attributes:
        flops: Floating-point operations of the sums of products, two for each multiply-add. Operations that
            take a few steps for each element they move count none: memory limits them.
        bytes: Every array read once and every output written once, whatever the kernel really moves. Single
            numbers on the device are not counted.
    """

    flops: int
    bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


def work(operation: str, arguments: Sequence[Any], keywords: Mapping[str, Any] | None = None) -> Work:
    """Return the work of a call of a function of kernels/api.h.

    Args:
        operation: Its name, "conv_fprop".
        arguments: The arguments as a device's module takes them: the problems if there are any, arrays,
            numbers, the workspace and the stream. The workspace does not count.
        keywords: The options of the call.
    """
    described = OPERATIONS[operation]
    problems, values = described.bind(arguments, keywords)
    problem = problems[0] if problems else None
    moved = 0
    for given in described.inputs:
        array = described.arrays.get(given.name)
        if array is not None:
            moved += array.bytes_read(problem) if array.bytes_read else _bytes(values[given.name])
    rounded = values.get("w_bf16")
    if (update := values.get("update")) is not None:
        # A gradient that is used at once need not be written.
        _, v, w, rounded, *_ = update
        moved += 2 * (_bytes(v) + _bytes(w))
    else:
        moved += sum(_bytes(values[output.name]) for output in described.outputs)
    flops = int(described.flops(problem)) if described.flops else 0
    masked_by, db = values.get("masked_by"), values.get("db")
    if any(masked_by is values[given.name] for given in described.inputs):
        masked_by = None
    return Work(flops, moved + sum(map(_bytes, (rounded, masked_by, db))))


def _bytes(array: Any) -> int:
    return 0 if array is None else int(array.nbytes)
