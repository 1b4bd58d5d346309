"""Ranks that are threads of the test: quick, and in reach of its stand-ins."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from cconvnet.ranks.world import World

Array = np.ndarray[Any, Any]
T = TypeVar("T")


class Meeting:
    """A place where all ranks leave something and see what the others left."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=60)
        self._left: list[Any] = [None] * size

    def leave(self, rank: int, what: Any) -> list[Any]:
        self._left[rank] = what
        self.barrier.wait()
        found = list(self._left)
        self.barrier.wait()
        return found


class ThreadWorld(World):
    """The world of a thread."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        super().__init__()
        self.meeting = meeting
        self.rank = self.local_rank = rank
        self.size = self.local_size = meeting.size

    def share(self, value: Any) -> list[Any]:
        return self.meeting.leave(self.rank, value)

    def broadcast(self, value: Any) -> Any:
        return self.share(value)[0]

    def broadcast_array(self, array: Array) -> None:
        array[...] = self.share(np.array(array))[0]

    def collect_array(self, own: Array, whole: Array) -> None:
        found = self.share(np.array(own))
        if self.first:
            for target, array in zip(whole, found, strict=True):
                target[...] = array

    def share_numbers(self, numbers: Array) -> Array:
        return np.array(self.share(np.array(numbers, np.float64)))

    def highest(self, number: float) -> float:
        return max(self.share(float(number)))


def on_ranks(ranks: int, work: Callable[[ThreadWorld], T]) -> list[T]:
    """Let each of several ranks do work, and return their results. A rank that fails fails the test."""
    meeting = Meeting(ranks)
    results: list[Any] = [None] * ranks
    faults: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadWorld(meeting, rank))
        except BaseException as fault:
            faults.append(fault)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if faults:
        raise faults[0]
    return results
