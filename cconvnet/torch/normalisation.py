"""Local response and contrast normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from cconvnet import ops
from cconvnet.devices import Device
from cconvnet.torch.layout import from_images, images


class _ResponseNorm(torch.autograd.Function):
    """lrn_forward of x[N,H,W,C], and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Any, settings: dict[str, Any]) -> Any:
        ctx.save_for_backward(x)
        ctx.settings = settings
        return ops.lrn_forward(x.detach(), **settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any) -> Any:
        (x,) = ctx.saved_tensors
        return ops.lrn_backward(x.detach(), dy.detach().contiguous(), **ctx.settings), None


class _ContrastNorm(torch.autograd.Function):
    """contrast_norm_forward of x[N,H,W,C], and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Any, settings: dict[str, Any]) -> Any:
        ctx.save_for_backward(x)
        ctx.settings = settings
        return ops.contrast_norm_forward(x.detach(), **settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Any) -> Any:
        (x,) = ctx.saved_tensors
        return ops.contrast_norm_backward(x.detach(), dy.detach().contiguous(), **ctx.settings), None


def local_response_norm(
    input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, groups: int = 1,
    region: str = "across_channels", device: str | Device | None = None,
) -> Any:  # fmt: skip
    """Return ``input * (k + alpha/size * sum of input^2 over size channels)^-beta``.

    It is ``torch.nn.functional.local_response_norm``, whose alpha is that of a mean. The alpha of the 2012
    paper, which is that of a sum, is `size` times smaller.

    Args:
        input: The images [N,C,H,W].
        size: The extent of the window.
        alpha: The factor of the window's mean square.
        beta: The exponent.
        k: The constant.
        groups: The equal parts of the channels that windows do not leave.
        region: "across_channels", or "same_map" for windows of size x size pixels of one channel.
        device: The device of CPU tensors.

    Raises:
        ValueError: A shape or an argument is wrong; the text names it.
    """
    settings = {
        "size": size, "alpha": alpha, "beta": beta, "k": k, "groups": groups, "region": region,
        "average": True, "device": device,
    }  # fmt: skip
    return from_images(_ResponseNorm.apply(images("input", input), settings))


def contrast_norm(
    input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *,
    device: str | Device | None = None,
) -> Any:  # fmt: skip
    """Return ``input * (k + alpha * sum of u^2)^-beta`` with u = input - its mean.

    Sum and mean are over size x size pixels of one channel, clipped to the image.

    Args:
        input: The images [N,C,H,W].
        size: The side of a window.
        alpha: The factor of the sum.
        beta: The exponent.
        k: The constant.
        device: The device of CPU tensors.

    Raises:
        ValueError: A shape or an argument is wrong; the text names it.
    """
    settings = {"size": size, "alpha": alpha, "beta": beta, "k": k, "device": device}
    return from_images(_ContrastNorm.apply(images("input", input), settings))
