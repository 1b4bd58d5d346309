"""The windows of our poolings as PyTorch's arguments."""

from __future__ import annotations

from typing import Any

import torch

from cconvnet.bench.peers.side import Refused


def pooling(problem: Any) -> list[list[int]]:
    """Return the size of a window, the stride and the padding."""
    return [
        [problem.window_h, problem.window_w],
        [problem.stride_h, problem.stride_w],
        [problem.pad_h, problem.pad_w],
    ]


def ceil_mode(problem: Any) -> bool:
    """True if the last windows extend beyond the padded image."""
    return any(
        (windows - 1) * stride + size > extent + 2 * pad
        for windows, stride, size, extent, pad in (
            (problem.p, problem.stride_h, problem.window_h, problem.h, problem.pad_h),
            (problem.q, problem.stride_w, problem.window_w, problem.w, problem.pad_w),
        )
    )


def check_windows(problem: Any) -> None:
    """Check that PyTorch's pooling has the same windows.

    Raises:
        Refused: it has not.
    """
    if (problem.pad_h, problem.pad_w) != (problem.pad_bottom, problem.pad_right):
        raise Refused("PyTorch's pooling pads both sides alike")
    if (
        min(problem.pad_h, problem.pad_w) < 0
        or 2 * problem.pad_h > problem.window_h
        or 2 * problem.pad_w > problem.window_w
    ):
        raise Refused("PyTorch's pooling pads by 0 up to half a window")
    x = torch.empty((1, 1, problem.h, problem.w))
    made = torch.max_pool2d(x, *pooling(problem), 1, ceil_mode(problem)).shape[2:]  # type: ignore[call-arg, arg-type]
    if tuple(made) != (problem.p, problem.q):
        raise Refused(f"PyTorch's pooling has {made[0]} x {made[1]} windows, not {problem.p} x {problem.q}")
