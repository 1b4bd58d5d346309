"""Half the squared distance from targets, a cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cconvnet._problem import L2CostProblem
from cconvnet.layers.base import Array, Site, Tensor, only
from cconvnet.layers.cost import CostLayer
from cconvnet.nets import L2CostSpec
from cconvnet.optim import FusedUpdates


class L2CostLayer(CostLayer):
    """The distance of each image's values from its target. Its output is its input."""

    type = "l2_cost"

    def __init__(self, spec: L2CostSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        x = only(inputs)
        n = x.shape[0]
        self.problem = L2CostProblem(n, x.count // n)
        super().__init__(spec.name, site, [x], x.shape, array=x.array)
        self.coeff = spec.coeff
        self.target = site.allocate(site.device, x.shape)
        self.losses = site.allocate(site.device, (n,))
        self.ranks = site.allocate(site.device, (n,), np.int32)
        with site.device:
            self.ranks[...] = -1
        self.count, self.counted = n, slice(0, n)

    def load(self, wanted: Array) -> None:
        """Take the targets of a batch, from here on of as many images."""
        self.count = len(wanted)
        self.counted = slice(0, self.count)
        with self.device:
            self.target[self.count :] = 0
        self.device.fill(self.target[: self.count], wanted)

    def forward(self, train: bool) -> None:
        """Compute the losses."""
        module, stream = self.device.module, self.device.stream
        module.l2_cost_forward(self.problem, self.inputs[0].array, self.target, self.losses, stream)
        self.clear_missing(self.losses)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Compute the gradient."""
        dx = self.input_gradients[0]
        if dx is None:
            return
        module, stream = self.device.module, self.device.stream
        module.l2_cost_backward(self.problem, self.inputs[0].array, self.target, self.scale, dx, stream)
        self.clear_missing(dx)
