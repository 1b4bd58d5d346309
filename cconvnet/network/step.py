"""A training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet.devices import Device
from cconvnet.layers import (
    Layer,
)
from cconvnet.network.batch import Array
from cconvnet.optim import Parameter


@dataclass(frozen=True)
class StepResult:
    """What a forward pass found for the `count` images of the batch.

    Attributes
        losses: float32[count], -log(probability of the label).
        rank: int32[count], how many classes stand before the label; an image is wrong at top-t if rank >= t.
    """

    losses: Array
    rank: Array

    @property
    def count(self) -> int:
        return len(self.losses)

    @property
    def loss(self) -> float:
        """The mean loss."""
        return float(np.mean(self.losses, dtype=np.float64))

    @property
    def correct(self) -> Array:
        """bool[count]: whether the label came first."""
        return np.equal(self.rank, 0)


# Does the work of a layer or the update of a parameter, the `device` and what it is being told too.
Doing = Callable[..., None]


def do(what: Layer | Parameter, device: Device, doing: str, work: Callable[..., None], *given: Any) -> None:
    """Calls work(*given). In its place something may stand that measures it; see cconvnet.network.tracing."""
    work(*given)
