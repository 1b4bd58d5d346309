"""Max unpooling."""

from __future__ import annotations

from cconvnet.devices import Device
from cconvnet.operations.unpool import MAXUNPOOL_BACKWARD, MAXUNPOOL_FORWARD
from cconvnet.ops.arguments import Array, Padding, Pair
from cconvnet.ops.call import Call
from cconvnet.ops.pool import pool_problem


def maxunpool_forward(
    x: Array, u: Array, *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0, rounding: str = "floor",
    outputs: Pair | None = None, out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``y[N,H,W,C]``: each value of x[N,P,Q,C] at the place of its window's maximum in u[N,H,W,C].

    Everything else is 0. Of equal maxima the first in row-major order is the place, and the first NaN is a
    maximum. Windows that overlap may share a maximum; their values are added, in the order of the windows.
    So nothing of x is lost, and y and x have one sum. Source: Zeiler and Fergus 2014, "Visualizing and
    understanding convolutional networks", section 2.1.

    Args:
        x: A value for each window of the pooling.
        u: The input of the max pooling. It has no gradient.
        window: The pooling's; see maxpool_forward.
        stride: Likewise.
        padding: Likewise.
        rounding: Likewise.
        outputs: Likewise.
        out: The array to write to.
        device: The device of host arrays.

    Raises:
        ValueError: x has another shape than the pooling's output, or a number does not fit.
    """
    call = Call(MAXUNPOOL_FORWARD, device, x=x, u=u)
    return call.run(pool_problem(call.shape("u"), window, stride, padding, rounding, outputs), out=out)


def maxunpool_backward(
    u: Array, dy: Array, *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0, rounding: str = "floor",
    outputs: Pair | None = None, out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dx[N,P,Q,C]``: dy[N,H,W,C] at the place of each window's maximum in u[N,H,W,C].

    The other arguments are those of maxunpool_forward.
    """
    call = Call(MAXUNPOOL_BACKWARD, device, u=u, dy=dy)
    return call.run(pool_problem(call.shape("u"), window, stride, padding, rounding, outputs), out=out)
