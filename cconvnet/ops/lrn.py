"""Local response normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import LrnProblem
from cconvnet.checks import real, whole
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call, text


def lrn_problem(
    shape: Sequence[int],
    size: int,
    alpha: float,
    beta: float,
    k: float,
    groups: int,
    region: str,
    average: bool,
) -> LrnProblem:
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
    """``y`` = x * (k + alpha * sum of x^2 over a window)^-beta for x[N,H,W,C].

    `region` is ``"across_channels"`` (`size` channels, within each of `groups` equal parts) or ``"same_map"``
    (size x size pixels of one channel). With ``average=True`` alpha is cuda-convnet's and PyTorch's `scale`,
    which divides by the window's full size (`size`, or size^2 in the same map); otherwise it is the 2012
    paper's.
    """
    call = Call(device, x=x)
    x = call.numbers("x", "N,H,W,C")
    problem = lrn_problem(x.shape, size, alpha, beta, k, groups, region, average)
    y = call.output(out, x.shape, dtype=call.element)
    call.module.lrn_forward(problem, x, y, call.stream)
    return y


def lrn_backward(
    x: Array, dy: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0,
    groups: int = 1, region: str = "across_channels", average: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``, the gradient by x of the sum of dy times ``lrn_forward(x)``."""
    call = Call(device, x=x, dy=dy)
    x = call.numbers("x", "N,H,W,C")
    dy = call.shaped("dy", x.shape, call.element)
    problem = lrn_problem(x.shape, size, alpha, beta, k, groups, region, average)
    dx = call.output(out, x.shape, dtype=call.element)
    space = call.workspace(call.module.lrn_backward_workspace(problem))
    call.module.lrn_backward(problem, x, dy, dx, space, call.stream)
    return dx
