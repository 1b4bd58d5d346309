"""Elementwise sums, and the base class of all layers that join inputs of one shape."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import NeuronProblem
from cconvnet.layers.base import Layer, Site, Tensor, several
from cconvnet.nets import MaxSpec, SumSpec
from cconvnet.optim import FusedUpdates


class ElementwiseLayer(Layer):
    """A layer of two or more inputs of one shape, which is also that of its output."""

    several_inputs = True

    def __init__(self, spec: SumSpec | MaxSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        tensors = several(inputs)
        if len({x.shape for x in tensors}) != 1:
            raise ValueError(
                "inputs must have one shape, not " + ", ".join(f"{x.name} {x.shape}" for x in tensors)
            )
        super().__init__(spec.name, site, tensors, tensors[0].shape)


class SumLayer(ElementwiseLayer):
    """The sum of the inputs, each times its coefficient."""

    type = "sum"

    def __init__(self, spec: SumSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        self.coeffs = spec.coeffs or (1.0,) * len(inputs)
        if len(self.coeffs) != len(inputs):
            raise ValueError(f"coeffs must be {len(inputs)} numbers, one per input, not {len(self.coeffs)}")
        super().__init__(spec, inputs, site)

    def forward(self, train: bool) -> None:
        """Sum the inputs in their order."""
        module, stream, y = self.device.module, self.device.stream, self.output.array
        first, second, *rest = (x.array for x in self.inputs)
        module.add(first, second, y, stream, self.coeffs[0], self.coeffs[1])
        for array, coeff in zip(rest, self.coeffs[2:], strict=True):
            module.add(y, array, y, stream, 1.0, coeff)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Multiply the gradient by each input's coefficient."""
        module, stream = self.device.module, self.device.stream
        for dx, coeff in zip(self.input_gradients, self.coeffs, strict=True):
            if dx is not None:
                times = NeuronProblem(self.output.count, "linear", coeff, 0.0)
                module.neuron_forward(times, self.output.gradient, dx, stream)
