"""Softmax and cross-entropy, the cost of most networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cconvnet._problem import SoftmaxProblem
from cconvnet.layers.base import Array, Site, Tensor, only
from cconvnet.layers.cost import CostLayer
from cconvnet.nets import SoftmaxCostSpec
from cconvnet.optim import FusedUpdates


class SoftmaxCostLayer(CostLayer):
    """The probabilities of the classes, and the loss and rank of each image's label.

    In training the forward pass also computes the gradient of the logits. Its memory is free by then, since
    no gradient is computed before the cost's. Targets are smoothed in training only.
    """

    type = "softmax_cost"

    def __init__(self, spec: SoftmaxCostSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        x = only(inputs)
        n, k = x.shape[0], x.count // x.shape[0]
        shape = x.image if spec.per_pixel else (n, k)
        rows = x.count // shape[-1]
        self.problem = SoftmaxProblem(rows, shape[-1], spec.ignore)
        self._smoothed = SoftmaxProblem(rows, shape[-1], spec.ignore, spec.smoothing)
        super().__init__(spec.name, site, [x], shape, element=np.float32)
        self.coeff = spec.coeff
        self.is_fixed = spec.ignore is None
        self.labels = site.allocate(site.device, (rows,), np.int32)
        self.losses = site.allocate(site.device, (rows,))
        self.ranks = site.allocate(site.device, (rows,), np.int32)
        self.count, self.counted = n, slice(0, rows)
        self._gradient_is_computed = False

    def load(self, wanted: Array) -> None:
        """Take the labels of a batch, from here on of as many images."""
        self.count, labels = len(wanted), wanted.reshape(-1)
        self.counted = (
            slice(0, len(labels)) if self.is_fixed else np.flatnonzero(labels != self.problem.ignore)
        )
        with self.device:
            self.labels[len(labels) :] = 0
        self.device.fill(self.labels[: len(labels)], labels)

    def forward(self, train: bool) -> None:
        """Compute probabilities, losses and ranks, and in training the gradient."""
        module, stream = self.device.module, self.device.stream
        x, dx = self.inputs[0].array, self.input_gradients[0]
        self._gradient_is_computed = train and dx is not None
        if not self._gradient_is_computed:
            module.softmax_cross_entropy_forward(
                self._smoothed if train else self.problem,
                x,
                self.labels,
                self.output.array,
                self.losses,
                self.ranks,
                stream,
            )
            self.clear_missing(self.losses)
            return
        module.softmax_cross_entropy(
            self._smoothed,
            x,
            self.labels,
            self.scale,
            self.output.array,
            self.losses,
            self.ranks,
            dx,
            stream,
        )
        self.clear_missing(dx)
        self.clear_missing(self.losses)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Compute the gradient unless the forward pass has."""
        dx = self.input_gradients[0]
        if dx is None or self._gradient_is_computed:
            return
        self.device.module.softmax_cross_entropy_backward(
            self._smoothed, self.output.array, self.labels, self.scale, dx, self.device.stream
        )
        self.clear_missing(dx)
