"""Activation functions as layers of their own."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import NeuronProblem
from cconvnet.layers.base import Layer, Site, Tensor, only
from cconvnet.nets import NeuronSpec
from cconvnet.optim import FusedUpdates


class NeuronLayer(Layer):
    """An activation function of each element.

    Attributes:
        rule: how the backward pass goes through it: "gradient"; or, through a ReLU, "guided", where what is
            negative of the gradient does not pass either, or "deconvnet", where this alone decides.
    """

    type = "neuron"
    backward_in_place = True

    def __init__(self, spec: NeuronSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        x = only(inputs)
        super().__init__(spec.name, site, [x], x.shape)
        self.rule = "gradient"
        self.problem = NeuronProblem(x.count, spec.neuron.kind, spec.neuron.a, spec.neuron.b)

    def forward(self, train: bool) -> None:
        """Compute y = f(x)."""
        x, y = self.inputs[0].array, self.output.array
        self.device.module.neuron_forward(self.problem, x, y, self.device.stream)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Compute dx = dy f'(x), or what the rule says."""
        x, y, dy, dx = self.inputs[0].array, self.output.array, self.output.gradient, self.input_gradients[0]
        module, stream = self.device.module, self.device.stream
        if self.rule != "deconvnet":
            module.neuron_backward(self.problem, x, y, dy, dx, stream)
            dy = dx
        if self.rule != "gradient":
            module.relu_forward(dy, dx, stream)
