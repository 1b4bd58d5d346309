"""Local contrast normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet._problem import ContrastNormProblem
from cconvnet.layers.base import Layer, Site, Tensor, only
from cconvnet.nets import ContrastNormSpec
from cconvnet.optim import FusedUpdates


class ContrastNormLayer(Layer):
    """Each value divided by a power of the squared contrast around it in its map."""

    type = "contrast_norm"

    def __init__(self, spec: ContrastNormSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        x = only(inputs)
        self.problem = ContrastNormProblem(*x.image, spec.size, spec.alpha, spec.beta, spec.k)
        super().__init__(spec.name, site, [x], x.shape)

    def workspace_bytes(self) -> int:
        """The bytes of workspace of the more demanding pass."""
        module = self.device.module
        forward = module.contrast_norm_forward_workspace(self.problem)
        return int(max(forward, module.contrast_norm_backward_workspace(self.problem)))

    def forward(self, train: bool) -> None:
        """Normalise the input."""
        x, y = self.inputs[0].array, self.output.array
        self.device.module.contrast_norm_forward(self.problem, x, y, self.workspace, self.device.stream)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Compute the input's gradient."""
        x, dy, dx = self.inputs[0].array, self.output.gradient, self.input_gradients[0]
        module = self.device.module
        module.contrast_norm_backward(self.problem, x, dy, dx, self.workspace, self.device.stream)
