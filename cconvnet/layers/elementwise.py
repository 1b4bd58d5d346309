"""Elementwise sums, and the base of all layers with several inputs of one shape."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import (
    NeuronProblem,
)
from cconvnet.layers.base import Layer, Place, Tensor, only
from cconvnet.nets import (
    MaxSpec,
    SumSpec,
)
from cconvnet.optim import Updates


class ElementwiseLayer(Layer):
    """Several inputs of one shape make one output of that shape."""

    def __init__(self, spec: SumSpec | MaxSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        if len(inputs) < 2:
            raise ValueError(f"inputs must be at least two, not {len(inputs)}")
        tensors = [only([tensors]) for tensors in inputs]
        if len({x.shape for x in tensors}) != 1:
            raise ValueError(
                "inputs must have one shape, not " + ", ".join(f"{x.name} {x.shape}" for x in tensors)
            )
        super().__init__(spec.name, place, tensors, tensors[0].shape)


class SumLayer(ElementwiseLayer):
    type = "sum"

    def __init__(self, spec: SumSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        self.coeffs = spec.coeffs or (1.0,) * len(inputs)
        if len(self.coeffs) != len(inputs):
            raise ValueError(f"coeffs must be {len(inputs)} numbers, one per input, not {len(self.coeffs)}")
        super().__init__(spec, inputs, place)

    def forward(self, train: bool) -> None:
        module, stream, y = self.device.module, self.device.stream, self.output.array
        first, second, *rest = (x.array for x in self.inputs)
        module.add(first, second, y, stream, self.coeffs[0], self.coeffs[1])
        for array, coeff in zip(rest, self.coeffs[2:], strict=True):
            module.add(y, array, y, stream, 1.0, coeff)

    def backward(self, updates: Updates | None = None) -> None:
        module, stream = self.device.module, self.device.stream
        for dx, coeff in zip(self.input_gradients, self.coeffs, strict=True):
            if dx is not None:
                times = NeuronProblem(self.output.count, "linear", coeff, 0.0)
                module.neuron_forward(times, self.output.gradient, dx, stream)
