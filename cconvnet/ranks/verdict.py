"""Reports of ranks on what they do, and the verdict that they cannot go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

PHASES = ("start", "step", "exchange", "test", "save", "end")
# Those that take about as long in every step. The others may take as long as they like.
STEADY = ("step", "exchange")

_MIN_SECONDS, _STEPS = 60.0, 20
# Nothing is known yet of how long a step takes, and the first one may also compile and measure.
_SECONDS_OF_FIRST_STEP = 600.0
_MAX_NAMED = 8


@dataclass(frozen=True)
class Report:
    """The present activity of a rank.

    Attributes:
        phase: One of `PHASES`.
        step: The step that was begun last, from 0; -1 before the first.
        bucket: The part of the gradients that is exchanged, from 0; -1 for none.
        waiting: True if it waits for other ranks.
        age: Seconds since any of these changed.
        step_seconds: The median of its last steps; 0 before the first is over.
    """

    phase: str = "start"
    step: int = -1
    bucket: int = -1
    waiting: bool = False
    age: float = 0.0
    step_seconds: float = 0.0

    NUMBERS: ClassVar = 6

    def numbers(self) -> NDArray[np.float64]:
        """Return the report as float64[NUMBERS]."""
        return np.array([PHASES.index(self.phase), *astuple(self)[1:]], np.float64)

    @classmethod
    def of_numbers(cls, numbers: NDArray[np.float64]) -> Report:
        """Return the report that `numbers` returned."""
        phase, step, bucket, waiting, age, step_seconds = numbers.tolist()
        return cls(PHASES[int(phase)], int(step), int(bucket), bool(waiting), age, step_seconds)

    def __str__(self) -> str:
        step = f" of step {self.step + 1}" if self.step >= 0 else ""
        bucket = f", bucket {self.bucket + 1}" if self.bucket >= 0 else ""
        return f"phase {self.phase}{step}{bucket}"


@dataclass(frozen=True)
class Limits:
    """Seconds that a rank may take.

    Attributes:
        silent: Without a report, or with all ranks waiting.
        stuck: Without progress in a step.
    """

    silent: float
    stuck: float

    @classmethod
    def of(cls, timeout: float | None, step_seconds: float) -> Limits:
        """Return the limits.

        Args:
            timeout: Both of them; None to derive them from the time of a step.
            step_seconds: The longest median of any rank; 0 before the first step is over.
        """
        if timeout is not None:
            return cls(timeout, timeout)
        usual = max(_MIN_SECONDS, _STEPS * step_seconds)
        return cls(usual, usual if step_seconds else _SECONDS_OF_FIRST_STEP)


@dataclass(frozen=True)
class Verdict:
    """A reason to end all ranks.

    Attributes:
        text: The reason, with rank, host and phase.
        speaker: The rank that prints the reason and ends all. Others do so only if it does not.
        standing: True if the speaker stands still, so that its line of code belongs to the text.
    """

    text: str
    speaker: int
    standing: bool = False


def judge(
    reports: Mapping[int, Report], silence: Mapping[int, float], hosts: Sequence[str], limits: Limits
) -> Verdict | None:
    """Return why the ranks cannot go on, or None if they can.

    Args:
        reports: The last report of each rank that reports here, with the own one.
        silence: Seconds since each of them came.
        hosts: The host of each rank, of those that report elsewhere too.
        limits: The limits of all ranks.
    """

    def place(rank: int) -> str:
        return f"rank {rank} of {len(hosts)} on {hosts[rank]}, in {reports[rank]}"

    def places(ranks: Sequence[int]) -> str:
        more = f"; and {len(ranks) - _MAX_NAMED} more" if len(ranks) > _MAX_NAMED else ""
        return "; ".join(map(place, ranks[:_MAX_NAMED])) + more

    silent = [rank for rank in sorted(reports) if silence[rank] > limits.silent]
    if silent:
        speaker = next(rank for rank in range(len(hosts)) if rank not in silent)
        longest = max(silence[rank] for rank in silent)
        return Verdict(f"frozen or cut off, silent for {longest:.0f} s: {places(silent)}", speaker)
    stuck = [rank for rank in sorted(reports) if _stuck(reports[rank], limits)]
    if stuck:
        text = f"no progress for {max(reports[rank].age for rank in stuck):.0f} s: {places(stuck)}"
        return Verdict(text, stuck[0], standing=len(stuck) == 1)
    if len(reports) == len(hosts) and all(r.waiting and r.age > limits.silent for r in reports.values()):
        least = min(told.age for told in reports.values())
        return Verdict(
            f"all ranks have waited for each other for {least:.0f} s: {places(sorted(reports))}", 0
        )
    return None


def _stuck(report: Report, limits: Limits) -> bool:
    return report.phase in STEADY and not report.waiting and report.age > limits.stuck
