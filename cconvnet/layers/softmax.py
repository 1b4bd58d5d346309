"""Softmax and cross-entropy, the cost of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cconvnet._problem import (
    SoftmaxProblem,
)
from cconvnet.layers.base import Layer, Place, Tensor, only
from cconvnet.nets import (
    SoftmaxCostSpec,
)
from cconvnet.optim import Updates


class SoftmaxCostLayer(Layer):
    """Its output is the probabilities; `losses` and `ranks` have a value for each image.

    Training, the forward pass finds the logits' gradient along the way. Nothing else lies in that memory by
    then: gradients are of no use before the cost's.
    """

    type = "softmax_cost"

    def __init__(self, spec: SoftmaxCostSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = only(inputs)
        n, k = x.shape[0], x.count // x.shape[0]
        self.problem = SoftmaxProblem(n, k)
        super().__init__(spec.name, place, [x], (n, k), element=np.float32)
        self.coeff = spec.coeff
        self.labels = place.allocate(place.device, (n,), np.int32)
        self.losses = place.allocate(place.device, (n,))
        self.ranks = place.allocate(place.device, (n,), np.int32)
        self.count = n  # how many rows hold images; the loss is their mean
        self._trained = False

    def forward(self, train: bool) -> None:
        module, stream = self.device.module, self.device.stream
        x, dx = self.inputs[0].array, self.input_gradients[0]
        self._trained = train and dx is not None
        if not self._trained:
            module.softmax_cross_entropy_forward(
                self.problem, x, self.labels, self.output.array, self.losses, self.ranks, stream
            )
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

    def backward(self, updates: Updates | None = None) -> None:
        dx = self.input_gradients[0]
        if dx is None or self._trained:
            return
        self.device.module.softmax_cross_entropy_backward(
            self.problem, self.output.array, self.labels, self.coeff / self.count, dx, self.device.stream
        )
        self._clear_missing(dx)

    def _clear_missing(self, dx: Any) -> None:
        """Rows without an image have no gradient."""
        if self.count < len(dx):
            dx[self.count :] = 0
