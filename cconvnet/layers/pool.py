"""Max and average pooling."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet.layers.base import InputEpilogue, Layer, Site, Tensor, only
from cconvnet.nets import PoolSpec
from cconvnet.nets.shapes import pool_problem
from cconvnet.optim import FusedUpdates


class PoolLayer(Layer):
    """The maximum or the mean of each window.

    Attributes:
        rule: how the backward pass goes through maxima: "gradient"; or "deconvnet", where of equal maxima the
            first alone receives what comes back, as in an unpooling.
    """

    type = "pool"

    def __init__(self, spec: PoolSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        x = only(inputs)
        self.problem = pool_problem(spec, x.image)
        self.is_max = spec.pool == "max"
        self.rule = "gradient"
        super().__init__(spec.name, site, [x], self.problem.y_shape)

    def workspace_bytes(self) -> int:
        """The bytes of workspace of the backward pass."""
        module, sums = self.device.module, self.input_epilogues[0] is not None
        size = module.maxpool_backward_workspace if self.is_max else module.avgpool_backward_workspace
        return int(size(self.problem, sums=sums))

    def can_finish(self, index: int, epilogue: InputEpilogue) -> bool:
        """True if the layer before has a bias for each channel."""
        return epilogue.sums(self.problem.c)

    def forward(self, train: bool) -> None:
        """Pool each window."""
        module = self.device.module
        pool = module.maxpool_forward if self.is_max else module.avgpool_forward
        pool(self.problem, self.inputs[0].array, self.output.array, self.device.stream)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Give each window's gradient to its maxima, or to all its elements alike."""
        module, stream = self.device.module, self.device.stream
        dy, dx, options = self.output.gradient, self.input_gradients[0], self.epilogue_options(0)
        if self.is_max and self.rule == "deconvnet":
            module.maxunpool_forward(self.problem, dy, self.inputs[0].array, dx, stream)
        elif self.is_max:
            x, y = self.inputs[0].array, self.output.array
            module.maxpool_backward(self.problem, x, y, dy, dx, self.workspace, stream, **options)
        else:
            module.avgpool_backward(self.problem, dy, dx, self.workspace, stream, **options)
