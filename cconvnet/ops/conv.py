"""Convolution, and its gradients by images and filters."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import ConvProblem
from cconvnet.devices import Device
from cconvnet.operations.conv import CONV_DGRAD, CONV_FPROP, CONV_WGRAD
from cconvnet.ops.arguments import Array, Padding, Pair, four_extents, pair_of
from cconvnet.ops.call import Call
from cconvnet.ops.windows import window_problem


def conv_fprop(
    x: Array, w: Array, bias: Array | None = None, *, stride: Pair = 1, padding: Padding = 0,
    dilation: Pair = 1, groups: int = 1, rounding: str = "floor", outputs: Pair | None = None,
    relu: bool = False, precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``y[N,P,Q,K]`` = x[N,H,W,C] * w[K,R,S,C/groups] + bias[K], then max(0, .) if `relu`.

    Args:
        x: The images.
        w: The filters.
        bias: A float32 for every filter, or None.
        stride: The distance of two windows in pixels: one number or (vertical, horizontal).
        padding: The pixels of zeros around the image, one number or (vertical, horizontal). Either may be a
            pair: ``((top, bottom), (left, right))``.
        dilation: The distance of two taps of a filter, as `stride`.
        groups: The equal parts of the channels that are convolved apart.
        rounding: P is ``(H + top + bottom - (R - 1) dilation - 1) / stride + 1``, its quotient rounded down
            ("floor") or up ("ceil"). Rounded up, the last window reads zeros beyond the padding.
        outputs: (P, Q) in place of `rounding` and of the padding at the bottom and right. Windows read zeros
            there.
        relu: True for max(0, .) of the result.
        precision: "fp32", "fp32x3" or "tf32" for arrays of float32.
        out: The array to write to.
        impl: The row of the selection table.
        device: The device of host arrays.
    """
    call = Call(CONV_FPROP, device, x=x, w=w, bias=bias)
    x_shape, precision = call.shape("x"), call.precision_of(precision)
    problem = window_problem(
        ConvProblem, x_shape, call.shape("w")[:3], precision,
        stride, padding, groups, rounding, outputs, dilation,
    )  # fmt: skip
    return call.run(problem, out=out, impl=impl, relu=bool(relu))


def conv_dgrad(
    dy: Array, w: Array, x_shape: Sequence[int], *, stride: Pair = 1, padding: Padding = 0,
    dilation: Pair = 1, groups: int = 1, rounding: str = "floor", outputs: Pair | None = None,
    precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dx[N,H,W,C]``, the gradient by x of the sum of dy[N,P,Q,K] times ``conv_fprop(x, w)``.

    `x_shape` is [N,H,W,C]. This is also the transposed convolution of dy, with `x_shape` the shape of its
    result.
    """
    call = Call(CONV_DGRAD, device, dy=dy, w=w)
    call.shape("dy")
    precision, krs = call.precision_of(precision), call.shape("w")[:3]
    problem = window_problem(
        ConvProblem, four_extents("x_shape", x_shape), krs, precision,
        stride, padding, groups, rounding, outputs, dilation,
    )  # fmt: skip
    return call.run(problem, out=out, impl=impl)


def conv_wgrad(
    x: Array, dy: Array, filter_size: Pair, *, stride: Pair = 1, padding: Padding = 0,
    dilation: Pair = 1, groups: int = 1, rounding: str = "floor", outputs: Pair | None = None,
    precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dw[K,R,S,C/groups]``, the gradient by w of the sum of dy[N,P,Q,K] times ``conv_fprop(x, w)``.

    `filter_size` is (R, S), or one number for both.
    """
    call = Call(CONV_WGRAD, device, x=x, dy=dy)
    x_shape, precision = call.shape("x"), call.precision_of(precision)
    krs = call.shape("dy")[3], *pair_of("filter_size", filter_size)
    problem = window_problem(
        ConvProblem, x_shape, krs, precision, stride, padding, groups, rounding, outputs, dilation
    )
    return call.run(problem, out=out, impl=impl)
