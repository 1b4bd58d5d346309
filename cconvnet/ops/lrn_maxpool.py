"""Local response normalisation and max pooling in one."""

from __future__ import annotations

from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call, Padding, Pair
from cconvnet.ops.lrn import lrn_problem
from cconvnet.ops.pool import pool_problem


def lrn_maxpool_forward(
    x: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, groups: int = 1,
    average: bool = False, window: Pair = 3, stride: Pair = 2, padding: Padding = 0, rounding: str = "floor",
    outputs: Pair | None = None, out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y[N,P,Q,C]`` = maxpool_forward(lrn_forward(x)) for x[N,H,W,C], across channels, without what lies
    between."""
    call = Call(device, x=x)
    x = call.numbers("x", "N,H,W,C")
    lrn = lrn_problem(x.shape, size, alpha, beta, k, groups, "across_channels", average)
    pool = pool_problem(x.shape, window, stride, padding, rounding, outputs)
    y = call.output(out, pool.y_shape, dtype=call.element)
    call.module.lrn_maxpool_forward(lrn, pool, x, y, call.stream)
    return y


def lrn_maxpool_backward(
    x: Array, y: Array, dy: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0,
    groups: int = 1, average: bool = False, window: Pair = 3, stride: Pair = 2, padding: Padding = 0,
    rounding: str = "floor", outputs: Pair | None = None, relu: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``, the gradient by x of the sum of dy[N,P,Q,C] times ``y = lrn_maxpool_forward(x)``; with
    `relu`, that of the layer before x, 0 where x is not positive.

    Maxima are known by their bits, so y must be of the same device.
    """
    call = Call(device, x=x, y=y, dy=dy)
    x = call.numbers("x", "N,H,W,C")
    lrn = lrn_problem(x.shape, size, alpha, beta, k, groups, "across_channels", average)
    pool = pool_problem(x.shape, window, stride, padding, rounding, outputs)
    y, dy = (call.shaped(name, pool.y_shape, call.element) for name in ("y", "dy"))
    dx = call.output(out, x.shape, dtype=call.element)
    space = call.workspace(call.module.lrn_maxpool_backward_workspace(lrn, pool))
    call.module.lrn_maxpool_backward(lrn, pool, x, y, dy, bool(relu), dx, space, call.stream)
    return dx
