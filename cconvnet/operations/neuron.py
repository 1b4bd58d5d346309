"""Activation functions and their gradients."""

from __future__ import annotations

from cconvnet._problem import NeuronProblem
from cconvnet.operations.operation import ANY, Array, Operation

_X, _Y, _DY, _DX = (Array(name, ANY, "count") for name in ("x", "y", "dy", "dx"))

RELU_FORWARD = Operation("relu_forward", (), (_X,), (_Y,), out="y", in_place=("x",), elementwise=True)

RELU_BACKWARD = Operation(
    "relu_backward", (), (_Y, _DY), (_DX,), out="dx", in_place=("dy",), elementwise=True
)

NEURON_FORWARD = Operation(
    "neuron_forward", (NeuronProblem,), (_X,), (_Y,), out="y", in_place=("x",), elementwise=True
)

NEURON_BACKWARD = Operation(
    "neuron_backward", (NeuronProblem,), (_X, _Y, _DY), (_DX,), out="dx", in_place=("dy",), elementwise=True
)
