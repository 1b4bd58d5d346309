"""Max and average pooling."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import PoolProblem
from cconvnet.devices import Device
from cconvnet.operations.pool import AVGPOOL_BACKWARD, AVGPOOL_FORWARD, MAXPOOL_BACKWARD, MAXPOOL_FORWARD
from cconvnet.ops.arguments import (
    Array,
    Padding,
    Pair,
    four_extents,
    optional_pair,
    padding_pairs,
    pair_of,
    text,
)
from cconvnet.ops.call import Call


def pool_problem(
    shape: Sequence[int], window: Pair, stride: Pair, padding: Padding, rounding: str, outputs: Pair | None,
    count_padding: bool = False,
) -> PoolProblem:  # fmt: skip
    """Check the numbers of a pooling of images of a shape, and return its problem.

    Args:
        shape: The shape of the images, [N,H,W,C].
        window: See maxpool_forward.
        stride: See maxpool_forward.
        padding: See maxpool_forward.
        rounding: See maxpool_forward.
        outputs: See maxpool_forward.
        count_padding: See avgpool_forward.
    """
    n, h, w, c = shape
    return PoolProblem(
        n, h, w, c, window=pair_of("window", window), stride=pair_of("stride", stride),
        padding=padding_pairs(padding, 1 - 2**31), rounding=text("rounding", rounding),
        outputs=optional_pair("outputs", outputs), count_padding=bool(count_padding),
    )  # fmt: skip


def maxpool_forward(
    x: Array, *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0, rounding: str = "floor",
    outputs: Pair | None = None, out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``y[N,P,Q,C]``, the largest value of each window of x[N,H,W,C], clipped to the image; NaN wins.

    Args:
        x: The images.
        window: The size of a window, one number or (vertical, horizontal).
        stride: The distance of two windows, as `window`.
        padding: Window p begins at pixel ``p * stride - padding``. A negative padding begins inside the
            image. It may be ``((top, bottom), (left, right))``.
        rounding: "floor" or "ceil", as in conv_fprop.
        outputs: (P, Q), how many windows there are, in place of `rounding`. Each must contain a pixel.
        out: The array to write to.
        device: The device of host arrays.
    """
    call = Call(MAXPOOL_FORWARD, device, x=x)
    return call.run(pool_problem(call.shape("x"), window, stride, padding, rounding, outputs), out=out)


def maxpool_backward(
    x: Array, y: Array, dy: Array, *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0,
    rounding: str = "floor", outputs: Pair | None = None, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dx[N,H,W,C]``: each window's dy goes to every element that equals its maximum y.

    Equal maxima all receive it, as in cuda-convnet.
    """
    call = Call(MAXPOOL_BACKWARD, device, x=x, y=y, dy=dy)
    return call.run(pool_problem(call.shape("x"), window, stride, padding, rounding, outputs), out=out)


def avgpool_forward(
    x: Array, *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0, rounding: str = "floor",
    outputs: Pair | None = None, count_padding: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``y[N,P,Q,C]``, the mean of each window of x[N,H,W,C], over the part inside the image.

    With `count_padding` the mean is over the part inside the padded image, whose padding counts as zeros.
    Pixels beyond the padding, in the last windows of ``rounding="ceil"``, never count. PyTorch's and ONNX's
    ``count_include_pad`` is the same. The other arguments are those of maxpool_forward.
    """
    call = Call(AVGPOOL_FORWARD, device, x=x)
    problem = pool_problem(call.shape("x"), window, stride, padding, rounding, outputs, count_padding)
    return call.run(problem, out=out)


def avgpool_backward(
    dy: Array, x_shape: Sequence[int], *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0,
    rounding: str = "floor", outputs: Pair | None = None, count_padding: bool = False,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dx[N,H,W,C]``: each window's dy, divided by its mean's divisor, goes to all its elements."""
    call = Call(AVGPOOL_BACKWARD, device, dy=dy)
    call.shape("dy")
    shape = four_extents("x_shape", x_shape)
    problem = pool_problem(shape, window, stride, padding, rounding, outputs, count_padding)
    return call.run(problem, out=out)
