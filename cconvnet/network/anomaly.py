"""Where in a training step a value stopped being finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Anomaly:
    """The first tensor of a step with values that are not finite.

    Attributes
        layer: that was computed.
        direction: the pass, "forward", "backward" or "update".
        tensor: what of the layer, such as "its output" or "the gradient of conv1.weight".
        bad, count: how many of how many values are not finite.
        index, value: of the first of them.
    """

    layer: str
    direction: str
    tensor: str
    bad: int
    count: int
    index: tuple[int, ...]
    value: float

    def __str__(self) -> str:
        return (
            f"{self.layer}, {self.direction} pass, {self.tensor}: {self.bad:,} of {self.count:,} values, "
            f"the first {self.value} at {list(self.index)}"
        )


def found_in(layer: str, direction: str, tensor: str, values: np.ndarray[Any, Any]) -> Anomaly | None:
    """The anomaly of a tensor; None if all its values are finite."""
    finite = np.isfinite(values)
    if finite.all():
        return None
    index = tuple(int(place) for place in np.unravel_index(int(np.argmin(finite)), values.shape))
    bad = values.size - int(np.count_nonzero(finite))
    return Anomaly(layer, direction, tensor, bad, values.size, index, float(values[index]))
