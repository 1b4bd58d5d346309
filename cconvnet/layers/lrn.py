"""Local response normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import LrnProblem
from cconvnet.layers.base import Layer, Site, Tensor, length, only
from cconvnet.nets import LrnSpec
from cconvnet.optim import FusedUpdates


def lrn_problem(spec: LrnSpec, x: Tensor, site: Site) -> LrnProblem:
    """The problem of the part at `site`, which has its share of the groups."""
    groups = length(site.share("groups", spec.groups)) if spec.region == "across_channels" else 1
    return LrnProblem(*x.image, spec.size, spec.alpha, spec.beta, spec.k, groups, spec.region)


class LrnLayer(Layer):
    """Each value divided by a power of the sum of squares around it, across channels or in its map."""

    type = "lrn"

    def __init__(self, spec: LrnSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        x = only(inputs)
        self.problem = lrn_problem(spec, x, site)
        super().__init__(spec.name, site, [x], x.shape)

    def workspace_bytes(self) -> int:
        """The bytes of workspace of the backward pass."""
        return int(self.device.module.lrn_backward_workspace(self.problem))

    def forward(self, train: bool) -> None:
        """Normalise the input."""
        x, y = self.inputs[0].array, self.output.array
        self.device.module.lrn_forward(self.problem, x, y, self.device.stream)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Compute the input's gradient."""
        x, dy, dx = self.inputs[0].array, self.output.gradient, self.input_gradients[0]
        self.device.module.lrn_backward(self.problem, x, dy, dx, self.workspace, self.device.stream)
