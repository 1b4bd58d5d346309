"""Waiting of ranks for each other, from the lines of a run's log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Values of a line that are lists with a number of each rank.
OF_RANKS = ("wait_seconds", "sent_bytes", "sent_bytes_per_second")


@dataclass
class RankWaits:
    """The waits of the ranks of a run, over the lines of its log since their number last changed.

    Attributes:
        images: The number of images of the steps, of all ranks together.
        seconds: The time of the steps.
        waited: The seconds of it that each rank waited for others; empty if there is one rank.
        sent: The bytes of gradients and weights that each rank sent, likewise.
    """

    images: int = 0
    seconds: float = 0.0
    waited: list[float] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def add(self, line: Mapping[str, Any], images: int) -> None:
        """Add a line of steps, of so many images in all."""
        speed = line.get("images_per_second") or 0.0
        waited, sent = (line.get(name, []) if speed else [] for name in ("wait_seconds", "sent_bytes"))
        if len(waited) != len(self.waited):
            self.images, self.seconds = 0, 0.0
            self.waited, self.sent = [0.0] * len(waited), [0] * len(waited)
        if waited:
            self.images += images
            self.seconds += images / speed
            self.waited = [one + other for one, other in zip(self.waited, waited, strict=True)]
            self.sent = [one + other for one, other in zip(self.sent, sent, strict=True)]

    @property
    def slowest(self) -> int:
        """The rank that the others waited for."""
        return min(range(len(self.waited)), key=self.waited.__getitem__)

    @property
    def share(self) -> float:
        """The part of the time that a rank waited, in the mean over ranks."""
        return sum(self.waited) / len(self.waited) / self.seconds if self.seconds > 0 else 0.0


def by_rank(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of a line that each rank has, such as "wait_seconds.2"."""
    return {f"{name}.{rank}": value for name in OF_RANKS for rank, value in enumerate(line.get(name, ()))}
