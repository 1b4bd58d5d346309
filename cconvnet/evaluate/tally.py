"""Loss and errors of a network over batches of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from cconvnet.console import percent
from cconvnet.network import Network, StepResult
from cconvnet.ranks.world import World


@dataclasses.dataclass
class Tally:
    """Sums over images that give mean loss and errors; stopping and resuming a run keeps them exactly.

    Attributes:
        loss: Sum of the images' losses.
        wrong_top1: Images whose right class is not the most probable one.
        wrong_top5: Images whose right class is not among the five most probable.
        count: Number of images.
        heads: Sum of the images' losses of each cost that runs in training only.
    """

    loss: float = 0.0
    wrong_top1: int = 0
    wrong_top5: int = 0
    count: int = 0
    heads: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, result: StepResult) -> Tally:
        """Return the sums over the images of a batch."""
        return cls(
            result.loss * result.count,
            int(np.count_nonzero(result.rank >= 1)),
            int(np.count_nonzero(result.rank >= 5)),
            result.count,
            {name: loss * result.count for name, loss in result.head_losses.items()},
        )

    def add(self, other: Tally) -> None:
        """Add the sums over other images."""
        self.loss += other.loss
        self.wrong_top1 += other.wrong_top1
        self.wrong_top5 += other.wrong_top5
        self.count += other.count
        for name, loss in other.heads.items():
            self.heads[name] = self.heads.get(name, 0.0) + loss

    def clear(self) -> None:
        """Begin again with no image."""
        self.loss, self.wrong_top1, self.wrong_top5, self.count = 0.0, 0, 0, 0
        self.heads.clear()

    @property
    def mean_loss(self) -> float:
        """Mean loss of an image, 0 if there is none."""
        return self.loss / max(1, self.count)

    @property
    def mean_head_losses(self) -> dict[str, float]:
        """Mean loss of an image of each cost that runs in training only."""
        return {name: loss / max(1, self.count) for name, loss in self.heads.items()}

    @property
    def error_top1(self) -> float:
        """Share of images, from 0 to 1, whose right class is not the most probable one."""
        return self.wrong_top1 / max(1, self.count)

    @property
    def error_top5(self) -> float:
        """Share of images, from 0 to 1, whose right class is not among the five most probable."""
        return self.wrong_top5 / max(1, self.count)

    def text(self, classes: int) -> str:
        """Return errors and loss as text, without the top-5 error if there are at most 5 classes."""
        top5 = f"top-5 error {percent(self.error_top5)}, " if classes > 5 else ""
        return f"top-1 error {percent(self.error_top1)}, {top5}loss {self.mean_loss:.4f}"


def evaluate(
    network: Network,
    batches: Iterable[Any],
    stopped: Callable[[], bool] = lambda: False,
    world: World | None = None,
) -> Tally | None:
    """Compute the loss and the errors of a network over batches of images.

    Args:
        network: The network.
        batches: Batches of stored images, in the order of their numbers.
        stopped: Called before each batch; True ends the evaluation.
        world: The ranks, each with other batches; the sums are added in the order of the images. None: there
            is one.

    Returns:
        The sums over all images, or None if `stopped` ended it on any rank.
    """
    found: list[tuple[int, dict[str, Any]]] = []
    ended = False
    for batch in batches:
        if ended := stopped():
            break
        network.load(*batch.inputs)
        network.forward(train=False)
        found.append((int(batch.indices[0]), vars(Tally.of(network.result()))))
    each: list[tuple[bool, list[tuple[int, dict[str, Any]]]]] = [(ended, found)]
    if world is not None:
        each = world.share(each[0])
    if any(ended for ended, _ in each):
        return None
    total = Tally()
    for _, sums in sorted((one for _, own in each for one in own), key=lambda one: one[0]):
        total.add(Tally(**sums))
    return total
