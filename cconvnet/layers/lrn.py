"""Local response normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import (
    LrnProblem,
)
from cconvnet.layers.base import Layer, Place, Tensor, length, only
from cconvnet.nets import (
    LrnSpec,
)
from cconvnet.optim import Updates


def lrn_problem(spec: LrnSpec, x: Tensor, place: Place) -> LrnProblem:
    groups = length(place.share("groups", spec.groups)) if spec.region == "across_channels" else 1
    return LrnProblem(*x.image, spec.size, spec.alpha, spec.beta, spec.k, groups, spec.region)


class LrnLayer(Layer):
    type = "lrn"

    def __init__(self, spec: LrnSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = only(inputs)
        self.problem = lrn_problem(spec, x, place)
        super().__init__(spec.name, place, [x], x.shape)

    def workspace_bytes(self) -> int:
        return int(self.device.module.lrn_backward_workspace(self.problem))

    def forward(self, train: bool) -> None:
        self.device.module.lrn_forward(
            self.problem, self.inputs[0].array, self.output.array, self.device.stream
        )

    def backward(self, updates: Updates | None = None) -> None:
        x, dy, dx = self.inputs[0].array, self.output.gradient, self.input_gradients[0]
        self.device.module.lrn_backward(self.problem, x, dy, dx, self.workspace, self.device.stream)
