"""Softmax and cross-entropy, the cost of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cconvnet._problem import SoftmaxProblem
from cconvnet.layers.base import Array, CostLayer, Site, Tensor, only
from cconvnet.nets import SoftmaxCostSpec
from cconvnet.optim import FusedUpdates


class SoftmaxCostLayer(CostLayer):
    """The probabilities of the classes, and the loss and rank of each image's label.

    In training the forward pass also computes the gradient of the logits. Its memory is free by then, since
    no gradient is computed before the cost's.
    """

    type = "softmax_cost"

    def __init__(self, spec: SoftmaxCostSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        x = only(inputs)
        n, k = x.shape[0], x.count // x.shape[0]
        self.problem = SoftmaxProblem(n, k)
        super().__init__(spec.name, site, [x], (n, k), element=np.float32)
        self.coeff = spec.coeff
        self.labels = site.allocate(site.device, (n,), np.int32)
        self.losses = site.allocate(site.device, (n,))
        self.ranks = site.allocate(site.device, (n,), np.int32)
        self.count = n
        self._gradient_is_computed = False

    def load(self, labels: Array) -> None:
        """Take the labels of a batch, from here on of as many images."""
        self.count = len(labels)
        with self.device:
            self.labels[self.count :] = 0
        self.device.fill(self.labels[: self.count], labels)

    def forward(self, train: bool) -> None:
        """Compute probabilities, losses and ranks, and in training the gradient."""
        module, stream = self.device.module, self.device.stream
        x, dx = self.inputs[0].array, self.input_gradients[0]
        self._gradient_is_computed = train and dx is not None
        if not self._gradient_is_computed:
            module.softmax_cross_entropy_forward(
                self.problem, x, self.labels, self.output.array, self.losses, self.ranks, stream
            )
            self._clear_missing(self.losses)
            return
        module.softmax_cross_entropy(
            self.problem,
            x,
            self.labels,
            self.coeff / self.count,
            self.output.array,
            self.losses,
            self.ranks,
            dx,
            stream,
        )
        self._clear_missing(dx)
        self._clear_missing(self.losses)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Compute the gradient unless the forward pass has."""
        dx = self.input_gradients[0]
        if dx is None or self._gradient_is_computed:
            return
        self.device.module.softmax_cross_entropy_backward(
            self.problem, self.output.array, self.labels, self.coeff / self.count, dx, self.device.stream
        )
        self._clear_missing(dx)

    def _clear_missing(self, rows: Any) -> None:
        """Set the rows without an image to 0."""
        if self.count < len(rows):
            rows[self.count :] = 0
