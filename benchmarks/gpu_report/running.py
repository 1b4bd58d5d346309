"""Run parts of a report one after the other, each within its time, whatever happens to the others."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOG = "report.log"
# Seconds that a process has to write its results after it was asked to end.
GRACE = 6.0
# Seconds for the summary, after all parts.
LAST = 10.0
# Least seconds of a part that is begun.
LEAST = 3.0
# Bytes of a long log that are kept at its beginning and at its end.
KEPT_BYTES = 4 << 20, 8 << 20


class Absent(Exception):
    """A part cannot run here; the message is the reason."""


class Failed(Exception):
    """A part failed; the message is the reason."""


@dataclass(frozen=True)
class Command:
    """A command that runs as a process.

    Attributes:
        arguments: The program and its arguments.
        environment: Variables added to this process's own.
        log: The file in the report's folder to which its output is appended.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    log: str = LOG


def python(*arguments: str, log: str = LOG, **environment: str) -> Command:
    """Return a command with this Python and the project, which imports nothing from the working directory."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    isolated = [] if arguments[0].endswith(".py") else ["-P"]
    return Command([sys.executable, *isolated, *arguments], {**own, **environment}, log)


@dataclass(frozen=True)
class Part:
    """A part of a report.

    Attributes:
        name: The name by which it is chosen.
        most: Its seconds in a report of the usual length.
        work: Does its work; raises Absent or Failed.
        kept: Seconds that earlier parts leave to it.
        listed: Whether it runs in a report for which no parts are named.
    """

    name: str
    most: float
    work: Callable[[Run], None]
    kept: float = 0.0
    listed: bool = True


@dataclass
class Outcome:
    """The outcome of a part.

    Attributes:
        name: The part's name.
        state: ``waiting``, ``running``, ``ok``, ``failed``, ``over time``, ``interrupted``, ``skipped``, ``no
            time``, or ``absent``: it cannot run here.
        seconds: The time it took.
        limit_seconds: The time it was allowed.
        why: The reason of its state.
        commands: Its commands with their exit statuses and seconds.
    """

    name: str
    state: str = "waiting"
    seconds: float = 0.0
    limit_seconds: float = 0.0
    why: str = ""
    commands: list[dict[str, Any]] = field(default_factory=list)


class Running:
    """A started process, with a process group of its own."""

    def __init__(self, command: Command, folder: Path, clock: Callable[[], float], grace: float) -> None:
        self._clock, self._grace, self._ended = clock, grace, False
        self.record: dict[str, Any] = {"command": list(command.arguments), "exit": None, "seconds": 0.0}
        self._path = folder / command.log
        with self._path.open("a", encoding="utf-8") as log:
            print("\n$", *command.arguments, file=log, flush=True)
            self._begin = self._path.stat().st_size
            self._started = clock()
            self._process = subprocess.Popen(
                command.arguments,
                cwd=ROOT,
                env={**os.environ, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Return its exit status; None while it runs."""
        return self._process.poll()

    def end(self) -> None:
        """End it, if it runs, and all processes that it started.

        First it is asked, which gives it time to write its results; then it is killed.
        """
        process = self._process
        if self._ended:
            return
        self._ended = True
        status = process.poll()
        if status is None:
            _signal_group(process, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._grace)
            with self._path.open("a", encoding="utf-8") as log:
                print("\n(ended: its time is over)", file=log)
        _signal_group(process, signal.SIGKILL)
        process.wait()
        self.record["exit"] = status
        self.record["seconds"] = self._clock() - self._started

    def tail(self, count: int = 30) -> list[str]:
        """Return the last lines of its log since it began; other processes may have written some of them."""
        with self._path.open("rb") as log:
            log.seek(max(self._begin, self._path.stat().st_size - (1 << 16)))
            return log.read().decode(errors="replace").splitlines()[-count:]


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


class Run:
    """The tools with which a part does its work.

    Attributes:
        folder: The report's folder.
        states: The states of the processes that have ended: ``ok``, ``failed`` or ``over time``.
    """

    def __init__(self, report: Report, outcome: Outcome, deadline: float) -> None:
        self._report, self._outcome, self._deadline = report, outcome, deadline
        self.folder = report.folder
        self.states: set[str] = set()

    @property
    def left(self) -> float:
        """Return the part's remaining seconds."""
        return self._deadline - self._report.clock()

    def do(self, command: Command, most: float | None = None, fine: Sequence[int] = ()) -> int | None:
        """Run a process and return its exit status; None if its time was over.

        Args:
            command: The command.
            most: Its seconds at most; None: all that the part has left.
            fine: Statuses, besides 0, that are no failure.
        """
        (status,) = self.at_once([command], most, fine=fine)
        return status

    def at_once(
        self,
        commands: Sequence[Command],
        most: float | None = None,
        again: Callable[[int, int], Command | None] = lambda index, status: None,
        fine: Sequence[int] = (),
    ) -> list[int | None]:
        """Run processes side by side and return their exit statuses.

        Args:
            commands: The commands.
            most: Seconds for all together; None: all that the part has left.
            again: Called with the index and the status of a process that has ended. It may return a command
                to run in its place, whose status counts instead.
            fine: Statuses, besides 0, that are no failure.
        """
        end = self._deadline if most is None else min(self._deadline, self._report.clock() + most)
        started = [self.start(command) for command in commands]
        last = list(started)
        running = dict(enumerate(started))
        try:
            while running and self._report.clock() < end:
                for index, process in list(running.items()):
                    if (status := process.poll()) is None:
                        continue
                    process.end()
                    del running[index]
                    if (next_ := again(index, status)) is not None:
                        running[index] = last[index] = self.start(next_)
                time.sleep(0.05)
        finally:
            for process in last:
                process.end()
        for process in last:
            self._note(process, fine)
        return [process.record["exit"] for process in last]

    def wait(self, process: Running, most: float | None = None) -> int | None:
        """Wait for a started process as `do` does."""
        end = self._deadline if most is None else min(self._deadline, self._report.clock() + most)
        while process.poll() is None and self._report.clock() < end:
            time.sleep(0.05)
        process.end()
        self._note(process, ())
        status: int | None = process.record["exit"]
        return status

    def start(self, command: Command) -> Running:
        """Start a process and do not wait. Whoever starts it ends it, at the latest the report."""
        process = Running(command, self.folder, self._report.clock, self._report.grace)
        self._report.started.append(process)
        self._outcome.commands.append(process.record)
        return process

    def _note(self, process: Running, fine: Sequence[int]) -> None:
        status = process.record["exit"]
        if status in fine:
            status = 0
        self.states.add({0: "ok", None: "over time"}.get(status, "failed"))
        if status:
            print(*(f"  | {line}" for line in process.tail()), sep="\n", flush=True)

    def say(self, text: str) -> None:
        """Print a line, and append it to the log."""
        print(f"  {text}", flush=True)
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            print(text, file=log)

    def keep(self, path: Path, name: str, **more: Any) -> bool:
        """Append a command's result to a file of lines, and remove the result's own file.

        Args:
            path: The result's file: one JSON value, or JSON lines.
            name: The file of lines in the report's folder.
            more: Added to each line.

        Returns:
            Whether there was any result.
        """
        found = read_values(path)
        with (self.folder / name).open("a", encoding="utf-8") as file:
            for value in found:
                file.write(json.dumps({**more, **value} if isinstance(value, dict) else value) + "\n")
        path.unlink(missing_ok=True)
        return bool(found)


class Report:
    """Run parts one after the other and write their results into a folder.

    Args:
        folder: The report's folder.
        parts: All parts.
        seconds: Seconds for all parts together.
        clock: Returns seconds that only grow.
        summarize: Writes the summary of the folder; called after each part and at the end.
        grace: Seconds for a process to end when it is asked.
    """

    def __init__(
        self,
        folder: Path,
        parts: Sequence[Part],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        grace: float = GRACE,
        summarize: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        self.folder, self.clock, self.grace = folder.resolve(), clock, grace
        self._parts, self._seconds, self._summarize = parts, seconds, summarize
        self.outcomes = [Outcome(part.name) for part in parts]
        self.started: list[Running] = []
        self._begin = clock()

    def run(self, names: Sequence[str]) -> bool:
        """Run the parts called `names`, whatever happens to others; return whether all of them are ok.

        After KeyboardInterrupt the folder contains all results so far.
        """
        chosen = [part for part in self._parts if part.name in names]
        for outcome in self.outcomes:
            outcome.state = "waiting" if outcome.name in names else "skipped"
        limits = Limits(self._seconds, chosen)
        try:
            for part, outcome in zip(self._parts, self.outcomes, strict=True):
                if part in chosen:
                    left = self._seconds - (self.clock() - self._begin)
                    self._run(part, outcome, limits.of(part, left))
        finally:
            for process in self.started:
                process.end()
            for path in self.folder.glob("*.log"):
                shorten(path)
            self._write()
        return all(outcome.state in ("ok", "skipped", "absent") for outcome in self.outcomes)

    def _run(self, part: Part, outcome: Outcome, limit: float) -> None:
        outcome.limit_seconds = limit
        if limit < LEAST:
            outcome.state = "no time"
            self._write()
            return
        outcome.state = "running"
        self._write()
        print(f"{part.name} (at most {limit:.0f} s) ...", flush=True)
        started = self.clock()
        run = Run(self, outcome, started + limit)
        try:
            part.work(run)
            outcome.state = next((s for s in ("failed", "over time") if s in run.states), "ok")
        except Absent as error:
            outcome.state, outcome.why = "absent", str(error)
        except Failed as error:
            outcome.state, outcome.why = "failed", str(error)
        except KeyboardInterrupt:
            outcome.state = "interrupted"
            raise
        except Exception as error:
            outcome.state, outcome.why = "failed", f"{type(error).__name__}: {error}"
        finally:
            outcome.seconds = self.clock() - started
            print(f"{part.name}: {outcome.state}, {outcome.seconds:.0f} s {outcome.why}", flush=True)
            self._write()

    def _write(self) -> None:
        """Write the state of all parts, and the summary, whose failure must not stop the next part."""
        path = self.folder / "summary.json"
        kept = read_json(path) or {}
        parts = [asdict(outcome) for outcome in self.outcomes]
        write_json(path, kept | {"seconds": self.clock() - self._begin, "parts": parts})
        try:
            self._summarize(self.folder)
        except Exception as error:
            print(f"the summary could not be written: {type(error).__name__}: {error}", flush=True)

    def table(self) -> str:
        """Return the parts' states as a table for people."""
        lines = []
        for outcome in self.outcomes:
            bad = sum(command["exit"] != 0 for command in outcome.commands)
            what = f"{bad} of {len(outcome.commands)} commands" if bad else ""
            lines.append(
                f"{outcome.name:12} {outcome.state:11} {outcome.seconds:5.0f} s  {what} {outcome.why}"
            )
        return "\n".join(line.rstrip() for line in lines)


class Limits:
    """Time limits of parts.

    A part has its own time, and more of it if few parts were chosen. It never has the time that is kept for
    later parts or for the summary.
    """

    def __init__(self, seconds: float, parts: Sequence[Part]) -> None:
        self._parts = list(parts)
        self._scale = max(1.0, (seconds - LAST) / max(sum(part.most for part in parts), 1e-9))
        kept = sum(part.kept for part in parts)
        self._kept = min(1.0, 0.6 * (seconds - LAST) / kept) if kept else 1.0

    def of(self, part: Part, left: float) -> float:
        """Return the seconds for a part, of those that are left."""
        later = self._parts[self._parts.index(part) + 1 :]
        kept = self._kept * sum(other.kept for other in later)
        return min(self._scale * part.most, left - LAST - kept)


# ---- files ----------------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """Return the value in a JSON file; None if it is missing or was cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_values(path: Path) -> list[Any]:
    """Return the value in a JSON file, or the values of its complete lines."""
    if (value := read_json(path)) is not None:
        return [value]
    found = []
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def shorten(path: Path, kept: tuple[int, int] = KEPT_BYTES) -> None:
    """Remove the middle of a long file."""
    if path.stat().st_size <= sum(kept):
        return
    content = path.read_bytes()
    middle = f"\n... {len(content) - sum(kept):,} bytes left out ...\n".encode()
    path.write_bytes(content[: kept[0]] + middle + content[-kept[1] :])
