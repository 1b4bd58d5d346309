"""What a long command says while it works: a line that is drawn anew on a terminal, plain lines elsewhere.

Values and the time left are given as functions, which are only called when something is shown: ten times a
second on a terminal, every ten seconds elsewhere. So a step of a few milliseconds can be reported each time.

Work is worth more than words about it: where nobody listens any more (a closed terminal, a reader that ended,
a full disk under a file) the work goes on in silence.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_DRAWINGS = 0.1
_BAR = 24  # columns, where there is room
_LEAST_BAR = 10

_ERASE = "\r\x1b[J"  # all from the beginning of the line on

Text = str | Callable[[], str]
Seconds = Callable[[], float | None]


def clock(seconds: float) -> str:
    """A stretch of time as people read it: 0:42, 12:05, 3:12:05, 2d 03:12."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02}:{minute:02}"
    return f"{hour}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def silence(stream: TextIO) -> None:
    """What is still to be written to a stream, at the program's end too, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Reporter:
    """Says things in plain lines; ``Bar`` draws a line under them, ``Silent`` keeps still."""

    _seconds_between = _SECONDS_BETWEEN_LINES

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._spoke = time.monotonic()
        self._total = 0
        self._began = (0, 0.0)  # at how many steps, and when

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def say(self, text: str) -> None:
        """A line that is always shown."""
        self._write(f"{text}\n")
        self._spoke = time.monotonic()

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """A stretch of `total` steps begins, `done` of them are already behind."""
        self._total, self._began = total, (done, time.monotonic())

    def step(self, done: int, what: str, values: Text = "", left: Seconds | None = None) -> None:
        """`done` steps are behind.

        Args
            values: what to show beside the count, the most important first, two spaces in between.
            left: how many seconds the rest will take, None: not yet known; not given: as long for each step
                as since begin().
        """
        now = time.monotonic()
        if now - self._spoke >= self._seconds_between:
            self._show(done, what, values if isinstance(values, str) else values(), self._left(done, left))
            self._spoke = now

    def counted(self, what: str) -> Callable[[int, int], None]:
        """What to call with how much of `what` is done and how much there is in all; it begins with that."""
        begun = False

        def count(done: int, total: int) -> None:
            nonlocal begun
            if not begun:
                self.begin(what, total)
                begun = True
            self.step(done, what, f"{done:,}/{total:,}")

        return count

    def end(self) -> None:
        """The stretch is over."""

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
    """Says nothing."""

    def say(self, text: str) -> None:
        pass

    def step(self, done: int, what: str, values: Text = "", left: Seconds | None = None) -> None:
        pass


class Bar(Reporter):
    """A line on a terminal with a bar, the values and the time left; what is said stands above it.

    The cursor rests where the line begins. So a terminal that is made narrower and folds the line keeps it
    there, and the next drawing erases all of it; and nothing needs to be put back when the program is killed.
    """

    _seconds_between = _SECONDS_BETWEEN_DRAWINGS

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
        self._write(f"{_ERASE}{text}\n")
        if self._drawn is not None:
            self._show(*self._drawn)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        super().begin(what, total, done)
        self._show(done, what, "", "")
        self._spoke = 0.0

    def end(self) -> None:
        if self._drawn is not None:
            self._drawn = None
            self._write(_ERASE)

    def _show(self, done: int, what: str, values: str, left: str) -> None:
        self._drawn = (done, what, values, left)
        self._write(f"{_ERASE}{self._line(done, what, values, left)}\r")

    def _line(self, done: int, what: str, values: str, left: str) -> str:
        # A full last column would move the cursor on some terminals.
        parts, bar = fitted(_columns(self._stream) - 1, done, self._total, what, values, left)
        full = bar * min(done, self._total) // self._total if self._total else bar
        signs = (self._signs[0] * full, self._signs[1] * (bar - full))
        drawn = f"\x1b[36m{signs[0]}\x1b[0m\x1b[2m{signs[1]}\x1b[0m" if self._color else "".join(signs)
        return "  ".join(drawn if part is None else part for part in parts)


def fitted(
    columns: int, done: int, total: int, what: str, values: str, left: str
) -> tuple[list[str | None], int]:
    """What of a line has room in so many columns, in order, None being the bar; and the bar's length.

    The count goes first, then the values from the last on, but for the first of them, then the bar.
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

    while free() < _LEAST_BAR * bar:
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
    return parts(), min(_BAR, free()) if bar else 0


def _columns(stream: TextIO) -> int:
    """How wide a terminal is now."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    if columns == 0:  # a terminal that does not know
        given = os.environ.get("COLUMNS", "")
        columns = int(given) if given.isdecimal() else 0
    return columns or 80


def reporter(stream: TextIO | None = None, quiet: bool = False) -> Reporter:
    """A bar where the stream (standard output) is a terminal that can move its cursor, else plain lines."""
    stream = stream or sys.stdout
    if quiet:
        return Silent(stream)
    capable = os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    return Bar(stream) if capable and stream.isatty() else Reporter(stream)


def percent(share: float) -> str:
    return f"{100 * share:.2f}%"
