"""Fully connected layers."""

from __future__ import annotations

from cconvnet._problem import FcProblem
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call
from cconvnet.ops.products import dgrad, fprop, wgrad


def fc_fprop(
    x: Array, w: Array, bias: Array | None = None, *, relu: bool = False, precision: str | None = None,
    out: Array | None = None, impl: str | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y[N,K]`` = x[N,C] w[K,C]^T + bias[K], then max(0, .) if `relu`."""
    call = Call(device, x=x, w=w, bias=bias)
    x, w = call.factor("x", "N,C", precision), call.get("w", "K,C", call.element)
    problem = FcProblem(x.shape[0], x.shape[1], w.shape[0], call.precision)
    return fprop("fc", call, problem, (problem.k,), relu, out, impl)


def fc_dgrad(
    dy: Array, w: Array, *, precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx[N,C]`` = dy[N,K] w[K,C]."""
    call = Call(device, dy=dy, w=w)
    dy, w = call.factor("dy", "N,K", precision), call.get("w", "K,C", call.element)
    problem = FcProblem(dy.shape[0], w.shape[1], w.shape[0], call.precision)
    return dgrad("fc", call, problem, out, impl)


def fc_wgrad(
    x: Array, dy: Array, *, precision: str | None = None, out: Array | None = None, impl: str | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dw[K,C]`` = dy[N,K]^T x[N,C]."""
    call = Call(device, x=x, dy=dy)
    x, dy = call.factor("x", "N,C", precision), call.get("dy", "N,K", call.element)
    problem = FcProblem(x.shape[0], x.shape[1], dy.shape[1], call.precision)
    return wgrad("fc", call, problem, out, impl)
