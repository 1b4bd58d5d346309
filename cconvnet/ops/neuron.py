"""Activation functions."""

from __future__ import annotations

from cconvnet._problem import NeuronProblem
from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.ops.call import Array, Call, text


def relu_forward(x: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """``max(0, x)`` of an array of any shape; in place allowed (``out=x``)."""
    call = Call(device, x=x)
    x = call.numbers("x", "any")
    y = call.output(out, x.shape, dtype=call.element, in_place=("x",))
    call.module.relu_forward(x, y, call.stream)
    return y


def relu_backward(
    y: Array, dy: Array, *, out: Array | None = None, device: str | Device | None = None
) -> Array:
    """``dx`` = dy where the output y is positive, else 0; in place allowed (``out=dy``)."""
    call = Call(device, y=y, dy=dy)
    y = call.numbers("y", "any")
    dy = call.shaped("dy", y.shape, call.element)
    dx = call.output(out, y.shape, dtype=call.element, in_place=("dy",))
    call.module.relu_backward(y, dy, dx, call.stream)
    return dx


def neuron_forward(
    x: Array, neuron: str, a: float = 1.0, b: float = 0.0, *, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """f(x) for cuda-convnet's neurons: linear a*x+b, relu, tanh a*tanh(b*x), logistic, softrelu log(1+e^x),
    abs, square, sqrt, brelu min(a, max(0, x)). Any shape; in place allowed (``out=x``)."""
    call = Call(device, x=x)
    x = call.numbers("x", "any")
    problem = NeuronProblem(x.size, text("neuron", neuron), real("a", a), real("b", b))
    y = call.output(out, x.shape, dtype=call.element, in_place=("x",))
    call.module.neuron_forward(problem, x, y, call.stream)
    return y


def neuron_backward(
    x: Array, y: Array, dy: Array, neuron: str, a: float = 1.0, b: float = 0.0, *,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """``dx`` = dy * f'(x), with y = f(x); in place allowed (``out=dy``)."""
    call = Call(device, x=x, y=y, dy=dy)
    x = call.numbers("x", "any")
    y, dy = call.shaped("y", x.shape, call.element), call.shaped("dy", x.shape, call.element)
    problem = NeuronProblem(x.size, text("neuron", neuron), real("a", a), real("b", b))
    dx = call.output(out, x.shape, dtype=call.element, in_place=("dy",))
    call.module.neuron_backward(problem, x, y, dy, dx, call.stream)
    return dx
