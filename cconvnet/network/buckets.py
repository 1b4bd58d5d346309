"""Buckets of gradients that are exchanged at once, and the sizes of a step's exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cconvnet.optim import Piece


@dataclass(frozen=True)
class Move:
    """A part of a piece of a parameter that this rank updates, as a range of the array of all of them."""

    piece: Piece
    first: int
    last: int


@dataclass
class Bucket:
    """A range of the array of all gradients that is exchanged at once.

    Attributes:
        range: the range.
        own: the part of it that this rank updates.
        level: the level whose gradients these are, as a number in the order of the backward pass.
        layers: how many layers' backward passes it waits for.
        received: of each part of the sum, in order, the numbers of `own`.
        moves: the updates.
        velocity: float32[own], of the updates.
        missing: how many layers have not run yet in this backward pass.
        transfer: what was begun last.
    """

    range: slice
    own: slice
    level: int
    layers: int
    received: Any
    moves: list[Move]
    velocity: Any
    missing: int = 0
    transfer: Any = None


@dataclass(frozen=True)
class Exchanged:
    """Sizes of a step's exchange, of all ranks together: of N ranks each sends (N-1)/N of it.

    Attributes:
        gradients: bytes that are sent to be added.
        weights: bytes that are gathered after the update.
        factors: bytes of the factors of gradients that are products over all images.
        products: multiply-adds of these products, for all images.
        columns: bytes of activations and their gradients, of layers that ranks compute together.
    """

    gradients: int
    weights: int
    factors: int
    products: int
    columns: int = 0

    @property
    def bytes(self) -> int:
        """All bytes."""
        return self.gradients + self.weights + self.factors + self.columns
