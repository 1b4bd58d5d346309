"""How much an operation must do at least: the work its floor is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# What is read and then written where it stood.
_UPDATED = {"sgd_update": (1, 2), "limit_norm": (0,)}


@dataclass(frozen=True)
class Work:
    """Of one call.

    Attributes
        flops: floating-point operations of the sums of products, two for each multiply-add. Operations that
            take a few steps for each element they move count none: memory is what limits them.
        bytes: every array read once and every output written once, whatever the kernel really moves. Single
            numbers that lie on the device are no arrays.
    """

    flops: int
    bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


def work(operation: str, arguments: Sequence[Any], keywords: Mapping[str, Any] | None = None) -> Work:
    """The work of a function of kernels/api.h.

    Args:
        operation: its name, "conv_fprop".
        arguments, keywords: as a device's module takes them: the problems if there are any, the arrays,
            numbers, the workspace and the stream. Only the problems and the arrays count; the workspace does
            not.
    """
    problem, keywords = arguments[0], keywords or {}
    if operation == "input_transform":
        arrays = [a for a in arguments if hasattr(a, "nbytes")]
        images, read = arrays[0], problem.n * problem.p * problem.q * problem.c  # only the crop, in bytes
        return Work(0, read + sum(_bytes(a) for a in arrays if a is not images))
    # No other operation reads bytes; the workspace is bytes.
    arrays = [a for a in arguments if hasattr(a, "nbytes") and a.dtype != np.uint8]
    rounded = keywords.get("w_bf16")
    if (update := keywords.get("update")) is not None:
        _, v, w, rounded, *_ = update
        # What a gradient that is used at once leaves behind need not be written.
        arrays[-1:] = [v, v, w, w]
    moved = sum(map(_bytes, arrays)) + _bytes(rounded)
    moved += sum(_bytes(arrays[index]) for index in _UPDATED.get(operation, ()))
    products = operation.startswith(("conv_", "fc_", "local_"))
    return Work(int(problem.flops) if products else 0, moved)


def _bytes(array: Any) -> int:
    return 0 if array is None else int(array.nbytes)
