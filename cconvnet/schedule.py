"""The learning rate as a function of the epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cconvnet.nets.specs import LrStep


@dataclass(frozen=True)
class StepSchedule:
    """A rate that is multiplied at given epochs; the factors of all epochs reached multiply.

    Attributes
        lr: the first rate. steps: when it changes, and whose.
    """

    lr: float
    steps: tuple[LrStep, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr >= 0):
            raise ValueError(f"lr must be finite and not negative, not {self.lr}")

    def at(self, epoch: float, layer: str | None = None, of: str = "weight") -> float:
        """The rate in an epoch, counted from 0 (parts are allowed): of a layer's weights or biases.

        Without a layer it is the rate of the layers that no step names.
        """
        factors = [
            step.factor
            for step in self.steps
            if epoch >= step.epoch and (not step.layers or layer in step.layers) and step.of in ("both", of)
        ]
        return self.lr * math.prod(factors)
