"""Locally connected layers: convolutions with filters of their own at every position."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import LocalProblem
from cconvnet.devices import Device
from cconvnet.operations.local import LOCAL_DGRAD, LOCAL_FPROP, LOCAL_WGRAD
from cconvnet.ops.arguments import Array, Padding, Pair, four_extents, pair_of
from cconvnet.ops.call import Call
from cconvnet.ops.windows import window_problem


def local_fprop(
    x: Array, w: Array, bias: Array | None = None, *, stride: Pair = 1, padding: Padding = 0,
    groups: int = 1, rounding: str = "floor", outputs: Pair | None = None, relu: bool = False,
    precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``y[N,P,Q,K]``, a convolution whose filters differ from position to position.

    The images are x[N,H,W,C], the filters w[P,Q,K,R,S,C/groups], the biases bias[P,Q,K]; max(0, .) follows if
    `relu`. All other arguments are those of conv_fprop, but there is no dilation. The gradient of the bias is
    ``bias_grad(dy.reshape(N, -1))``.
    """
    call = Call(LOCAL_FPROP, device, x=x, w=w, bias=bias)
    x_shape, precision = call.shape("x"), call.precision_of(precision)
    problem = window_problem(
        LocalProblem, x_shape, call.shape("w")[2:5], precision, stride, padding, groups, rounding, outputs
    )
    return call.run(problem, out=out, impl=impl, relu=bool(relu))


def local_dgrad(
    dy: Array, w: Array, x_shape: Sequence[int], *, stride: Pair = 1, padding: Padding = 0,
    groups: int = 1, rounding: str = "floor", outputs: Pair | None = None, precision: str | None = None,
    out: Array | None = None, impl: str | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dx[N,H,W,C]``, the gradient by x of the sum of dy[N,P,Q,K] times ``local_fprop(x, w)``.

    `x_shape` is [N,H,W,C].
    """
    call = Call(LOCAL_DGRAD, device, dy=dy, w=w)
    call.shape("dy")
    precision, krs = call.precision_of(precision), call.shape("w")[2:5]
    problem = window_problem(
        LocalProblem, four_extents("x_shape", x_shape), krs, precision,
        stride, padding, groups, rounding, outputs,
    )  # fmt: skip
    return call.run(problem, out=out, impl=impl)


def local_wgrad(
    x: Array, dy: Array, filter_size: Pair, *, stride: Pair = 1, padding: Padding = 0,
    groups: int = 1, rounding: str = "floor", outputs: Pair | None = None, precision: str | None = None,
    out: Array | None = None, impl: str | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dw[P,Q,K,R,S,C/groups]``, the gradient by w of the sum of dy[N,P,Q,K] times ``local_fprop``.

    `filter_size` is (R, S), or one number for both.
    """
    call = Call(LOCAL_WGRAD, device, x=x, dy=dy)
    x_shape, precision = call.shape("x"), call.precision_of(precision)
    krs = call.shape("dy")[3], *pair_of("filter_size", filter_size)
    problem = window_problem(
        LocalProblem, x_shape, krs, precision, stride, padding, groups, rounding, outputs
    )
    return call.run(problem, out=out, impl=impl)
