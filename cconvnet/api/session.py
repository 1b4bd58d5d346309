"""A session of training for a program: its data, its progress, its last lines."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from cconvnet import plots
from cconvnet.api.conversion import options_of
from cconvnet.console import reporter
from cconvnet.data.datasets import Arrays
from cconvnet.training.session import train
from cconvnet.training.stopping import Interrupts, Terminated
from cconvnet.training.trainer import Outcome


def run_session(
    given: Mapping[str, Any], arrays: Arrays | None, keep: bool | None = None, quiet: bool = False
) -> Outcome:
    """Train as the command does: with progress, the training curve, and a last line or two.

    Args:
        given: The options, by keyword.
        arrays: The data, if it is in memory.
        keep: Whether the run's folder keeps the arrays; None: unless they are large.
        quiet: Show nothing.

    Raises:
        ValueError, TypeError, DeviceUnavailable, TrainingStopped: As :func:`cconvnet.train`.
    """
    options = options_of(given)
    with reporter(quiet=quiet) as report:
        stop = Interrupts()
        try:
            with stop:
                outcome = train(options, report, stop, arrays, keep)
        except Terminated:  # before the first step; the signal does what it would have done
            signal.raise_signal(stop.signal or signal.SIGTERM)
            raise
        # matplotlib's settings belong to the process: another thread must not change them meanwhile.
        if outcome.signal is None and threading.current_thread() is threading.main_thread():
            plots.into_run(outcome.path, report.say)
        report.end()
        for line in outcome.lines(f"cc.train(resume={str(outcome.path)!r})"):
            report.say(line)
    return outcome


def arrays_of(
    data: Any, *, test: float | None = None, test_seed: int = 0, classes: Sequence[str] | None = None
) -> Arrays | None:
    """Return the arrays that were given as data; None if it is a path or nothing.

    Raises:
        ValueError, TypeError: The arrays, or the arguments that go with them, cannot be used.
    """
    if isinstance(data, tuple | list):
        return Arrays.of(data, classes=classes, test=test, test_seed=test_seed)
    for name, value in (("test", test), ("classes", classes)):
        if value is not None:
            raise ValueError(f"{name} goes with data=(x, y), which {data!r:.60} is not")
    if data is None or isinstance(data, Arrays):
        return data
    if not isinstance(data, str | os.PathLike):
        raise TypeError(
            f"data must be a path, (x, y) or ((x, y), (x_test, y_test)), not {type(data).__name__}"
        )
    return None
