"""Max unpooling."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet.layers.base import Layer, Site, Tensor, several
from cconvnet.nets import UnpoolSpec
from cconvnet.nets.shapes import pool_problem, unpooled
from cconvnet.optim import FusedUpdates


class UnpoolLayer(Layer):
    """Values at the places of a max pooling's maxima.

    Its inputs are the values and what the pooling reads. The places are found anew in each pass, so that
    nothing is stored; the second input has no gradient.
    """

    type = "unpool"
    several_inputs = True

    def __init__(self, spec: UnpoolSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        tensors = several(inputs)
        unpooled(spec, [x.image[1:] for x in tensors])
        self.problem = pool_problem(spec, tensors[1].image)
        super().__init__(spec.name, site, tensors, self.problem.x_shape)
        self.output.needs_gradient = tensors[0].needs_gradient

    def differentiates(self, index: int) -> bool:
        """True of the values alone."""
        return index == 0

    def forward(self, train: bool) -> None:
        """Put each value at the place of its window's maximum."""
        x, u = self.inputs
        self.device.module.maxunpool_forward(
            self.problem, x.array, u.array, self.output.array, self.device.stream
        )

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Take each value's gradient from there."""
        dx, u = self.input_gradients[0], self.inputs[1].array
        if dx is not None:
            dy = self.output.gradient
            self.device.module.maxunpool_backward(self.problem, u, dy, dx, self.device.stream)
