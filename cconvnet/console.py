"""Progress of long commands: a bar that is redrawn on a terminal or in a notebook, plain lines elsewhere.

Values and the time left may be given as functions. They are called only when something is shown: ten times a
second on a terminal, four times in a notebook, every ten seconds elsewhere. So a step of a few milliseconds
can be reported each time.

Work matters more than reporting it. If output fails (a closed terminal, a reader that ended, a full disk),
the work continues silently.
"""

from __future__ import annotations

import html
import importlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_UPDATES = 0.25
_MAX_LINES_IN_A_CELL = 200
_SECONDS_BETWEEN_REDRAWS = 0.1
_MAX_BAR_COLUMNS = 24
_MIN_BAR_COLUMNS = 10
_DEFAULT_COLUMNS = 80

_ERASE = "\r\x1b[J"  # moves to the beginning of the line and erases everything after it

Text = str | Callable[[], str]
Seconds = Callable[[], float | None]


def clock(seconds: float) -> str:
    """Format a duration: 0:42, 12:05, 3:12:05, 2d 03:12."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02}:{minute:02}"
    return f"{hour}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def silence(stream: TextIO) -> None:
    """Discard everything written to a stream from now on, including what Python flushes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Reporter:
    """Reporter of messages and progress in plain lines.

    ``Bar`` draws a progress bar below the messages, and so does ``Cell`` in a notebook. ``Silent`` prints
    nothing.
    """

    _seconds_between = _SECONDS_BETWEEN_LINES

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown_at = time.monotonic()
        self._total = 0
        self._began = (0, 0.0)  # steps done and the time, when the task began

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def say(self, text: str) -> None:
        """Print a line, whenever the last one was."""
        self._write(f"{text}\n")
        self._shown_at = time.monotonic()

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Begin a task.

        Args:
            what: The task's name.
            total: Its number of steps.
            done: Steps that were done earlier, as by a run that is resumed.
        """
        self._total, self._began = total, (done, time.monotonic())

    def step(self, done: int, what: str, values: Text = "", left: Seconds | None = None) -> None:
        """Report progress.

        Args:
            done: Steps done so far.
            what: The task's name.
            values: Text beside the count: the most important value first, two spaces between values.
            left: Returns the seconds that remain, or None while they are unknown. Without it they follow from
                the mean time of a step since begin().
        """
        now = time.monotonic()
        if now - self._shown_at >= self._seconds_between:
            self._show(done, what, values if isinstance(values, str) else values(), self._left(done, left))
            self._shown_at = now

    def counted(self, what: str) -> Callable[[int, int], None]:
        """Return a function that reports steps done and steps in all; a new number of all begins a task."""
        begun: int | None = None

        def count(done: int, total: int) -> None:
            nonlocal begun
            if begun != total:
                self.begin(what, total)
                begun = total
            self.step(done, what, f"{done:,}/{total:,}")

        return count

    def end(self) -> None:
        """End the task."""

    def _left(self, done: int, left: Seconds | None) -> str:
        if left is not None:
            seconds = left()
        else:
            before, begun = self._began
            each = (time.monotonic() - begun) / (done - before) if done > before else None
            seconds = None if each is None else each * (self._total - done)
        return "" if seconds is None else f"{clock(seconds)} left"

    def _show(self, done: int, what: str, values: str, left: str) -> None:
        parts = [part for part in (values, left) if part]
        if parts:
            self.say(f"{what}: {'  '.join(parts)}")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            silence(self._stream)


class Silent(Reporter):
    """Reporter that prints nothing."""

    def say(self, text: str) -> None:
        """Print nothing."""

    def step(self, done: int, what: str, values: Text = "", left: Seconds | None = None) -> None:
        """Print nothing."""


class Bar(Reporter):
    """Reporter for a terminal: messages above a line with a bar, the values and the time left.

    The cursor rests at the beginning of the line. It stays there if a terminal becomes narrower and wraps the
    line, so the next redraw erases all of it. Nothing needs to be restored when the program is killed.
    """

    _seconds_between = _SECONDS_BETWEEN_REDRAWS

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._color = not os.environ.get("NO_COLOR")
        try:
            "━─".encode(stream.encoding or "ascii")
            self._signs = "━─"
        except UnicodeEncodeError:
            self._signs = "#-"
        self._drawn: tuple[int, str, str, str] | None = None

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._write(f"{_ERASE}{text}\n")
        if self._drawn is not None:
            self._show(*self._drawn)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Begin a task and draw its bar; see Reporter.begin()."""
        super().begin(what, total, done)
        self._show(done, what, "", "")
        self._shown_at = 0.0

    def end(self) -> None:
        """End the task and erase its bar."""
        if self._drawn is not None:
            self._drawn = None
            self._write(_ERASE)

    def _show(self, done: int, what: str, values: str, left: str) -> None:
        self._drawn = (done, what, values, left)
        self._write(f"{_ERASE}{self._line(done, what, values, left)}\r")

    def _line(self, done: int, what: str, values: str, left: str) -> str:
        # A full last column would move the cursor on some terminals.
        parts, bar = fit_line(_columns(self._stream) - 1, done, self._total, what, values, left)
        full = bar * min(done, self._total) // self._total if self._total else bar
        filled, empty = self._signs[0] * full, self._signs[1] * (bar - full)
        drawn = f"\x1b[36m{filled}\x1b[0m\x1b[2m{empty}\x1b[0m" if self._color else filled + empty
        return "  ".join(drawn if part is None else part for part in parts)


class Cell(Reporter):
    """Reporter for a cell of a notebook: one output, of messages and a bar below them, that is updated.

    It needs no widgets. A notebook that is saved contains the last update, without the bar. A cell that says
    nothing and is done in a moment has no output, because an output cannot be taken back.
    """

    _seconds_between = _SECONDS_BETWEEN_UPDATES

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._drawn: tuple[int, str, str] | None = None
        self._output: Any = None
        self._updated_at = 0.0

    def say(self, text: str) -> None:
        """Add a line above the bar."""
        self._lines.append(text)
        # Of many lines in quick succession, as of very short epochs, not each is worth an update.
        if len(self._lines) < _MAX_LINES_IN_A_CELL // 4 or self._is_due():
            self._update()

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Begin a task; its bar is drawn below lines that are shown, or when the task takes a while."""
        super().begin(what, total, done)
        self._drawn = (done, what, "")
        if self._lines:
            self._update()
            self._shown_at = 0.0
        else:
            self._shown_at = time.monotonic()

    def end(self) -> None:
        """End the task and remove its bar."""
        self._drawn = None
        if self._output is not None or self._lines:
            self._update()

    def _show(self, done: int, what: str, values: str, left: str) -> None:
        self._drawn = (done, what, "  ".join(part for part in (values, left) if part))
        self._update()

    def _is_due(self) -> bool:
        return time.monotonic() - self._updated_at >= self._seconds_between

    def _update(self) -> None:
        content = {"text/plain": self._text(), "text/html": self._html()}
        self._updated_at = time.monotonic()
        if self._output is None:
            display = importlib.import_module("IPython.display").display
            self._output = display(content, raw=True, display_id=True)
        else:
            self._output.update(content, raw=True)

    def _shown_lines(self) -> list[str]:
        """Return the first lines and the last ones; a notebook with ten thousand is slow."""
        lines, most = self._lines, _MAX_LINES_IN_A_CELL
        if len(lines) <= most:
            return lines
        return [*lines[:20], f"... {len(lines) - most:,} lines ...", *lines[20 - most :]]

    def _text(self) -> str:
        bar = [f"{self._drawn[1]}: {self._drawn[2]}"] if self._drawn is not None else []
        return "\n".join([*self._shown_lines(), *bar])

    def _html(self) -> str:
        style = "margin: 0; white-space: pre-wrap; font-family: monospace; background: none; border: 0"
        parts = [f'<pre style="{style}">{html.escape(chr(10).join(self._shown_lines()))}</pre>']
        if self._drawn is not None:
            done, what, values = self._drawn
            bar = f'<progress value="{done}" max="{max(self._total, 1)}"></progress>'
            parts.append(f'<pre style="{style}">{html.escape(what)}  {bar}  {html.escape(values)}</pre>')
        return "\n".join(parts)


def fit_line(
    columns: int, done: int, total: int, what: str, values: str, left: str
) -> tuple[list[str | None], int]:
    """Choose the parts of a progress line that fit into the terminal.

    If there is too little room, parts are dropped in this order: the count, values from the last on until two
    remain, the bar, those two.

    Args:
        columns: The room.
        done: Steps done so far.
        total: Steps in all.
        what: The task's name.
        values: Values, two spaces between them.
        left: The time left, or nothing.

    Returns:
        The parts in order, None standing for the bar, and the bar's length in columns.
    """
    count = f"{done:,}/{total:,}"
    shown = [part for part in values.split("  ") if part]
    counted = count not in values
    bar = True

    def parts() -> list[str | None]:
        middle = [None] * bar + [count] * counted
        return [part for part in (what, *middle, *shown, left) if part != ""]

    def free() -> int:
        line = parts()
        return columns - sum(len(part or "") for part in line) - 2 * (len(line) - 1)

    while free() < _MIN_BAR_COLUMNS * bar:
        if counted:
            counted = False
        elif len(shown) > 1 and (len(shown) > 2 or not bar):
            shown.pop()
        elif bar:
            bar = False
        elif shown:
            shown.clear()
        else:
            return [f"{what}  {left}"[: max(columns, 0)]], 0
    return parts(), min(_MAX_BAR_COLUMNS, free()) if bar else 0


def _columns(stream: TextIO) -> int:
    """Return the terminal's present width."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    if columns == 0:  # the terminal does not report it
        given = os.environ.get("COLUMNS", "")
        columns = int(given) if given.isdecimal() else 0
    return columns or _DEFAULT_COLUMNS


def reporter(stream: TextIO | None = None, quiet: bool = False) -> Reporter:
    """Return the reporter that suits a stream.

    Args:
        stream: Where to print; standard output if not given.
        quiet: Print nothing.

    Returns:
        A Bar if the stream is a terminal that can move its cursor, a Cell if it is the output of a notebook,
        otherwise a Reporter of plain lines.
    """
    stream = stream or sys.stdout
    if quiet:
        return Silent(stream)
    if type(stream).__module__ == "ipykernel.iostream":
        return Cell(stream)
    capable = os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    return Bar(stream) if capable and stream.isatty() else Reporter(stream)


def percent(share: float) -> str:
    """Format a share from 0 to 1 as a percentage with two decimals."""
    return f"{100 * share:.2f}%"
