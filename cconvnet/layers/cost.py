"""The base class of layers that compute a loss."""

from __future__ import annotations

from typing import Any

from cconvnet.layers.base import Array, Layer, length


class CostLayer(Layer):
    """A layer that computes a loss.

    Attributes:
        coeff: multiplies the gradient.
        losses: float32[rows], one per image, or per pixel; 0 in rows without one.
        ranks: int32[rows], the number of classes that are more probable than the label; -1 of other costs.
        count: how many images there are.
        counted: the rows that count: a range, or their numbers. The loss is their mean.
        is_fixed: whether all rows with images count, whatever the labels.
    """

    coeff: float
    losses: Any
    ranks: Any
    count: int
    counted: slice | Array
    is_fixed: bool = True

    @property
    def cost(self) -> CostLayer:
        """The layer itself."""
        return self

    @property
    def scale(self) -> float:
        """The factor of the gradient of each row that counts."""
        counted = self.counted
        count = length(counted) if isinstance(counted, slice) else len(counted)
        return self.coeff / max(1, count)

    def load(self, wanted: Array) -> None:
        """Take what the outputs of a batch should be, from here on of as many images.

        Args:
            wanted: labels int32[n] or int32[n,H,W], or targets float32[n, ...].
        """
        raise NotImplementedError

    def clear_missing(self, rows: Any) -> None:
        """Set the rows without an image to 0."""
        n = self.inputs[0].shape[0]
        if self.count < n:
            rows.reshape(n, -1)[self.count :] = 0
