"""Max and average pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from cconvnet import ops
from cconvnet.devices import Device
from cconvnet.ops import Pair
from cconvnet.torch.layout import from_images, images, pair


class _MaxPool(torch.autograd.Function):
    """maxpool_forward of x[N,H,W,C], and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Any, settings: dict[str, Any]) -> Any:
        y = ops.maxpool_forward(x.detach(), **settings)
        ctx.save_for_backward(x, y)
        ctx.settings = settings
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any) -> Any:
        x, y = (tensor.detach() for tensor in ctx.saved_tensors)
        return ops.maxpool_backward(x, y, dy.detach().contiguous(), **ctx.settings), None


class _AveragePool(torch.autograd.Function):
    """avgpool_forward of x[N,H,W,C], and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Any, settings: dict[str, Any]) -> Any:
        ctx.shape, ctx.settings = x.shape, settings
        return ops.avgpool_forward(x.detach(), **settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any) -> Any:
        return ops.avgpool_backward(dy.detach().contiguous(), ctx.shape, **ctx.settings), None


def max_pool2d(
    input: Any, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, *, ceil_mode: bool = False,
    device: str | Device | None = None,
) -> Any:  # fmt: skip
    """Return the largest value of each window, as ``torch.nn.functional.max_pool2d`` without dilation.

    The gradient of a window goes to every element that equals its maximum, where PyTorch chooses one.

    Args:
        input: The images [N,C,H,W].
        kernel_size: The size of a window: one number or (vertical, horizontal).
        stride: The distance of two windows, as `kernel_size`; None is the size of a window.
        padding: The pixels on either side that windows may reach into, as `kernel_size`.
        ceil_mode: True for a last window that extends beyond the padding, if it begins inside the image or
            the padding before it.
        device: The device of CPU tensors.

    Raises:
        ValueError: A shape or an argument is wrong; the text names it.
    """
    x = images("input", input)
    return from_images(_MaxPool.apply(x, _settings(x, kernel_size, stride, padding, ceil_mode, device)))


def avg_pool2d(
    input: Any, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, *, device: str | Device | None = None,
) -> Any:  # fmt: skip
    """Return the mean of each window, as ``torch.nn.functional.avg_pool2d``.

    Args:
        input: The images [N,C,H,W].
        kernel_size: The size of a window: one number or (vertical, horizontal).
        stride: The distance of two windows, as `kernel_size`; None is the size of a window.
        padding: The pixels of zeros on either side, as `kernel_size`.
        ceil_mode: As in max_pool2d.
        count_include_pad: True if zeros of the padding count in the mean.
        device: The device of CPU tensors.

    Raises:
        ValueError: A shape or an argument is wrong; the text names it.
    """
    x = images("input", input)
    settings = _settings(x, kernel_size, stride, padding, ceil_mode, device)
    return from_images(_AveragePool.apply(x, {**settings, "count_padding": count_include_pad}))


def _settings(
    x: Any, window: Pair, stride: Pair | None, padding: Pair, ceil_mode: bool, device: str | Device | None
) -> dict[str, Any]:
    """Return the arguments of the operations on x[N,H,W,C]."""
    stride = window if stride is None else stride
    settings: dict[str, Any] = {"window": window, "stride": stride, "padding": padding, "device": device}
    if ceil_mode:
        settings["outputs"] = tuple(
            _windows(*numbers)
            for numbers in zip(x.shape[1:3], pair(window), pair(stride), pair(padding), strict=True)
        )
    return settings


def _windows(extent: int, window: int, stride: int, padding: int) -> int:
    """Return how many windows PyTorch has with ceil_mode: none begins in the padding at the end."""
    count = -(-(extent + 2 * padding - window) // stride) + 1
    return count - ((count - 1) * stride >= extent + padding)
