"""Local layers: convolutions whose output positions have filters of their own."""

from __future__ import annotations

from cconvnet._problem import LocalProblem
from cconvnet.layers.base import Site, Tensor
from cconvnet.layers.weighted import Branch, FilterLayer
from cconvnet.nets import LocalSpec


class LocalLayer(FilterLayer):
    """A local layer, with the bias of each position and the activation function after it."""

    type = "local"
    problem_type = LocalProblem
    fuses_own_biases = True

    def _branch(self, spec: LocalSpec, x: Tensor, name: str, site: Site) -> Branch:
        if spec.norm_limit > 0:
            raise ValueError("norm_limit is for layers that share their weights; a local layer has none")
        return super()._branch(spec, x, name, site)
