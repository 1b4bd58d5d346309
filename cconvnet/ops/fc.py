"""Fully connected layers, and their gradients by inputs and weights."""

from __future__ import annotations

from cconvnet._problem import FcProblem
from cconvnet.devices import Device
from cconvnet.operations.fc import FC_DGRAD, FC_FPROP, FC_WGRAD
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def fc_fprop(
    x: Array, w: Array, bias: Array | None = None, *, relu: bool = False, precision: str | None = None,
    out: Array | None = None, impl: str | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``y[N,K]`` = x[N,C] w[K,C]^T + bias[K], then max(0, .) if `relu`."""
    call = Call(FC_FPROP, device, x=x, w=w, bias=bias)
    (n, c), precision = call.shape("x"), call.precision_of(precision)
    problem = FcProblem(n, c, call.shape("w")[0], precision)
    return call.run(problem, out=out, impl=impl, relu=bool(relu))


def fc_dgrad(
    dy: Array, w: Array, *, precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dx[N,C]`` = dy[N,K] w[K,C]."""
    call = Call(FC_DGRAD, device, dy=dy, w=w)
    (n, _), precision = call.shape("dy"), call.precision_of(precision)
    k, c = call.shape("w")
    return call.run(FcProblem(n, c, k, precision), out=out, impl=impl)


def fc_wgrad(
    x: Array, dy: Array, *, precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dw[K,C]`` = dy[N,K]^T x[N,C]."""
    call = Call(FC_WGRAD, device, x=x, dy=dy)
    (n, c), precision = call.shape("x"), call.precision_of(precision)
    return call.run(FcProblem(n, c, call.shape("dy")[1], precision), out=out, impl=impl)
