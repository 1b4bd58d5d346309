"""Times of a training: stopwatch, pace, and the time that is left."""

from __future__ import annotations

import math
import time

# Steps of so many seconds ago count a third of the present ones.
_MEMORY_SECONDS = 60.0
# A test is a forward pass only. The backward pass is twice as much work.
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
    """The time of steps and tests, from those that were done since the program began.

    Args:
        batches_per_test: The number of batches of a test.
    """

    def __init__(self, batches_per_test: float) -> None:
        self._batches_per_test = batches_per_test
        self._steps = 0
        # Sums of seconds and of steps; the older a step is, the less it counts.
        self._seconds = self._count = 0.0
        self._end_seconds: float | None = None

    def count_step(self, seconds: float) -> None:
        """Count a step."""
        if self._steps == 1:
            self._seconds = self._count = 0.0  # the first step also prepares what all later ones use
        fade = math.exp(-seconds / _MEMORY_SECONDS)
        self._seconds = fade * self._seconds + seconds
        self._count = fade * self._count + 1.0
        self._steps += 1

    def count_epoch_end(self, seconds: float) -> None:
        """Count the testing and saving at an epoch's end."""
        self._end_seconds = seconds

    @property
    def step_seconds(self) -> float | None:
        """The time of a step at present; None before the first."""
        return self._seconds / self._count if self._count else None

    def left(self, steps: int, ends: int) -> float | None:
        """Return the seconds that steps and ends of epochs will take; None before the first step."""
        if (step := self.step_seconds) is None:
            return None
        end = self._end_seconds
        if end is None:
            end = self._batches_per_test * step * _TEST_PER_STEP
        return steps * step + ends * end
