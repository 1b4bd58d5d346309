"""Locally connected layers: convolutions with filters of their own at every position."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import LocalProblem
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call, Padding, Pair, four_extents, pair_of
from cconvnet.ops.products import dgrad, fprop, wgrad, windowed


def local_fprop(
    x: Array, w: Array, bias: Array | None = None, *, stride: Pair = 1, padding: Padding = 0,
    groups: int = 1, rounding: str = "floor", outputs: Pair | None = None, relu: bool = False,
    precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y[N,P,Q,K]``: a convolution of x[N,H,W,C] with filters w[P,Q,K,R,S,C/groups] and a bias[P,Q,K] of its
    own for every output position, then max(0, .) if `relu`.

    The rest is as in conv_fprop, but there is no dilation. The bias's gradient is
    ``bias_grad(dy.reshape(N, -1))``.
    """
    call = Call(device, x=x, w=w, bias=bias)
    x, w = call.factor("x", "N,H,W,C", precision), call.get("w", "P,Q,K,R,S,C/groups", call.element)
    problem = windowed(call, LocalProblem, x.shape, w.shape[2:5], stride, padding, groups, rounding, outputs)
    return fprop("local", call, problem, problem.bias_shape, relu, out, impl)


def local_dgrad(
    dy: Array, w: Array, x_shape: Sequence[int], *, stride: Pair = 1, padding: Padding = 0,
    groups: int = 1, rounding: str = "floor", outputs: Pair | None = None, precision: str | None = None,
    out: Array | None = None, impl: str | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,H,W,C]``, the gradient by x of the sum of dy[N,P,Q,K] times ``local_fprop(x, w)``; `x_shape` is
    [N,H,W,C]."""
    call = Call(device, dy=dy, w=w)
    dy, w = call.factor("dy", "N,P,Q,K", precision), call.get("w", "P,Q,K,R,S,C/groups", call.element)
    shape = four_extents("x_shape", x_shape)
    problem = windowed(call, LocalProblem, shape, w.shape[2:5], stride, padding, groups, rounding, outputs)
    return dgrad("local", call, problem, out, impl)


def local_wgrad(
    x: Array, dy: Array, filter_size: Pair, *, stride: Pair = 1, padding: Padding = 0,
    groups: int = 1, rounding: str = "floor", outputs: Pair | None = None, precision: str | None = None,
    out: Array | None = None, impl: str | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dw[P,Q,K,R,S,C/groups]``, the gradient by w of the sum of dy[N,P,Q,K] times ``local_fprop(x, w)``.

    `filter_size` is (R, S), or one number for both.
    """
    call = Call(device, x=x, dy=dy)
    x, dy = call.factor("x", "N,H,W,C", precision), call.get("dy", "N,P,Q,K", call.element)
    r, s = pair_of("filter_size", filter_size)
    problem = windowed(
        call, LocalProblem, x.shape, (dy.shape[3], r, s), stride, padding, groups, rounding, outputs
    )
    return wgrad("local", call, problem, out, impl)
