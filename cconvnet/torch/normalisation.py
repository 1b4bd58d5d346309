"""Local response and contrast normalisation."""

from __future__ import annotations

from functools import partial
from typing import Any

from cconvnet import ops
from cconvnet.devices import Device
from cconvnet.torch.function import unary
from cconvnet.torch.layout import from_images, images


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
    settings: dict[str, Any] = {
        "size": size, "alpha": alpha, "beta": beta, "k": k, "groups": groups, "region": region,
        "average": True, "device": device,
    }  # fmt: skip
    forward, backward = partial(ops.lrn_forward, **settings), partial(ops.lrn_backward, **settings)
    return from_images(unary(images("input", input), forward, backward, keeps="x"))


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
    settings: dict[str, Any] = {"size": size, "alpha": alpha, "beta": beta, "k": k, "device": device}
    forward = partial(ops.contrast_norm_forward, **settings)
    backward = partial(ops.contrast_norm_backward, **settings)
    return from_images(unary(images("input", input), forward, backward, keeps="x"))
