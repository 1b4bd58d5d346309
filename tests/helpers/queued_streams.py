"""Queues of work like a GPU's streams, ordered by marks alone; a random choice decides the rest."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

Work = Callable[[], None]


class Mark:
    reached = False


class Queue:
    """Work in the order in which it was given; an entry may be a mark to wait for."""

    def __init__(self) -> None:
        self.entries: deque[Work | Mark] = deque()

    @property
    def ready(self) -> bool:
        return bool(self.entries) and not (isinstance(self.entries[0], Mark) and not self.entries[0].reached)

    def advance(self) -> None:
        entry = self.entries.popleft()
        if not isinstance(entry, Mark):
            entry()

    def mark(self) -> Mark:
        mark = Mark()
        self.entries.append(lambda: setattr(mark, "reached", True))
        return mark


class Machine:
    """Several queues that advance in random order; `late` does only when all others wait or are empty."""

    def __init__(self, seed: int) -> None:
        self.queues: list[Queue] = []
        self.late: Queue | None = None
        self.random = random.Random(seed)

    def queue(self) -> Queue:
        self.queues.append(Queue())
        return self.queues[-1]

    def drain(self) -> None:
        self.run(lambda: not any(queue.entries for queue in self.queues))

    def run(self, until: Callable[[], bool]) -> None:
        """Advance random queues until the mark is reached."""
        # Some queues are slower than others, for a while.
        weights = [self.random.random() ** 6 for _ in self.queues]
        while not until():
            ready = [i for i, queue in enumerate(self.queues) if queue.ready]
            assert ready, "every queue waits for another"
            ready = [i for i in ready if self.queues[i] is not self.late] or ready
            (chosen,) = self.random.choices(ready, [weights[i] + 1e-9 for i in ready])
            self.queues[chosen].advance()

    def advance(self, count: int) -> None:
        """Let time pass: run up to so many entries of the queues that are not waiting."""
        left = iter(range(count))
        self.run(lambda: next(left, None) is None or not any(queue.ready for queue in self.queues))
