"""A thread of each rank that ends all ranks, and names the one at fault, when they cannot go on.

Ranks report to each other about once a second. A rank at fault is silent, or stands still in a step without
waiting for another. Or all wait for each other, or the launcher is gone.

The thread adds up its own short pauses. So no rank is at fault for time in which it was suspended with all
others, as by Ctrl-Z, a scheduler or a laptop's lid.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cconvnet.ranks.launch import RanksError
from cconvnet.ranks.verdict import PHASES, STEADY, Limits, Report, judge

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed later

_SECONDS_BETWEEN_REPORTS = 1.0
_STEPS_IN_MEDIAN = 32
# So long a rank leaves it to another to end all.
_SECONDS_OF_GRACE, _SECONDS_BETWEEN_SPEAKERS = 2.0, 0.1
# More ranks report to rank 0 only, which alone reports to all.
_MAX_ALL_TO_ALL = 32


def timeout() -> float | None:
    """Return the seconds of CCONVNET_RANK_TIMEOUT, or None if it is not set.

    Raises:
        RanksError: If it is no positive number.
    """
    text = os.environ.get("CCONVNET_RANK_TIMEOUT")
    with contextlib.suppress(ValueError):
        if text is None or 0 < float(text) < float("inf"):
            return None if text is None else float(text)
    raise RanksError(f"CCONVNET_RANK_TIMEOUT must be a positive number of seconds, not {text!r}")


class Watchdog:
    """The record of this rank's activity. Alone there is nobody to watch.

    The thread that trains calls its methods, which cost a microsecond or so.
    """

    def __init__(self) -> None:
        # Replaced as a whole: the watching thread sees by its identity that there was progress.
        self._activity = ("start", -1, -1, False)
        self._step_seconds = [0.0] * _STEPS_IN_MEDIAN
        self._steps_timed = 0
        self._step_began: float | None = None

    def step(self, number: int) -> None:
        """Begin a step of training.

        Args:
            number: The step's number in the run, from 0.
        """
        now = time.monotonic()
        if self._step_began is not None:
            self._step_seconds[self._steps_timed % _STEPS_IN_MEDIAN] = now - self._step_began
            self._steps_timed += 1
        self._step_began = now
        self._activity = ("step", number, -1, False)

    @contextlib.contextmanager
    def phase(self, name: str, bucket: int = -1) -> Iterator[None]:
        """Enter a phase. The end of the context returns to the one before.

        Args:
            name: One of `PHASES`. No rank is at fault for a long one but "step" and "exchange".
            bucket: The part of the gradients that is exchanged, from 0.
        """
        if name not in PHASES:
            raise ValueError(f"name must be one of {', '.join(PHASES)}, not {name!r}")
        phase, step, around, waiting = self._activity
        self._activity = (name, step, bucket, waiting)
        try:
            yield
        finally:
            if name not in STEADY:
                self._step_began = None  # this time belongs to no step
            self._activity = (phase, self._activity[1], around, waiting)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for other ranks within the context."""
        phase, step, bucket, before = self._activity
        self._activity = (phase, step, bucket, True)
        try:
            yield
        finally:
            self._activity = (phase, step, bucket, before)

    def stop(self, barrier: Callable[[], None]) -> None:
        """Watch no longer.

        Args:
            barrier: Waits for all ranks.
        """

    def _median(self) -> float:
        seconds = self._step_seconds[: self._steps_timed]
        return statistics.median(seconds) if seconds else 0.0


class RanksWatchdog(Watchdog):
    """The watchdog of a rank among others.

    Args:
        comm: A communicator of all ranks that nothing else uses.
        hosts: The host of each rank.
        limit: Seconds that a rank may be silent or stand still; None for what steps take.
        kill: Ends all ranks with an exit code. The thread calls it.
    """

    def __init__(
        self, comm: Any, hosts: Sequence[str], limit: float | None, kill: Callable[[int], object]
    ) -> None:
        super().__init__()
        self._comm, self._rank, self._hosts, self._limit, self._kill = comm, comm.rank, hosts, limit, kill
        everyone = range(comm.size)
        hears_all = comm.size <= _MAX_ALL_TO_ALL or self._rank == 0
        self._peers = [peer for peer in (everyone if hears_all else [0]) if peer != self._rank]
        self._reports = dict.fromkeys([*self._peers, self._rank], Report())
        self._silence = dict.fromkeys(self._reports, 0.0)
        # Requests, each with the memory that it reads.
        self._sent: dict[int, tuple[Any, NDArray[np.float64]]] = {}
        self._launcher = os.getppid()
        self._main = threading.get_ident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cconvnet watchdog", daemon=True)
        self._thread.start()

    def stop(self, barrier: Callable[[], None]) -> None:
        """End the thread. Ranks that still wait in this call are watched by nobody."""
        self._stop.set()
        self._thread.join()
        barrier()  # after it nobody sends
        self._receive()
        for request, _ in self._sent.values():
            request.Wait()
        self._comm.Free()

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # of MPI, about a rank that is gone
            self._end(f"the watchdog failed: {error}")

    def _watch(self) -> None:
        pause = min(_SECONDS_BETWEEN_REPORTS, (self._limit or np.inf) / 8)
        seen, age, grace = self._activity, 0.0, 0.0
        before = time.monotonic()
        while not self._stop.wait(pause):
            now = time.monotonic()
            passed, before = min(now - before, 2 * pause), now
            activity = self._activity
            age = age + passed if activity is seen else 0.0
            seen = activity
            self._reports[self._rank] = Report(*activity, age, self._median())
            for peer in self._peers:
                self._silence[peer] += passed
            self._send()
            self._receive()
            if os.getppid() != self._launcher:
                self._end("the launcher is gone")
            slowest = max(report.step_seconds for report in self._reports.values())
            verdict = judge(self._reports, self._silence, self._hosts, Limits.of(self._limit, slowest))
            grace = grace + passed if verdict else 0.0
            if verdict is None:
                continue
            if verdict.speaker == self._rank:
                self._end(verdict.text + (f", at {self._place_in_code()}" if verdict.standing else ""))
            elif grace > _SECONDS_OF_GRACE + self._rank * _SECONDS_BETWEEN_SPEAKERS:
                self._end(verdict.text)

    def _send(self) -> None:
        """Send this rank's report, but to no peer that has not taken the last one."""
        message = self._reports[self._rank].numbers()
        for peer in self._peers:
            if peer not in self._sent or self._sent[peer][0].Test():
                self._sent[peer] = self._comm.Isend(message, peer), message

    def _receive(self) -> None:
        message = np.empty(Report.NUMBERS)
        for peer in self._peers:
            while self._comm.Iprobe(peer):
                self._comm.Recv(message, peer)
                self._reports[peer], self._silence[peer] = Report.of_numbers(message), 0.0

    def _place_in_code(self) -> str:
        """Return the file, line and function in which the training thread is."""
        frame = sys._current_frames()[self._main]
        return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} ({frame.f_code.co_name})"

    def _end(self, text: str) -> None:
        # The training thread may hold sys.stderr's lock.
        with contextlib.suppress(OSError):
            os.write(2, f"error: rank {self._rank} of {len(self._hosts)} ends all: {text}\n".encode())
        self._kill(EXIT_CODE)
