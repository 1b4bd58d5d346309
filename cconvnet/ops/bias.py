"""Biases and their gradients."""

from __future__ import annotations

from cconvnet._problem import BiasProblem
from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call, adopt


def bias_problem(name: str, rows: Array) -> BiasProblem:
    if rows.ndim < 2:
        raise ValueError(f"{name} must have at least 2 axes [..., K], not shape {rows.shape}")
    return BiasProblem(rows.size // rows.shape[-1], rows.shape[-1])


def bias_add(
    x: Array, bias: Array, *, relu: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``y`` = x[..., K] + bias[K], then max(0, .) if `relu`; in place allowed (``out=x``)."""
    call = Call(device, x=x, bias=adopt("bias", bias))
    x = call.numbers("x", "any")
    problem = bias_problem("x", x)
    bias = call.shaped("bias", (problem.k,))
    y = call.output(out, x.shape, dtype=call.element, in_place=("x",))
    call.module.bias_add(problem, x, bias, bool(relu), y, call.stream)
    return y


def bias_grad(dy: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """``db[K]``, the sum of dy[..., K] over all axes but the last."""
    call = Call(device, dy=dy)
    dy = call.numbers("dy", "any")
    problem = bias_problem("dy", dy)
    db = call.output(out, (problem.k,))
    space = call.workspace(call.module.bias_grad_workspace(problem))
    call.module.bias_grad(problem, dy, db, space, call.stream)
    return db


def relu_bias_backward(
    y: Array, dy: Array, *, scale: float = 1.0, out: Array | None = None, device: str | Device | None = None
) -> tuple[Array, Array]:
    """``dx`` = scale * dy where y[..., K] is positive, else 0, and ``db[K]``, its sum over all axes but the
    last, in one pass; in place allowed (``out=dy``).

    `scale` is that of a dropout between: y, its output, is positive just where the ReLU's was and was kept.
    """
    call = Call(device, y=y, dy=dy)
    y = call.numbers("y", "any")
    problem = bias_problem("y", y)
    dy = call.shaped("dy", y.shape, call.element)
    dx = call.output(out, y.shape, dtype=call.element, in_place=("dy",))
    db = call.output(None, (problem.k,))
    space = call.workspace(call.module.bias_grad_workspace(problem))
    call.module.relu_bias_backward(problem, y, dy, real("scale", scale), dx, db, space, call.stream)
    return dx, db
