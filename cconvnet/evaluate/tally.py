"""Loss and errors of a network over batches of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from cconvnet.network import Network, StepResult


@dataclasses.dataclass
class Tally:
    """Sums over images, from which mean loss and errors follow; they survive a stop and a resume exactly."""

    loss: float = 0.0
    wrong_top1: int = 0
    wrong_top5: int = 0
    count: int = 0

    def add(self, result: StepResult) -> None:
        self.loss += result.loss * result.count
        self.wrong_top1 += int(np.count_nonzero(result.rank >= 1))
        self.wrong_top5 += int(np.count_nonzero(result.rank >= 5))
        self.count += result.count

    def clear(self) -> None:
        self.loss, self.wrong_top1, self.wrong_top5, self.count = 0.0, 0, 0, 0

    @property
    def mean_loss(self) -> float:
        return self.loss / max(1, self.count)

    @property
    def error_top1(self) -> float:
        """The share of images, from 0 to 1, whose right class is not the most probable one."""
        return self.wrong_top1 / max(1, self.count)

    @property
    def error_top5(self) -> float:
        """The share of images, from 0 to 1, whose right class is not among the five most probable."""
        return self.wrong_top5 / max(1, self.count)


def evaluate(
    network: Network, batches: Iterable[Any], stopped: Callable[[], bool] = lambda: False
) -> Tally | None:
    """Loss and errors of a network over batches of images; None when `stopped` said so in between."""
    tally = Tally()
    for batch in batches:
        if stopped():
            return None
        network.load(batch.images, batch.labels, batch.top, batch.left, batch.mirror)
        network.forward(train=False)
        tally.add(network.result())
    return tally
