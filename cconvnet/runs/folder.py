"""The folder of a run in training: its lock, state, log and configuration."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from cconvnet.runs.checkpoint import Folder
from cconvnet.runs.reading import RunError, read_config
from cconvnet.system import outputs
from cconvnet.system.locks import try_lock

# A file, because over NFS all machines see the lock of a file that is open for writing (flock(2), "NFS
# details"). Only the machine that took it sees the lock of a folder (Linux, fs/nfs/dir.c: folders have no
# flock of their own).
LOCK = "lock"
# Files that a killed process may leave.
_UNFINISHED = [
    outputs.side_file(Path(name)).name
    for name in ("config.json", "summary.json", "state.json", "log.jsonl", "curve.png")
]


def new_folder(net: str, data: str) -> Path:
    """Make a folder under ``runs/`` in the working folder, named after network, data, date and time.

    Runs that begin in the same second get different folders.

    Raises:
        OSError: The folder cannot be made.
    """
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", f"{net}-{data}").strip("-")
    base = Path("runs") / f"{plain}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, count = base, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            count += 1
            path = base.with_name(f"{base.name}-{count}")


def check_new(path: Path) -> None:
    """Refuse a folder in which no new run can begin.

    Raises:
        RunError: The folder exists and is not empty.
        OSError: It cannot be made or written into.
    """
    if path.is_dir() and any(file.name not in (LOCK, *_UNFINISHED) for file in path.iterdir()):
        if (path / "config.json").exists():
            raise RunError(
                f"{path} contains a run already; resume it with --resume {path}, or choose another --out"
            )
        raise RunError(f"{path} is not empty; choose another --out")
    outputs.check_folder(path)


class Listener(Protocol):
    """Another writer of a run's log, such as TensorBoard's event file."""

    def log(self, line: dict[str, Any]) -> None:
        """Write a line of the log."""

    def close(self) -> None:
        """End the writing."""


class Run:
    """The folder of a run, locked for one process, so that two cannot write into it.

    Within its context ``state.json`` is "training"; at the end it becomes "complete", "stopped" or "failed".

    Attributes:
        path: The folder.
        config: The content of ``config.json``.
        config_before: Its content when the run was opened.
        checkpoints: The run's checkpoints.
        listeners: Other writers of the log.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self.config_before = config
        self.checkpoints = Folder(path / "checkpoints")
        self._lock = _lock(path)
        self._log: Any = None
        self.listeners: list[Listener] = []
        self._complete = False

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> Run:
        """Make the folder of a new run and write its configuration.

        Raises:
            RunError: The folder exists and is not empty.
            OSError: It cannot be written.
        """
        check_new(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, config)
        try:
            run.write_config(config)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open a run to resume it.

        Raises:
            RunError: The folder contains no run, or another process is training in it.
        """
        return cls(path, read_config(path))

    def __enter__(self) -> Run:
        self.checkpoints.path.mkdir(exist_ok=True)
        self.checkpoints.clean()
        for name in _UNFINISHED:
            (self.path / name).unlink(missing_ok=True)
        try:
            self._write_state("training")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk has been reported by then
            if error is None or isinstance(error, KeyboardInterrupt):
                self._write_state("complete" if self._complete else "stopped")
            else:
                self._write_state("failed", str(error) or type(error).__name__)
        self.close()

    def _write_state(self, state: str, reason: str | None = None) -> None:
        """Write ``state.json``; "training" in a folder that is not locked means that training was killed."""
        outputs.write_json(
            self.path / "state.json", {"state": state, "reason": reason, "time": round(time.time(), 3)}
        )

    def close(self) -> None:
        """Close the log and release the lock."""
        if self._log is not None:
            # On a full disk closing fails too; that has been reported by then.
            with contextlib.suppress(OSError):
                self._log.close()
        for listener in self.listeners:
            listener.close()
        os.close(self._lock)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write ``config.json``."""
        outputs.write_json(self.path / "config.json", config)
        self.config = config

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        outputs.write_json(self.path / "summary.json", summary)
        self._complete = bool(summary["complete"])

    def rewind_log(self, step: int, epoch: int, aside: Path | None = None) -> int:
        """Drop the lines of steps after `step`, of epochs after `epoch`, and unreadable ones; open the log.

        Args:
            step: The step from which the run is resumed.
            epoch: The number of epochs done by then.
            aside: A folder that keeps the dropped lines; it is made if need be.

        Returns:
            The number of lines that were dropped, without a last one that a kill cut short.

        Raises:
            OSError: The log cannot be written.
        """
        path = self.path / "log.jsonl"

        def lines(kept: bool) -> Iterator[bytes]:  # one at a time, as there may be a million
            with contextlib.suppress(FileNotFoundError), path.open("rb") as log:
                for text in log:
                    if _is_within(text, step, epoch) == kept and (kept or not _is_cut_short(text)):
                        yield text.rstrip(b"\n") + b"\n"

        dropped = sum(1 for _ in lines(False))
        if dropped and aside is not None:
            aside.mkdir(exist_ok=True)
            outputs.write_output(aside / path.name, lines(False))
        outputs.write_output(path, lines(True))
        self._log = path.open("a", encoding="utf-8")
        return dropped

    def set_aside(self, files: list[Path], aside: Path, config: dict[str, Any]) -> None:
        """Move checkpoints into a folder, with the summary and the configuration that belong to them.

        Args:
            files: The checkpoints.
            aside: The folder; it is made if need be.
            config: The configuration under which they were saved.

        Raises:
            OSError: The folder or a file in it cannot be written.
        """
        aside.mkdir(exist_ok=True)
        outputs.write_json(aside / "config.json", config)
        summary = self.path / "summary.json"
        if summary.is_file():
            outputs.write_output(aside / summary.name, [summary.read_bytes()])
        for file in reversed(files):
            file.rename(aside / file.name)

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to the log.

        Raises:
            OSError: The log cannot be written; the error names it.
        """
        try:
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._log.name) from error
        for listener in self.listeners:
            listener.log(line)


def _is_within(text: bytes, step: int, epoch: int) -> bool:
    """Return True if a line of a log is readable and of no later step or epoch."""
    try:
        line = json.loads(text)
        return bool(line["step"] <= step and ("test_loss" not in line or line["epoch"] <= epoch))
    except (ValueError, TypeError, KeyError):
        return False


def _is_cut_short(text: bytes) -> bool:
    """Return True if a line was cut short by a kill."""
    if text.endswith(b"\n"):
        return False
    try:
        json.loads(text)
    except ValueError:
        return True
    return False


def _lock(path: Path) -> int:
    """Take the lock of a run; the system releases it when the process ends, however that happens.

    Returns:
        The descriptor that holds the lock.

    Raises:
        RunError: Another process holds it.
    """
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    for _ in range(10):
        if try_lock(descriptor):
            return descriptor
        time.sleep(0.02)  # perhaps in_use() of another process holds it for a moment
    os.close(descriptor)
    raise RunError(f"another process is training in {path}")


def in_use(path: Path) -> bool:
    """Return True if a process is training in a run's folder.

    Raises:
        OSError: Its lock cannot be opened.
    """
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor, exclusive=False)
    finally:
        os.close(descriptor)
