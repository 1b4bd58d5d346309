"""Local response normalisation across channels, and the max pooling behind it, in one."""

from __future__ import annotations

from cconvnet.devices import Device
from cconvnet.operations.lrn_maxpool import LRN_MAXPOOL_BACKWARD, LRN_MAXPOOL_FORWARD
from cconvnet.ops.arguments import Array, Padding, Pair
from cconvnet.ops.call import Call
from cconvnet.ops.lrn import lrn_problem
from cconvnet.ops.pool import pool_problem


def lrn_maxpool_forward(
    x: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, groups: int = 1,
    average: bool = False, window: Pair = 3, stride: Pair = 2, padding: Padding = 0, rounding: str = "floor",
    outputs: Pair | None = None, out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``y[N,P,Q,C]`` = maxpool_forward(lrn_forward(x)) for x[N,H,W,C], across channels.

    The normalised images are not stored.
    """
    call = Call(LRN_MAXPOOL_FORWARD, device, x=x)
    shape = call.shape("x")
    lrn = lrn_problem(shape, size, alpha, beta, k, groups, "across_channels", average)
    pool = pool_problem(shape, window, stride, padding, rounding, outputs)
    return call.run((lrn, pool), out=out)


def lrn_maxpool_backward(
    x: Array, y: Array, dy: Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0,
    groups: int = 1, average: bool = False, window: Pair = 3, stride: Pair = 2, padding: Padding = 0,
    rounding: str = "floor", outputs: Pair | None = None, relu: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dx[N,H,W,C]``, the gradient by x of the sum of dy[N,P,Q,C] times ``lrn_maxpool_forward(x)``.

    With `relu` it is the gradient of a ReLU before x, too: 0 where x is not positive. Maxima are recognised
    by their bits, so y must be the output of the same device.
    """
    call = Call(LRN_MAXPOOL_BACKWARD, device, x=x, y=y, dy=dy)
    shape = call.shape("x")
    lrn = lrn_problem(shape, size, alpha, beta, k, groups, "across_channels", average)
    pool = pool_problem(shape, window, stride, padding, rounding, outputs)
    return call.run((lrn, pool), out=out, relu=bool(relu))
