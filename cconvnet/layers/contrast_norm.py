"""Local contrast normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import (
    ContrastNormProblem,
)
from cconvnet.layers.base import Layer, Place, Tensor, only
from cconvnet.nets import (
    ContrastNormSpec,
)
from cconvnet.optim import Updates


class ContrastNormLayer(Layer):
    type = "contrast_norm"

    def __init__(self, spec: ContrastNormSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = only(inputs)
        self.problem = ContrastNormProblem(*x.image, spec.size, spec.alpha, spec.beta, spec.k)
        super().__init__(spec.name, place, [x], x.shape)

    def workspace_bytes(self) -> int:
        module = self.device.module
        forward = module.contrast_norm_forward_workspace(self.problem)
        return int(max(forward, module.contrast_norm_backward_workspace(self.problem)))

    def forward(self, train: bool) -> None:
        x, y = self.inputs[0].array, self.output.array
        self.device.module.contrast_norm_forward(self.problem, x, y, self.workspace, self.device.stream)

    def backward(self, updates: Updates | None = None) -> None:
        x, dy, dx = self.inputs[0].array, self.output.gradient, self.input_gradients[0]
        module = self.device.module
        module.contrast_norm_backward(self.problem, x, dy, dx, self.workspace, self.device.stream)
