"""Waiting of ranks for each other, from the lines of a run's log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Values of a line that are lists with a number of each rank.
OF_RANKS = ("wait_seconds", "sent_bytes")


@dataclass(frozen=True)
class RankWaits:
    """The waits of the ranks of a run, over the lines of its log since their number last changed.

    Attributes:
        seconds: The time of the steps.
        waited: The seconds of it that each rank waited for others.
        sent: The bytes of gradients and weights that each rank sent.
    """

    seconds: float
    waited: list[float]
    sent: list[int]

    @property
    def slowest(self) -> int:
        """The rank that the others waited for."""
        return min(range(len(self.waited)), key=self.waited.__getitem__)

    @property
    def share(self) -> float:
        """The part of the time that a rank waited, in the mean over ranks."""
        return sum(self.waited) / len(self.waited) / self.seconds if self.seconds > 0 else 0.0

    @property
    def bytes_per_second(self) -> float:
        """The bytes that a rank sent in a second, in the mean over ranks."""
        return sum(self.sent) / len(self.sent) / self.seconds if self.seconds > 0 else 0.0


def read_waits(lines: Iterable[Mapping[str, Any]], step_images: int) -> RankWaits | None:
    """Return the waits of the ranks of a run; None if it has one, or none is logged.

    Args:
        lines: The lines of the log.
        step_images: The images of a step.
    """
    found: RankWaits | None = None
    before = 0
    for line in lines:
        if "loss" not in line:
            continue
        steps, before = line["step"] - before, line["step"]
        if "wait_seconds" not in line or not line["images_per_second"]:
            found = None
            continue
        seconds, waited, sent = steps * step_images / line["images_per_second"], *(line[k] for k in OF_RANKS)
        if found is None or len(found.waited) != len(waited):
            found = RankWaits(seconds, waited, sent)
        else:
            found = RankWaits(
                found.seconds + seconds,
                [one + other for one, other in zip(found.waited, waited, strict=True)],
                [one + other for one, other in zip(found.sent, sent, strict=True)],
            )
    return found


def by_rank(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of a line that each rank has, such as "wait_seconds.2"."""
    return {f"{name}.{rank}": value for name in OF_RANKS for rank, value in enumerate(line.get(name, ()))}
