"""How long what is left of a training will take."""

from __future__ import annotations

import math
import time

# Steps of so long ago count a third of the present ones.
_MEMORY_SECONDS = 60.0
# A test goes forward only. Backward is twice the work of forward.
_TEST_PER_STEP = 1 / 3


class Stopwatch:
    """The time since it was made, or since its last lap."""

    def __init__(self) -> None:
        self._mark = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap, and begin another."""
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        return seconds


class Pace:
    """How long steps and tests take, from those that were done since the program began.

    Args
        batches_per_test: how many batches a test has.
    """

    def __init__(self, batches_per_test: float) -> None:
        self._batches_per_test = batches_per_test
        self._steps = 0
        # The sums of seconds and of steps, the older the less they count.
        self._seconds = self._count = 0.0
        self._end_seconds: float | None = None

    def stepped(self, seconds: float) -> None:
        """A step took so long."""
        if self._steps == 1:
            self._seconds = self._count = 0.0  # the first step also makes ready what all later ones use
        fade = math.exp(-seconds / _MEMORY_SECONDS)
        self._seconds = fade * self._seconds + seconds
        self._count = fade * self._count + 1.0
        self._steps += 1

    def ended(self, seconds: float) -> None:
        """What is done at an epoch's end, testing and saving, took so long."""
        self._end_seconds = seconds

    @property
    def step_seconds(self) -> float | None:
        """How long a step takes at present; None before the first."""
        return self._seconds / self._count if self._count else None

    def left(self, steps: int, ends: int) -> float | None:
        """How many seconds so many steps and ends of epochs will take; None before the first step."""
        if (step := self.step_seconds) is None:
            return None
        end = self._end_seconds
        if end is None:
            end = self._batches_per_test * step * _TEST_PER_STEP
        return steps * step + ends * end
