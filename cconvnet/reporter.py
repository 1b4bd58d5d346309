"""What a long command says while it works: a progress bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

_SECONDS_BETWEEN_LINES = 10.0


class Reporter:
    """Says things in plain lines; ``Bar`` says them above a progress bar."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._spoke = time.monotonic()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def say(self, text: str) -> None:
        """A line that is always shown."""
        print(text, file=self._stream, flush=True)
        self._spoke = time.monotonic()

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """A stretch of `total` steps begins, `done` of them are already behind."""

    def step(self, done: int, what: str, values: str = "") -> None:
        """`done` steps are behind; `values` is what to show beside the count."""
        if values and time.monotonic() - self._spoke > _SECONDS_BETWEEN_LINES:
            self.say(f"{what}: {values}")

    def end(self) -> None:
        """The stretch is over."""


class Bar(Reporter):
    """A rich progress bar with the values and the time left."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(file=stream, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            transient=True,
        )
        self._task: Any = None

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.end()
        self._task = self._progress.add_task(what, total=total, completed=done, values="")

    def step(self, done: int, what: str, values: str = "") -> None:
        self._progress.update(self._task, completed=done, description=what)
        if values:
            self._progress.update(self._task, values=values)

    def end(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


def reporter(stream: TextIO | None = None) -> Reporter:
    """A bar where the stream (standard output) is a terminal, else plain lines."""
    stream = stream or sys.stdout
    return Bar(stream) if stream.isatty() else Reporter(stream)
