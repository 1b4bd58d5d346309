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

    @property
    def seconds(self) -> float:
        """The seconds since the last lap."""
        return time.perf_counter() - self._mark

    def lap(self) -> float:
        """Return the seconds since the last lap, and begin another."""
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        return seconds


class Pace:
    """The time of steps, tests and checkpoints, from those that were done since the program began.

    Args:
        batches_per_test: The number of batches of a test.

    Attributes:
        writing_seconds: The time that the last checkpoint was written. A session waits for it at its end.
    """

    def __init__(self, batches_per_test: float) -> None:
        self._batches_per_test = batches_per_test
        self._steps = 0
        # Sums of seconds and of steps; the older a step is, the less it counts.
        self._seconds = self._count = 0.0
        self._paused = 0.0
        self._end_seconds: float | None = None
        self._ends = 0
        # Seconds since the present test began, and its expected length.
        self._testing: tuple[float, float | None] | None = None
        self.writing_seconds = 0.0

    def count_step(self, seconds: float) -> None:
        """Count a step."""
        if self._steps == 1:
            self._seconds = self._count = 0.0  # the first step also prepares what all later ones use
        fade = math.exp(-seconds / _MEMORY_SECONDS)
        self._seconds = fade * self._seconds + seconds
        self._count = fade * self._count + 1.0
        self._steps += 1

    def count_pause(self, seconds: float) -> None:
        """Count a pause between two steps of an epoch, for a checkpoint."""
        self._paused += seconds

    def expect_test(self, seconds: float | None) -> None:
        """Take the time of a test before this session, if there was one, as the time of the next."""
        self._end_seconds = seconds

    def count_test(self, seconds: float, share: float) -> None:
        """Count a part of the present test.

        Args:
            seconds: The time since it began.
            share: The share of its images that are done, from 0 to 1.
        """
        self._testing = seconds, seconds / share if share > 0 else None

    def count_epoch_end(self, seconds: float) -> None:
        """Count the testing and saving at an epoch's end; later ends count more."""
        known = self._end_seconds if self._ends else None
        self._end_seconds = seconds if known is None else (known + seconds) / 2
        self._ends += 1
        self._testing = None

    @property
    def step_seconds(self) -> float | None:
        """The time of a step at present; None before the first."""
        return self._seconds / self._count if self._count else None

    def left(self, steps: int, ends: int) -> float | None:
        """Return the seconds that steps and ends of epochs will take; None before the first step.

        Args:
            steps: The number of steps left, with their pauses for checkpoints.
            ends: The number of ends of epochs, including one whose test has begun.
        """
        if (step := self.step_seconds) is None:
            return None
        end = self._end_seconds
        if end is None:
            end = self._batches_per_test * step * _TEST_PER_STEP
        present = 0.0
        if self._testing is not None and ends:
            passed, expected = self._testing
            present = max(0.0, (end if expected is None else expected) - passed)
            ends -= 1
        pauses = steps * self._paused / self._steps
        return steps * step + pauses + present + ends * end + self.writing_seconds
