"""How a training is asked to stop, or has to, and how it is continued."""

from __future__ import annotations

import shlex
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any


class TrainingStopped(RuntimeError):
    """Training cannot go on; the text says at which step, why, and what stands."""


class Terminated(KeyboardInterrupt):
    """We were told to end when there was no step to finish; `path` is the run's folder, if it has one yet."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self.path = path


class Interrupts:
    """Makes Ctrl-C or SIGTERM a request to stop after the present step; a second Ctrl-C stops at once.

    So does SIGHUP, which comes when a terminal or a connection closes, unless nohup had us ignore it.

    Attributes
        signal: the last request, if there was one.
        patient: whether there is a step to finish; without, a signal ends at once what is being done.
    """

    def __init__(self, ends_process: bool = False) -> None:
        """
        Args
            ends_process: nothing but the end of the process follows. If we were told to end, that is ignored
                from then on: whoever asks twice must find that it ended well, and Python's end would undo a
                handler. Often both signals come, from a shell and from the system.
        """
        self.signal: int | None = None
        self.patient = False
        self._ends_process = ends_process
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            told_to_end = self.signal not in (None, signal.SIGINT) and number != signal.SIGINT
            signal.signal(number, signal.SIG_IGN if self._ends_process and told_to_end else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = self.signal, number
        if number == signal.SIGINT and (not self.patient or again == number):
            raise KeyboardInterrupt
        if not self.patient:
            self.patient = True  # another must not disturb what is being closed
            raise Terminated

    def __bool__(self) -> bool:
        return self.signal is not None


def resume_command(path: Path) -> str:
    """The shell command that continues a run."""
    return f"cconvnet train --resume {shlex.quote(str(path))}"
