"""Local contrast normalisation."""

from __future__ import annotations

from cconvnet._problem import ContrastNormProblem
from cconvnet.checks import real, whole
from cconvnet.devices import Device
from cconvnet.operations.contrast_norm import CONTRAST_NORM_BACKWARD, CONTRAST_NORM_FORWARD
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def _problem(call: Call, size: int, alpha: float, beta: float, k: float) -> ContrastNormProblem:
    n, h, w, c = call.shape("x")
    return ContrastNormProblem(
        n, h, w, c, whole("size", size, 1), real("alpha", alpha), real("beta", beta), real("k", k)
    )


def contrast_norm_forward(
    x: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``y`` = x * (k + alpha * sum of u^2)^-beta with u = x - mean, for x[N,H,W,C].

    Sum and mean are over size x size pixels of one channel, clipped to the image. cuda-convnet's `scale` is
    alpha * size^2.
    """
    call = Call(CONTRAST_NORM_FORWARD, device, x=x)
    return call.run(_problem(call, size, alpha, beta, k), out=out)


def contrast_norm_backward(
    x: Array, dy: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dx[N,H,W,C]``, the gradient by x of the sum of dy times ``contrast_norm_forward(x)``.

    The gradient through the mean is included.
    """
    call = Call(CONTRAST_NORM_BACKWARD, device, x=x, dy=dy)
    return call.run(_problem(call, size, alpha, beta, k), out=out)
