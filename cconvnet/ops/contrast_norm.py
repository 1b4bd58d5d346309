"""Local contrast normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import ContrastNormProblem
from cconvnet.checks import real, whole
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call


def contrast_problem(
    shape: Sequence[int], size: int, alpha: float, beta: float, k: float
) -> ContrastNormProblem:
    n, h, w, c = shape
    return ContrastNormProblem(
        n, h, w, c, whole("size", size, 1), real("alpha", alpha), real("beta", beta), real("k", k)
    )


def contrast_norm_forward(
    x: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y`` = x * (k + alpha * sum of u^2)^-beta with u = x - mean, for x[N,H,W,C].

    Sum and mean go over size x size pixels of one channel, clipped to the image. cuda-convnet's `scale` is
    alpha * size^2.
    """
    call = Call(device, x=x)
    x = call.numbers("x", "N,H,W,C")
    problem = contrast_problem(x.shape, size, alpha, beta, k)
    y = call.output(out, x.shape, dtype=call.element)
    space = call.workspace(call.module.contrast_norm_forward_workspace(problem))
    call.module.contrast_norm_forward(problem, x, y, space, call.stream)
    return y


def contrast_norm_backward(
    x: Array, dy: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``, the gradient by x of the sum of dy times ``contrast_norm_forward(x)``, the
    mean's part included."""
    call = Call(device, x=x, dy=dy)
    x = call.numbers("x", "N,H,W,C")
    dy = call.shaped("dy", x.shape, call.element)
    problem = contrast_problem(x.shape, size, alpha, beta, k)
    dx = call.output(out, x.shape, dtype=call.element)
    space = call.workspace(call.module.contrast_norm_backward_workspace(problem))
    call.module.contrast_norm_backward(problem, x, dy, dx, space, call.stream)
    return dx
