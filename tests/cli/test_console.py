"""Progress on terminals of any width, and as plain lines elsewhere."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from cconvnet import console
from cconvnet.console import Bar, Reporter, Silent, clock, fit_line
from cconvnet.devices import devices_of
from cconvnet.runs.overview import read_overview
from cconvnet.training.new_run import new_run
from cconvnet.training.options import Options
from cconvnet.training.time_left import Pace

VALUES = "loss 1.2345  error 12.34%  20,123 images/s"


class Screen(io.StringIO):
    """Terminal that wraps lines and knows carriage return, line feed, colours and "erase to the end"."""

    encoding = "utf-8"

    def __init__(self, columns: int = 80) -> None:
        super().__init__()
        self.columns = columns
        self.rows = [""]
        self.row = self.column = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for piece in re.findall(r"\x1b\[\d*[A-Za-z]|[^\x1b]", text):
            if piece == "\x1b[J":
                self.rows[self.row :] = [self.rows[self.row][: self.column]]
            elif piece == "\r":
                self.column = 0
            elif piece == "\n":
                self.row, self.column = self.row + 1, 0
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif piece[0] != "\x1b":
                if self.column == self.columns:
                    self.write("\n")
                line = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = line[: self.column] + piece + line[self.column + 1 :]
                self.column += 1
        return len(text)

    def narrow(self, columns: int) -> None:
        """Wrap the last row as terminals do; the cursor keeps its position in the text."""
        assert self.row == len(self.rows) - 1
        line = self.rows[self.row]
        self.columns = columns
        self.rows[self.row :] = [line[i : i + columns] for i in range(0, max(1, len(line)), columns)]
        self.row, self.column = self.row + self.column // columns, self.column % columns

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.rows]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which only the test advances."""
    seconds = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: seconds[0])
    return seconds


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(console, "_columns", lambda stream: stream.columns)
    monkeypatch.setenv("TERM", "xterm")
    return screen


# ---- a line at any width ---------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", range(1, 140))
def test_a_line_fits(columns: int) -> None:
    parts, bar = fit_line(columns, 1234, 56780, "epoch 3/20", VALUES, "12:34 left")
    line = "  ".join("-" * bar if part is None else part for part in parts)
    assert len(line) <= columns
    assert (None in parts) == (bar > 0)


def test_what_matters_most_stays_longest() -> None:
    def shown(columns: int) -> list[str | None]:
        return fit_line(columns, 12, 440, "epoch 3/20", VALUES, "1:34 left")[0]

    everything = ["epoch 3/20", None, "12/440", "loss 1.2345", "error 12.34%", "20,123 images/s", "1:34 left"]
    assert shown(120) == everything
    assert shown(79) == [part for part in everything if part != "12/440"]
    assert shown(60) == ["epoch 3/20", None, "loss 1.2345", "error 12.34%", "1:34 left"]
    assert shown(39) == ["epoch 3/20", "loss 1.2345", "1:34 left"]
    assert shown(25) == ["epoch 3/20", "1:34 left"]


def test_a_count_is_not_said_twice() -> None:
    parts, _ = fit_line(120, 1200, 5000, "reading pictures", "1,200/5,000", "0:10 left")
    assert parts == ["reading pictures", None, "1,200/5,000", "0:10 left"]


def test_clock() -> None:
    times = (0.4, 42, 725, 11525, 183600 + 720)
    assert [clock(t) for t in times] == ["0:00", "0:42", "12:05", "3:12:05", "2d 03:12"]


# ---- a terminal ------------------------------------------------------------------------------------------


def test_what_is_said_stands_above_the_bar(screen: Screen, now: list[float]) -> None:
    with Bar(screen) as bar:
        bar.say("hello")
        bar.begin("epoch 1/2", 100)
        now[0] += 5
        bar.step(10, "epoch 1/2", "loss 2.0000")
        bar.say("a note")
        assert screen.lines[:2] == ["hello", "a note"]
        assert screen.lines[2].startswith("epoch 1/2  ━━")
        assert screen.lines[2].endswith("10/100  loss 2.0000  0:45 left")
        assert screen.column == 0
    assert screen.lines == ["hello", "a note", ""]


@pytest.mark.parametrize("columns", [100, 80, 41, 40, 20, 7])
def test_a_terminal_that_becomes_narrower_keeps_no_rest_of_the_line(
    screen: Screen, now: list[float], columns: int
) -> None:
    screen.columns = 120
    with Bar(screen) as bar:
        bar.say("hello")
        bar.begin("epoch 1/2", 100)
        bar.step(10, "epoch 1/2", VALUES)
        now[0] += 1
        bar.step(20, "epoch 1/2", VALUES)
        screen.narrow(columns)
        now[0] += 1
        bar.step(30, "epoch 1/2", VALUES)
        assert len(screen.lines) == 2
        assert screen.lines[1].startswith("epoch 1"[: columns - 1].strip())
    assert screen.lines == ["hello", ""]


def test_only_what_is_shown_is_asked_for(screen: Screen, now: list[float]) -> None:
    asked = []

    def values() -> str:
        asked.append(now[0])
        return VALUES

    with Bar(screen) as bar:
        bar.begin("epoch 1/2", 10_000)
        for step in range(1, 1001):
            now[0] += 0.001
            bar.step(step, "epoch 1/2", values)
    assert 8 <= len(asked) <= 11


def test_no_color(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Bar(screen)._line(1, "a", "", "")
    assert "\x1b[36m" in line
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in Bar(screen)._line(1, "a", "", "")


def test_a_terminal_that_knows_only_ascii(screen: Screen) -> None:
    screen.encoding = "ascii"
    Bar(screen)._line(1, "a", "", "").encode("ascii")


@pytest.mark.parametrize(
    ("term", "tty", "quiet", "kind"),
    [
        ("xterm", True, False, Bar),
        ("dumb", True, False, Reporter),
        ("", True, False, Reporter),
        ("xterm", False, False, Reporter),
        ("xterm", True, True, Silent),
    ],
)
def test_who_reports(
    monkeypatch: pytest.MonkeyPatch, term: str, tty: bool, quiet: bool, kind: type[Reporter]
) -> None:
    screen = Screen()
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(screen, "isatty", lambda: tty)
    assert type(console.reporter(screen, quiet)) is kind


def run_on_a_terminal(columns: int, *arguments: object, stop_after: bytes | None = None) -> tuple[int, str]:
    """Run ``cconvnet`` on a terminal and return its output; send Ctrl-C after `stop_after`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "cconvnet", *map(str, arguments)],
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # so Linux says that the other side has closed the terminal
            break
        if not part:
            break
        shown += part
        if stop_after is not None and stop_after in shown:
            process.send_signal(signal.SIGINT)
            stop_after = None
    os.close(ours)
    return process.wait(timeout=200), shown.decode()


@pytest.mark.parametrize("columns", [80, 40])
def test_ctrl_c_leaves_the_terminal_clean(tmp_path: Path, columns: int) -> None:
    out = tmp_path / "run"
    code, shown = run_on_a_terminal(
        columns, "train", "--device", "cpu:0", "--epochs", 500, "--out", out, stop_after=b"loss "
    )
    assert code == -signal.SIGINT  # a shell says 130
    screen = Screen(columns)
    screen.write(shown)
    text = "".join(screen.lines)
    assert "━" not in text
    assert f"to resume: cconvnet train --resume {out}" in text
    assert "\x1b[?25l" not in shown  # the cursor was never hidden
    drawn = [line for line in re.split(r"[\r\n]", shown) if "epoch 1/500" in line and "left" in line]
    assert drawn
    assert all(len(re.sub(r"\x1b\[\w", "", line)) < columns for line in drawn)


def test_training_goes_on_when_its_terminal_is_gone(tmp_path: Path) -> None:
    """As with nohup, whose programs survive the end of the terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cconvnet", "train", "--device", "cpu:0", "--epochs", "20"]
    process = subprocess.Popen(
        [*command, "--out", tmp_path / "run"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    while b"loss " not in shown:
        shown += os.read(ours, 65536)
    os.close(ours)
    assert process.wait(timeout=200) == 0
    assert read_overview(tmp_path / "run").state == "complete"


# ---- no terminal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["closed pipe", "/dev/full"])
def test_training_goes_on_when_nobody_takes_what_it_says(tmp_path: Path, output: str) -> None:
    if output == "/dev/full":
        theirs = os.open(output, os.O_WRONLY)
    else:
        ours, theirs = os.pipe()
        os.close(ours)
    command = [sys.executable, "-m", "cconvnet", "train", "--device", "cpu:0", "--epochs", "1"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "run"], stdout=theirs, stderr=subprocess.PIPE, check=False, timeout=200
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")
    assert read_overview(tmp_path / "run").state == "complete"


def test_plain_lines_come_every_ten_seconds(now: list[float]) -> None:
    stream = io.StringIO()
    with Reporter(stream) as plain:
        plain.begin("epoch 1/2", 1000)
        for step in range(1, 301):
            now[0] += 0.1
            plain.step(step, "epoch 1/2", VALUES)
    lines = stream.getvalue().splitlines()
    assert len(lines) in (2, 3)  # a tenth of a second is no binary fraction
    assert re.fullmatch(rf"epoch 1/2: {VALUES}  1:(29|30) left", lines[0])


def test_a_resumed_stretch_counts_only_its_own_steps(now: list[float]) -> None:
    stream = io.StringIO()
    plain = Reporter(stream)
    plain.begin("reading pictures", 1000, done=900)
    now[0] += 20
    plain.step(910, "reading pictures")
    assert stream.getvalue() == "reading pictures: 3:00 left\n"


def test_quiet_says_nothing_but_errors(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cconvnet", "train", "--quiet", "--device", "cpu:0", "--steps", "3"]
    done = subprocess.run([*command, "--out", tmp_path / "run"], capture_output=True, check=True, timeout=200)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert (tmp_path / "run" / "summary.json").exists()
    again = subprocess.run(
        [*command, "--out", tmp_path / "run"], capture_output=True, check=False, timeout=200
    )
    assert (again.returncode, again.stdout) == (2, b"")
    assert again.stderr.startswith(b"error: ")


# ---- the time left ---------------------------------------------------------------------------------------


def test_the_time_left_counts_steps_and_tests() -> None:
    pace = Pace(batches_per_test=30)
    assert pace.left(100, 1) is None
    pace.count_step(5.0)  # the first makes ready
    assert pace.left(100, 0) == pytest.approx(500)
    for _ in range(10):
        pace.count_step(0.1)
    assert pace.step_seconds == pytest.approx(0.1)
    assert pace.left(100, 2) == pytest.approx(10 + 2 * 30 * 0.1 / 3)
    pace.count_epoch_end(7.0)
    assert pace.left(100, 2) == pytest.approx(10 + 2 * 7)


def test_the_time_left_follows_a_machine_that_slows_down() -> None:
    pace = Pace(0)
    for _ in range(1000):
        pace.count_step(0.1)
    for _ in range(900):
        pace.count_step(0.2)
    assert pace.step_seconds == pytest.approx(0.2, rel=0.1)


def test_the_time_left_of_a_run_counts_what_is_left(tmp_path: Path) -> None:
    """Count the ends of epochs that remain, also for a run that stops within an epoch."""
    options = Options(devices=["cpu:0"], epochs=3, out=tmp_path / "run")
    trainer = new_run(options, devices_of(["cpu:0"]), Silent(io.StringIO()))
    with trainer.run:
        seen = []
        trainer.pace.left = lambda steps, ends: seen.append((steps, ends))  # type: ignore[method-assign]
        for last, step, epoch in [(66, 0, 0), (66, 22, 0), (66, 22, 1), (66, 66, 3), (30, 25, 1), (10, 0, 0)]:
            trainer.display.last_step, trainer.progress.step, trainer.progress.epoch = last, step, epoch
            trainer.display.seconds_left()
    assert seen == [(66, 3), (44, 3), (44, 2), (0, 0), (5, 1), (10, 1)]


def test_what_a_step_costs_to_report_is_counted() -> None:
    """Between two lines a step costs only a look at the clock."""
    plain = Reporter(io.StringIO())
    plain.begin("a", 10)
    plain._shown_at = time.monotonic() + 1e6

    def fail() -> str:
        raise AssertionError

    plain.step(1, "a", fail, lambda: None)
