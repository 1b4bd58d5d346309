"""The learning rate as a function of the epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class StepSchedule:
    """A rate that is multiplied by a factor at given epochs.

    Attributes
        lr: the first rate. steps: (epoch, factor) pairs. From the start of that epoch on the rate is
            multiplied by the factor; the factors of all epochs reached multiply.
    """

    lr: float
    steps: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr >= 0):
            raise ValueError(f"lr must be finite and not negative, not {self.lr}")
        steps = []
        for step in self.steps:
            if len(step) != 2 or not all(math.isfinite(value) and value >= 0 for value in step):
                raise ValueError(f"steps must be pairs (epoch, factor), neither negative, not {step!r}")
            steps.append((step[0], step[1]))
        object.__setattr__(self, "steps", tuple(steps))  # JSON gives lists

    def at(self, epoch: float) -> float:
        """The rate in the given epoch, counted from 0; parts of an epoch are allowed."""
        return self.lr * math.prod(factor for start, factor in self.steps if epoch >= start)
