"""Max and average pooling."""

from __future__ import annotations

from functools import partial
from typing import Any

from cconvnet import ops
from cconvnet.devices import Device
from cconvnet.ops import Pair
from cconvnet.torch.function import unary
from cconvnet.torch.layout import from_images, images, pair


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
    settings = _settings(x, kernel_size, stride, padding, ceil_mode, device)
    forward, backward = partial(ops.maxpool_forward, **settings), partial(ops.maxpool_backward, **settings)
    return from_images(unary(x, forward, backward, keeps="xy"))


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
    settings["count_padding"] = count_include_pad
    forward = partial(ops.avgpool_forward, **settings)
    backward = partial(ops.avgpool_backward, x_shape=x.shape, **settings)
    return from_images(unary(x, forward, backward))


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
