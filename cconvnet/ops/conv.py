"""Convolution."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import ConvProblem
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call, Padding, Pair, four_extents, pair_of
from cconvnet.ops.products import dgrad, fprop, wgrad, windowed


def conv_fprop(
    x: Array, w: Array, bias: Array | None = None, *, stride: Pair = 1, padding: Padding = 0,
    dilation: Pair = 1, groups: int = 1, rounding: str = "floor", outputs: Pair | None = None,
    relu: bool = False, precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y[N,P,Q,K]`` = x[N,H,W,C] * w[K,R,S,C/groups] + bias[K], then max(0, .) if `relu`.

    `stride`, `padding` and `dilation`, the distance between two taps, are in pixels, one number or (vertical,
    horizontal); the padding of an axis may be a pair, too: ``((top, bottom), (left, right))``. P is
    ``floor((H + top + bottom - (R - 1) dilation - 1) / stride) + 1``. With ``rounding="ceil"`` the quotient
    is rounded up and the last window reads zeros beyond the padding. `outputs` (P, Q) takes the place of
    `rounding` and of the padding at the bottom and right: what the windows read there is zero.
    """
    call = Call(device, x=x, w=w, bias=bias)
    x, w = call.factor("x", "N,H,W,C", precision), call.get("w", "K,R,S,C/groups", call.element)
    problem = windowed(
        call, ConvProblem, x.shape, w.shape[:3], stride, padding, groups, rounding, outputs, dilation
    )
    return fprop("conv", call, problem, (problem.k,), relu, out, impl)


def conv_dgrad(
    dy: Array, w: Array, x_shape: Sequence[int], *, stride: Pair = 1, padding: Padding = 0,
    dilation: Pair = 1, groups: int = 1, rounding: str = "floor", outputs: Pair | None = None,
    precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``, the gradient by x of the sum of dy[N,P,Q,K] times ``conv_fprop(x, w)``; `x_shape` is
    [N,H,W,C]. The transposed convolution of dy is the same, `x_shape` being that of its result."""
    call = Call(device, dy=dy, w=w)
    dy, w = call.factor("dy", "N,P,Q,K", precision), call.get("w", "K,R,S,C/groups", call.element)
    shape = four_extents("x_shape", x_shape)
    problem = windowed(
        call, ConvProblem, shape, w.shape[:3], stride, padding, groups, rounding, outputs, dilation
    )
    return dgrad("conv", call, problem, out, impl)


def conv_wgrad(
    x: Array, dy: Array, filter_size: Pair, *, stride: Pair = 1, padding: Padding = 0,
    dilation: Pair = 1, groups: int = 1, rounding: str = "floor", outputs: Pair | None = None,
    precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dw[K,R,S,C/groups]``, the gradient by w of the sum of dy[N,P,Q,K] times ``conv_fprop(x, w)``.

    `filter_size` is (R, S), or one number for both.
    """
    call = Call(device, x=x, dy=dy)
    x, dy = call.factor("x", "N,H,W,C", precision), call.get("dy", "N,P,Q,K", call.element)
    r, s = pair_of("filter_size", filter_size)
    problem = windowed(
        call, ConvProblem, x.shape, (dy.shape[3], r, s), stride, padding, groups, rounding, outputs, dilation
    )
    return wgrad("conv", call, problem, out, impl)
