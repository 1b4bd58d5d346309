"""Local response normalisation fused with the max pooling after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from cconvnet.layers.base import InputEpilogue, Layer, Site, Tensor, only
from cconvnet.layers.lrn import lrn_problem
from cconvnet.nets import LrnSpec, PoolSpec
from cconvnet.nets.shapes import pool_problem
from cconvnet.optim import FusedUpdates


class LrnMaxpoolLayer(Layer):
    """Normalisation across channels and the max pooling after it; the normalised values are never stored."""

    type = "lrn_pool"

    def __init__(self, lrn: LrnSpec, pool: PoolSpec, inputs: Sequence[Sequence[Tensor]], site: Site) -> None:
        x = only(inputs)
        self.lrn = lrn_problem(lrn, x, site)
        self.pool = pool_problem(pool, x.image)
        super().__init__(pool.name, site, [x], self.pool.y_shape)
        self.names.insert(0, lrn.name)

    @staticmethod
    def fuses(chain: Sequence[Any]) -> bool:
        """True if the normalisation is across channels and the pooling takes maxima."""
        lrn, pool = chain
        return bool(lrn.region == "across_channels" and pool.pool == "max")

    @classmethod
    def fuse(cls, chain: Sequence[Any], inputs: Sequence[Sequence[Tensor]], site: Site) -> Self:
        """Make the layer of both."""
        lrn, pool = chain
        return cls(lrn, pool, inputs, site)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The pooled shape, or that of the normalised values."""
        return self.output.shape if name == self.name else self.inputs[0].shape

    def workspace_bytes(self) -> int:
        """The bytes of workspace of the backward pass."""
        (epilogue,) = self.input_epilogues
        sums = epilogue is not None and epilogue.db is not None
        return int(self.device.module.lrn_maxpool_backward_workspace(self.lrn, self.pool, sums=sums))

    def compute_inside(self, y: Any, name: str) -> None:
        """Compute the normalised values."""
        self.device.module.lrn_forward(self.lrn, self.inputs[0].array, y, self.device.stream)

    def can_finish(self, index: int, epilogue: InputEpilogue) -> bool:
        """True unless a dropout is between the ReLU and the normalisation, or the bias has other axes."""
        return not epilogue.dropout and (epilogue.db is None or epilogue.sums(self.pool.c))

    def forward(self, train: bool) -> None:
        """Normalise and pool."""
        x, y = self.inputs[0].array, self.output.array
        self.device.module.lrn_maxpool_forward(self.lrn, self.pool, x, y, self.device.stream)

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Compute the input's gradient; the normalised values are computed again."""
        x, y = self.inputs[0].array, self.output.array
        (epilogue,) = self.input_epilogues
        self.device.module.lrn_maxpool_backward(
            self.lrn,
            self.pool,
            x,
            y,
            self.output.gradient,
            epilogue is not None and epilogue.y is not None,
            self.input_gradients[0],
            self.workspace,
            self.device.stream,
            db=None if epilogue is None else epilogue.db,
        )
