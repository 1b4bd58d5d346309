"""Local response normalisation fused with the max pooling after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cconvnet._problem import (
    PoolProblem,
)
from cconvnet.layers.base import Layer, Place, Tensor, only
from cconvnet.layers.lrn import lrn_problem
from cconvnet.nets import (
    LrnSpec,
    PoolSpec,
)
from cconvnet.optim import Updates


class LrnPoolLayer(Layer):
    """Normalisation across channels and the max pooling after it; what lies between is never stored.

    Attributes
        relu: whether it also takes the gradient through the ReLU of the layer before it.
    """

    type = "lrn_pool"

    def __init__(
        self, lrn: LrnSpec, pool: PoolSpec, inputs: Sequence[Sequence[Tensor]], place: Place
    ) -> None:
        x = only(inputs)
        self.lrn = lrn_problem(lrn, x, place)
        self.pool = PoolProblem(*x.image, pool.window, pool.stride, pool.padding, pool.rounding, pool.outputs)
        super().__init__(pool.name, place, [x], self.pool.y_shape)
        self.names.insert(0, lrn.name)
        self.relu = False

    def shape_of(self, name: str) -> tuple[int, ...]:
        return self.output.shape if name == self.name else self.inputs[0].shape

    def workspace_bytes(self) -> int:
        return int(self.device.module.lrn_maxpool_backward_workspace(self.lrn, self.pool))

    def activation(self, name: str) -> Any:
        if name == self.name:
            return self.output.array
        x = self.inputs[0]
        y = self.device.empty(x.shape, x.array.dtype)
        self.device.module.lrn_forward(self.lrn, x.array, y, self.device.stream)
        return y

    def forward(self, train: bool) -> None:
        x, y = self.inputs[0].array, self.output.array
        self.device.module.lrn_maxpool_forward(self.lrn, self.pool, x, y, self.device.stream)

    def backward(self, updates: Updates | None = None) -> None:
        x, y = self.inputs[0].array, self.output.array
        self.device.module.lrn_maxpool_backward(
            self.lrn,
            self.pool,
            x,
            y,
            self.output.gradient,
            self.relu,
            self.input_gradients[0],
            self.workspace,
            self.device.stream,
        )
