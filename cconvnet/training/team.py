"""The ranks that train one run together: what they agree on after each step.

All ranks do the same steps and take the same turns, so every decision that depends on one of them alone, such
as a signal or the time, is one that all have agreed on. For that a rank sends one small message to all in
each step, with the results of the step before. A process alone sends nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cconvnet.data import Split
from cconvnet.evaluate import Tally
from cconvnet.network import Network
from cconvnet.network.anomaly import Anomaly
from cconvnet.ranks.shares import Share
from cconvnet.ranks.world import World
from cconvnet.training.settings import Settings

# Numbers of a message before those of batches: signal, whether a checkpoint is due, seconds waited, bytes.
_HEAD = 4
# Numbers of a batch before the losses of heads: whether there is one, whether it is finite, and its sums.
_FIELDS = 6


@dataclasses.dataclass
class Waits:
    """The seconds that each rank waited for others, and the bytes that it sent, since the log's last line."""

    seconds: np.ndarray[Any, Any]
    bytes: np.ndarray[Any, Any]
    steps: int = 0


class Team:
    """The ranks of a training, as one of them sees them.

    Args:
        world: The ranks.
        settings: The run's settings.
        signal: Returns the signal that asked this rank to stop, or None.

    Attributes:
        world: The ranks.
        share: The shards of this rank; None if batches are whole.
        stopped: The signal that all ranks have agreed to stop at; None if there was none.
        save: True if all ranks have agreed on a checkpoint after this step.
        due: Returns True on the first rank if it is time for a checkpoint.
    """

    def __init__(self, world: World, settings: Settings, signal: Callable[[], int | None]) -> None:
        self.world, self._signal = world, signal
        self.share = share_of(world, settings)
        self._passes = settings.accumulate * -(-settings.shards // world.size)
        self.rows = slice(0, settings.step_images)
        if self.share is not None:
            self.rows = self.share.rows(settings.step_images)
        self._stopped: int | None = None
        self.save = False
        self.due: Callable[[], bool] = lambda: False
        self._waits = Waits(np.zeros(world.size), np.zeros(world.size))
        self._before = np.zeros(2)

    @property
    def first(self) -> bool:
        """True on the rank that writes and prints."""
        return self.world.first

    @property
    def stopped(self) -> int | None:
        """The signal that asks the training to stop, once all ranks know it; None without."""
        return self._signal() if self.world.size == 1 else self._stopped

    def meet(self, network: Network, found: Sequence[tuple[Tally, bool]]) -> list[tuple[Tally, bool]]:
        """Exchange the results of a step, in the order of its images, and agree on what follows it.

        Args:
            network: The network.
            found: Of each batch of this rank its sums, and whether its losses are finite.

        Returns:
            Those of all ranks.
        """
        if self.world.size == 1:
            self.save = self.due()
            return list(found)
        heads = sorted(found[0][0].heads)
        numbers = np.zeros((self._passes, _FIELDS + len(heads)))
        for row, (tally, finite) in zip(numbers, found, strict=False):
            row[:_FIELDS] = 1, finite, tally.loss, tally.wrong_top1, tally.wrong_top5, tally.count
            row[_FIELDS:] = [tally.heads[name] for name in heads]
        now = np.array([network.waited_seconds, network.sent_bytes])
        waited, self._before = now - self._before, now
        head = [self._signal() or 0, self.first and self.due(), *waited]
        told = self.world.share_numbers(np.concatenate([head, numbers.ravel()]))
        self._stopped = int(told[:, 0].max()) or None
        self.save = bool(told[0, 1])
        self._waits.seconds += told[:, 2]
        self._waits.bytes += told[:, 3]
        self._waits.steps += 1
        rows = told[:, _HEAD:].reshape(-1, numbers.shape[1])
        return [
            (
                Tally(loss, int(wrong1), int(wrong5), int(count), dict(zip(heads, losses, strict=True))),
                bool(finite),
            )
            for there, finite, loss, wrong1, wrong5, count, *losses in rows.tolist()
            if there
        ]

    def agree(self, answer: bool) -> bool:
        """Return the first rank's answer on all ranks."""
        return answer if self.world.size == 1 else bool(self.world.broadcast(answer))

    def agree_on_signal(self) -> int | None:
        """Return the signal that any rank was sent, once all know it."""
        if self.world.size > 1:
            self._stopped = int(self.world.highest(self._signal() or 0)) or self._stopped
        return self.stopped

    def first_anomaly(self, bad: Anomaly | None) -> Anomaly | None:
        """Return the anomaly of the first rank that has one, on all ranks; None if none has."""
        if self.world.size == 1:
            return bad
        told = self.world.share(None if bad is None else dataclasses.asdict(bad))
        found = (Anomaly(**{**one, "index": tuple(one["index"])}) for one in told if one is not None)
        return next(found, None)

    def take_waits(self) -> dict[str, Any]:
        """Return what the ranks waited and sent since the last call, for the log; empty if there is one."""
        waits, self._waits = self._waits, Waits(np.zeros(self.world.size), np.zeros(self.world.size))
        if self.world.size == 1 or not waits.steps:
            return {}
        return {
            "ranks": self.world.size,
            "wait_seconds": [round(float(seconds), 6) for seconds in waits.seconds],
            "slowest_rank": int(np.argmin(waits.seconds)),  # the others wait for it
            "sent_bytes": [int(count) for count in waits.bytes],
        }

    def check_replicas(self, network: Network) -> list[int]:
        """Return the ranks whose weights differ from those of most ranks; of two, both."""
        if self.world.size == 1:
            return []
        network.share_weights()
        return differing(self.world.share(digest(network)))

    def merge_skipped(self, splits: Sequence[Split]) -> None:
        """Let the first rank know of the images that others found unreadable.

        Raises:
            DataError: There are too many together.
        """
        if self.world.size == 1:
            return
        told = self.world.share([sorted(split.skipped.items()) for split in splits])
        if self.first:
            for split, found in zip(splits, zip(*told, strict=True), strict=True):
                for index, reason in (one for own in found for one in own):
                    if index not in split.skipped:
                        split.skip(index, reason)

    def test_numbers(self, count: int, batch: int) -> np.ndarray[Any, Any] | None:
        """Return the numbers of the test images of this rank: whole batches by turns; None for all images."""
        if self.world.size == 1:
            return None
        numbers = np.arange(count)
        own: np.ndarray[Any, Any] = numbers[numbers // batch % self.world.size == self.world.rank]
        return own


def share_of(world: World, settings: Settings) -> Share | None:
    """Return the shards of this rank; None where each batch is computed as a whole."""
    if settings.shards == 1:
        return None
    return Share(
        world,
        settings.shards,
        settings.wire,
        settings.reduction,
        settings.exchange,
        settings.accumulate,
        settings.parallel,
    )


def digest(network: Network) -> str:
    """Return a text that differs between networks with other weights."""
    found = hashlib.sha256()
    for name, parameter in network.parameters.items():
        found.update(name.encode())
        found.update(np.ascontiguousarray(parameter.host()).data)
    return found.hexdigest()


def differing(digests: Sequence[str]) -> list[int]:
    """Return the places of those that differ from most; of two, or where none is in the majority, all."""
    common = max(digests, key=digests.count)
    if digests.count(common) == len(digests):
        return []
    if 2 * digests.count(common) <= len(digests):
        return list(range(len(digests)))
    return [rank for rank, own in enumerate(digests) if own != common]
