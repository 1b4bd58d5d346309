"""Biases and their gradients."""

from __future__ import annotations

from cconvnet._problem import BiasProblem
from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.operations.bias import BIAS_ADD, BIAS_GRAD, RELU_BIAS_BACKWARD
from cconvnet.ops.arguments import Array
from cconvnet.ops.call import Call


def _rows(call: Call, name: str) -> BiasProblem:
    """Return the problem of an array [..., K], all of whose axes but the last are rows."""
    size, shape = call.size(name), call.shape(name)
    if len(shape) < 2:
        raise ValueError(f"{name} must have at least 2 axes [..., K], not shape {shape}")
    return BiasProblem(size // shape[-1], shape[-1])


def bias_add(
    x: Array, bias: Array, *, relu: bool = False, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``y`` = x[..., K] + bias[K], then max(0, .) if `relu`; in place allowed (``out=x``)."""
    call = Call(BIAS_ADD, device, x=x, bias=bias)
    return call.run(_rows(call, "x"), out=out, relu=bool(relu))


def bias_grad(dy: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """Return ``db[K]``, the sum of dy[..., K] over all axes but the last."""
    call = Call(BIAS_GRAD, device, dy=dy)
    return call.run(_rows(call, "dy"), out=out)


def relu_bias_backward(
    y: Array, dy: Array, *, scale: float = 1.0, out: Array | None = None, device: str | Device | None = None
) -> tuple[Array, Array]:
    """Return the gradients of a ReLU and of the bias before it in one pass; in place allowed (``out=dy``).

    They are ``dx`` = scale * dy where y[..., K] is positive, else 0, and ``db[K]``, its sum over all axes but
    the last. `scale` is that of a dropout behind the ReLU: its output y is positive where the ReLU's output
    was positive and kept.
    """
    call = Call(RELU_BIAS_BACKWARD, device, y=y, dy=dy)
    dx, db = call.run(_rows(call, "y"), out=out, scale=real("scale", scale))
    return dx, db
