"""Elementwise sums, and the base class of all layers that join inputs of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from cconvnet._problem import NeuronProblem
from cconvnet.layers.base import Layer, Site, Tensor, several
from cconvnet.nets import MaxSpec, NeuronSpec, SumSpec
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
    """The sum of the inputs, each times its coefficient, with the ReLU after it, if there is one."""

    type = "sum"

    def __init__(
        self,
        spec: SumSpec,
        inputs: Sequence[Sequence[Tensor]],
        site: Site,
        relu: NeuronSpec | None = None,
    ) -> None:
        self.coeffs = spec.coeffs or (1.0,) * len(inputs)
        if len(self.coeffs) != len(inputs):
            raise ValueError(f"coeffs must be {len(inputs)} numbers, one per input, not {len(self.coeffs)}")
        super().__init__(spec, inputs, site)
        self.relu = relu is not None
        if relu is not None:
            self.take_along(relu)

    @staticmethod
    def fuses(chain: Sequence[Any]) -> bool:
        """True if the activation function is a ReLU."""
        return bool(chain[1].neuron.kind == "relu")

    @classmethod
    def fuse(cls, chain: Sequence[Any], inputs: Sequence[Sequence[Tensor]], site: Site) -> Self:
        """Make the sum with its ReLU."""
        first, relu = chain
        return cls(first, inputs, site, relu)

    def forward(self, train: bool) -> None:
        """Sum the inputs in their order; the last sum takes the ReLU along."""
        self._sum(self.output.array, self.relu)

    def _sum(self, y: Any, relu: bool) -> None:
        module, stream, last = self.device.module, self.device.stream, len(self.inputs) - 1
        total, scale = self.inputs[0].array, self.coeffs[0]
        for index, (x, coeff) in enumerate(zip(self.inputs[1:], self.coeffs[1:], strict=True), 1):
            module.add(total, x.array, y, stream, scale, coeff, relu=relu and index == last)
            total, scale = y, 1.0

    def compute_inside(self, y: Any, name: str) -> None:
        """Sum the inputs without the ReLU."""
        self._sum(y, False)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Multiply the gradient by each input's coefficient, where the ReLU passes it."""
        module, stream, dy = self.device.module, self.device.stream, self.output.gradient
        for dx, coeff in zip(self.input_gradients, self.coeffs, strict=True):
            if dx is None:
                continue
            gradient = dy
            if self.relu:
                module.relu_backward(self.output.array, dy, dx, stream)
                gradient = dx
            if coeff != 1 or not self.relu:
                times = NeuronProblem(self.output.count, "linear", coeff, 0.0)
                module.neuron_forward(times, gradient, dx, stream)
