"""Activation functions as layers of their own."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import (
    NeuronProblem,
)
from cconvnet.layers.base import Layer, Place, Tensor, only
from cconvnet.nets import (
    NeuronSpec,
)
from cconvnet.optim import Updates


class NeuronLayer(Layer):
    type = "neuron"
    backward_in_place = True

    def __init__(self, spec: NeuronSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = only(inputs)
        super().__init__(spec.name, place, [x], x.shape)
        self.problem = NeuronProblem(x.count, spec.neuron.kind, spec.neuron.a, spec.neuron.b)

    def forward(self, train: bool) -> None:
        self.device.module.neuron_forward(
            self.problem, self.inputs[0].array, self.output.array, self.device.stream
        )

    def backward(self, updates: Updates | None = None) -> None:
        x, y, dy = self.inputs[0].array, self.output.array, self.output.gradient
        self.device.module.neuron_backward(
            self.problem, x, y, dy, self.input_gradients[0], self.device.stream
        )
