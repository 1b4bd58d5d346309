"""Activation functions and their gradients."""

from __future__ import annotations

from cconvnet._problem import NeuronProblem
from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.operations.neuron import NEURON_BACKWARD, NEURON_FORWARD, RELU_BACKWARD, RELU_FORWARD
from cconvnet.ops.arguments import Array, text
from cconvnet.ops.call import Call


def relu_forward(x: Array, *, out: Array | None = None, device: str | Device | None = None) -> Array:
    """Return ``max(0, x)`` of an array of any shape; in place allowed (``out=x``)."""
    return Call(RELU_FORWARD, device, x=x).run(out=out)


def relu_backward(
    y: Array, dy: Array, *, out: Array | None = None, device: str | Device | None = None
) -> Array:
    """Return ``dx`` = dy where the output y is positive, else 0; in place allowed (``out=dy``)."""
    return Call(RELU_BACKWARD, device, y=y, dy=dy).run(out=out)


def _problem(call: Call, neuron: str, a: float, b: float) -> NeuronProblem:
    return NeuronProblem(call.size("x"), text("neuron", neuron), real("a", a), real("b", b))


def neuron_forward(
    x: Array, neuron: str, a: float = 1.0, b: float = 0.0, *, out: Array | None = None,
    device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return f(x) for an activation function; in place allowed (``out=x``).

    Those of cuda-convnet are linear a*x+b, relu, tanh a*tanh(b*x), logistic, softrelu log(1+e^x), abs,
    square, sqrt and brelu min(a, max(0, x)). Another is silu x/(1+e^-x). x may have any shape.
    """
    call = Call(NEURON_FORWARD, device, x=x)
    return call.run(_problem(call, neuron, a, b), out=out)


def neuron_backward(
    x: Array, y: Array, dy: Array, neuron: str, a: float = 1.0, b: float = 0.0, *,
    out: Array | None = None, device: str | Device | None = None,
) -> Array:  # fmt: skip
    """Return ``dx`` = dy * f'(x), with y = f(x); in place allowed (``out=dy``)."""
    call = Call(NEURON_BACKWARD, device, x=x, y=y, dy=dy)
    return call.run(_problem(call, neuron, a, b), out=out)
