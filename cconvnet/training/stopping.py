"""The ends of a training before its time: signals that ask for it, and failures that force it.

Either way a message names the newest checkpoint and the command that resumes from it.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from cconvnet.network import Network
from cconvnet.network.anomaly import Anomaly
from cconvnet.ranks import launched
from cconvnet.runs.folder import Run


class TrainingStopped(RuntimeError):
    """Training cannot go on; the text contains the step, the reason and what to resume from."""


class StoppedTogether(TrainingStopped):
    """The same on all ranks, for a reason on which they have agreed."""


class Terminated(KeyboardInterrupt):
    """A signal came when there was no step to finish.

    Attributes:
        path: The run's folder, if it has one yet.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self.path = path


class Interrupts:
    """A context in which signals ask training to stop after the present step.

    A second Ctrl-C stops at once. The signals are Ctrl-C (SIGINT), SIGTERM, and SIGHUP, which comes when a
    terminal or a connection closes. SIGHUP is left alone under nohup. To one of several ranks SIGUSR1 means
    SIGTERM: Open MPI and Slurm pass it on, where they kill after others.

    Args:
        ends_process: Nothing but the end of the process follows. After SIGTERM or SIGHUP both are ignored
            to the end: Python's end would restore the default, and a second signal would kill the process.
            Often both come, from a shell and from the system.

    Attributes:
        signal: The last request, if there was one.
        patient: True if there is a step to finish. Otherwise a signal ends at once what is being done.
    """

    def __init__(self, ends_process: bool = False) -> None:
        self.signal: int | None = None
        self.patient = False
        self._ends_process = ends_process
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            forwarded = () if launched().alone else (signal.SIGUSR1,)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *forwarded):
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
            self.patient = True  # another signal must not disturb what is being closed
            raise Terminated

    def __bool__(self) -> bool:
        return self.signal is not None


def resume_command(path: Path) -> str:
    """Return the shell command that resumes a run."""
    return f"cconvnet train --resume {shlex.quote(str(path))}"


class Failures:
    """The texts of failures that stop a training, each with the checkpoint to resume from.

    Args:
        run: The run, with its checkpoints.
        network: The network, with its parameters.
        lr: The run's first rate.
        settle: Waits until no checkpoint is being written.
    """

    def __init__(self, run: Run, network: Network, lr: float, settle: Callable[[], None]) -> None:
        self._run, self._network, self._lr, self._settle = run, network, lr, settle

    def advice(self, how: str = "", flags: str = "") -> str:
        """Return the newest checkpoint and the command that resumes from it.

        Args:
            how: Under which condition to resume, such as "with a lower rate".
            flags: More of the command.
        """
        self._settle()
        if not self._run.checkpoints.path.exists():
            return f"The run's folder {self._run.path} is gone"
        files = self._run.checkpoints.files()
        if not files:
            return "There is no checkpoint yet"
        command = resume_command(self._run.path) + flags
        return f"The last good checkpoint is {files[-1]}; to resume from it{how and ' '}{how}: {command}"

    def advise_lower_rate(self) -> str:
        """Return the advice after values that are not finite."""
        return self.advice("with a lower rate", f" --lr {self._lr / 10:g}")

    def of_values(self, epoch: int, bad: Anomaly | None) -> str:
        """Return where values are not finite, and the advice."""
        earlier = ""
        if bad is not None and bad.direction == "forward" and bad.tensor in self._network.parameters:
            earlier = "An earlier step made it: with --detect-anomaly it would be found there. "
        return f"(epoch {epoch + 1}); first not finite: {bad or 'none'}. {earlier}{self.advise_lower_rate()}"

    @contextlib.contextmanager
    def of_disk(self) -> Iterator[None]:
        """Stop the training if the disk cannot be written within this context.

        Raises:
            TrainingStopped: In place of an OSError.
        """
        try:
            yield
        except OSError as error:
            raise TrainingStopped(
                f"cannot write {error.filename or self._run.path}: {error.strerror}. "
                + self.advice("when the disk can be written")
            ) from error
