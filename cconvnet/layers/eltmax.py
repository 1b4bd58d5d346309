"""Elementwise maxima."""

from __future__ import annotations

from cconvnet.layers.elementwise import ElementwiseLayer
from cconvnet.optim import FusedUpdates


class MaxLayer(ElementwiseLayer):
    """The maximum of the inputs, element by element."""

    type = "max"

    def forward(self, train: bool) -> None:
        """Take the maximum of the inputs in their order."""
        module, stream, y = self.device.module, self.device.stream, self.output.array
        first, *rest = (x.array for x in self.inputs)
        for array in rest:
            module.eltmax_forward(first, array, y, stream)
            first = y

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Give each element's gradient to every input that has the maximum."""
        y, dy = self.output.array, self.output.gradient
        for x, dx in zip(self.inputs, self.input_gradients, strict=True):
            if dx is not None:
                self.device.module.eltmax_backward(x.array, y, dy, dx, self.device.stream)
