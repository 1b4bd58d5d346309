"""Convolutions of images of few channels over blocks of pixels, whose pixels become channels."""

from __future__ import annotations

from typing import Any

from cconvnet._problem import ConvProblem, FilterBlocksProblem

_MOST_CHANNELS = 4

Pair = tuple[int, int]


def blocks_serve(
    channels: int, window: Pair, stride: Pair, padding: tuple[Any, Any], dilation: Pair, groups: int
) -> bool:
    """Return whether a convolution has a form over blocks, for devices that prefer many channels."""
    (block, across), (above, left) = stride, padding
    return (
        block == across
        and block > 1
        and above == left
        and dilation == (1, 1)
        and min(window) >= block
        and groups == 1
        and channels <= _MOST_CHANNELS
    )


def over_blocks(problem: Any) -> ConvProblem | None:
    """Return a convolution of images of few channels as one of stride 1, with blocks of pixels as channels.

    Returns None if there is no such form. Windows that extend beyond the image, as when sizes are rounded up,
    read zeros behind the blocks.
    """
    if not isinstance(problem, ConvProblem) or not blocks_serve(
        problem.c,
        (problem.r, problem.s),
        (problem.stride_h, problem.stride_w),
        (problem.pad_h, problem.pad_w),
        (problem.dilation_h, problem.dilation_w),
        problem.groups,
    ):
        return None
    block = problem.stride_h
    filters = FilterBlocksProblem(problem.k, problem.r, problem.s, problem.c, block)
    _, r, s, channels = filters.blocks_shape
    return ConvProblem(
        problem.n,
        -(-(problem.h + 2 * problem.pad_h) // block),
        -(-(problem.w + 2 * problem.pad_w) // block),
        channels,
        problem.k,
        r,
        s,
        precision=problem.precision,
        outputs=(problem.p, problem.q),
    )
