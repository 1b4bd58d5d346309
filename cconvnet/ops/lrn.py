"""Local response normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import LrnProblem
from cconvnet.checks import real, whole
from cconvnet.devices import Device
from cconvnet.operations.lrn import LRN_BACKWARD, LRN_FORWARD
from cconvnet.ops.arguments import Array, text
from cconvnet.ops.call import Call


def lrn_problem(
    shape: Sequence[int], size: int, alpha: float, beta: float, k: float, groups: int, region: str,
    average: bool,
) -> LrnProblem:  # fmt: skip
    """Check the numbers of a normalisation of images of a shape, and return its problem.

    Args:
        shape: The shape of the images, [N,H,W,C].
        size: See lrn_forward.
        alpha: See lrn_forward.
        beta: See lrn_forward.
        k: See lrn_forward.
        groups: See lrn_forward.
        region: See lrn_forward.
        average: See lrn_forward.
    """
    size, alpha, region = whole("size", size, 1), real("alpha", alpha), text("region", region)
    if average:
        alpha /= size * size if region == "same_map" else size
    n, h, w, c = shape
    return LrnProblem(
        n, h, w, c, size, alpha, real("beta", beta), real("k", k), whole("groups", groups, 1), region
    )


def lrn_forward(
    x: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, groups: int = 1,
    region: str = "across_channels", average: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``y`` = x * (k + alpha * sum of x^2 over a window)^-beta for x[N,H,W,C].

    Args:
        x: The images.
        size: The extent of the window.
        alpha: The factor of the sum: that of the 2012 paper, unless `average`.
        beta: The exponent.
        k: The constant.
        groups: The equal parts of the channels that windows do not leave.
        region: "across_channels" for windows of `size` channels, "same_map" for windows of size x size
            pixels of one channel.
        average: True if alpha is divided by the window's full size (`size`, or size^2 in the same map), as
            cuda-convnet's and PyTorch's is.
        out: The array to write to.
        device: The device of host arrays.
    """
    call = Call(LRN_FORWARD, device, x=x)
    problem = lrn_problem(call.shape("x"), size, alpha, beta, k, groups, region, average)
    return call.run(problem, out=out)


def lrn_backward(
    x: Array, dy: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0,
    groups: int = 1, region: str = "across_channels", average: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dx[N,H,W,C]``, the gradient by x of the sum of dy times ``lrn_forward(x)``."""
    call = Call(LRN_BACKWARD, device, x=x, dy=dy)
    problem = lrn_problem(call.shape("x"), size, alpha, beta, k, groups, region, average)
    return call.run(problem, out=out)
