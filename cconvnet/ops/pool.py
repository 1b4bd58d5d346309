"""Max and average pooling."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import PoolProblem
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call, Padding, Pair, four_extents, padding_pairs, pair_of, text


def pool_problem(
    shape: Sequence[int], window: Pair, stride: Pair, padding: Padding, rounding: str, outputs: Pair | None,
    count_padding: bool = False,
) -> PoolProblem:  # fmt: skip
    n, h, w, c = shape
    return PoolProblem(
        n,
        h,
        w,
        c,
        window=pair_of("window", window),
        stride=pair_of("stride", stride),
        padding=padding_pairs(padding, 1 - 2**31),
        rounding=text("rounding", rounding),
        outputs=None if outputs is None else pair_of("outputs", outputs),
        count_padding=bool(count_padding),
    )


def maxpool_forward(
    x: Array, *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0, rounding: str = "floor",
    outputs: Pair | None = None, out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y[N,P,Q,C]``, the largest value of each window of x[N,H,W,C], clipped to the image; NaN wins.

    For all pools, window p begins at pixel ``p * stride - padding``; a negative padding begins inside the
    image. `padding` may be ``((top, bottom), (left, right))``. `outputs` (P, Q) says how many windows there
    are, in place of `rounding`; each must hold a pixel.
    """
    call = Call(device, x=x)
    x = call.numbers("x", "N,H,W,C")
    problem = pool_problem(x.shape, window, stride, padding, rounding, outputs)
    y = call.output(out, problem.y_shape, dtype=call.element)
    call.module.maxpool_forward(problem, x, y, call.stream)
    return y


def maxpool_backward(
    x: Array, y: Array, dy: Array, *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0,
    rounding: str = "floor", outputs: Pair | None = None, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``: each window's dy goes to every element that equals its maximum, as in cuda-convnet."""
    call = Call(device, x=x, y=y, dy=dy)
    x = call.numbers("x", "N,H,W,C")
    problem = pool_problem(x.shape, window, stride, padding, rounding, outputs)
    y, dy = call.shaped("y", problem.y_shape, call.element), call.shaped("dy", problem.y_shape, call.element)
    dx = call.output(out, x.shape, dtype=call.element)
    call.module.maxpool_backward(problem, x, y, dy, dx, call.stream)
    return dx


def avgpool_forward(
    x: Array, *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0, rounding: str = "floor",
    outputs: Pair | None = None, count_padding: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y[N,P,Q,C]``, the mean of each window of x[N,H,W,C], over the part inside the image; with
    `count_padding` over that inside the padded image, whose padding counts as zeros.

    What lies beyond the padding, in the last windows of ``rounding="ceil"``, never counts. PyTorch's and
    ONNX's ``count_include_pad`` is the same.
    """
    call = Call(device, x=x)
    x = call.numbers("x", "N,H,W,C")
    problem = pool_problem(x.shape, window, stride, padding, rounding, outputs, count_padding)
    y = call.output(out, problem.y_shape, dtype=call.element)
    call.module.avgpool_forward(problem, x, y, call.stream)
    return y


def avgpool_backward(
    dy: Array, x_shape: Sequence[int], *, window: Pair = 3, stride: Pair = 2, padding: Padding = 0,
    rounding: str = "floor", outputs: Pair | None = None, count_padding: bool = False,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``: each window's dy, divided by what its mean is, goes to all its elements."""
    call = Call(device, dy=dy)
    dy = call.numbers("dy", "N,P,Q,C")
    shape = four_extents("x_shape", x_shape)
    problem = pool_problem(shape, window, stride, padding, rounding, outputs, count_padding)
    call.shaped("dy", problem.y_shape, call.element)
    dx = call.output(out, problem.x_shape, dtype=call.element)
    call.module.avgpool_backward(problem, dy, dx, call.stream)
    return dx
