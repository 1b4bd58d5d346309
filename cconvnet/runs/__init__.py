"""A run: the folder that holds all of one training.

config.json       settings, network and device, and what software and machine it was begun with
data.json         the data: what was found, used, left out and why; the pictures found unreadable
log.jsonl         a line per logged step and one per epoch
checkpoints/      the last two checkpoints and the best one; in set-aside-N/ what training went back before
summary.json      the results, written when training stops
state.json        whether it trains, or how that ended
lock              empty; whoever trains in the folder holds it
tensorboard/      the log for TensorBoard, with --tensorboard
curve.png         the training curve, where matplotlib is installed
"""

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

from cconvnet.runs import checkpoint
from cconvnet.runs.checkpoint import Checkpoint, CheckpointError, Folder
from cconvnet.system import outputs
from cconvnet.system.locks import locked

# NFS keeps the lock of a file that is open for writing for all machines (flock(2), "NFS details"), that of a
# folder only for the machine that locked it (Linux, fs/nfs/dir.c: folders have no flock of their own).
_LOCK = "lock"
# What a killed process may leave.
_HALF_WRITTEN = [
    outputs.side_file(Path(name)).name
    for name in ("config.json", "summary.json", "state.json", "log.jsonl", "curve.png")
]

# What a configuration says of the machine that the run was begun on, beside "versions".
MACHINE = ("commit", "module", "chip", "cores", "host", "system")


class RunError(ValueError):
    """A run's folder cannot be used; the text names it and says what to do."""


def new_folder(net: str, data: str) -> Path:
    """Makes a folder under ``runs/`` in the working folder, named by network, data, date and time.

    Runs that begin in the same second get one each. Raises OSError: it cannot be made.
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
    """Refuse a folder that no new run can be begun in.

    Raises
        RunError: the folder exists and holds something.
        OSError: it cannot be made or written into.
    """
    if path.is_dir() and any(file.name not in (_LOCK, *_HALF_WRITTEN) for file in path.iterdir()):
        if (path / "config.json").exists():
            raise RunError(
                f"{path} holds a run already; continue it with --resume {path}, or choose another --out"
            )
        raise RunError(f"{path} is not empty; choose another --out")
    outputs.check_folder(path)


def data_name(data: str | None) -> str:
    """What to call a run's data in a title."""
    return "digits" if data is None else Path(data).name or data


class Listener(Protocol):
    """Writes down what a run logs in a way of its own."""

    def log(self, line: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Run:
    """One run's folder, open for training: it is locked, so that two processes cannot write into one run."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self.config_before = config  # as it was when the run was opened
        self.checkpoints = Folder(path / "checkpoints")
        self._lock = _lock(path)
        self._log: Any = None
        self.listeners: list[Listener] = []
        self._complete = False

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> Run:
        """Makes the folder and writes its configuration.

        Raises
            RunError: the folder exists and holds something.
            OSError: it cannot be written.
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
        """Opens a run to continue it.

        Raises
            RunError: the folder holds no run, or another process is training in it.
        """
        return cls(path, read_config(path))

    def __enter__(self) -> Run:
        self.checkpoints.path.mkdir(exist_ok=True)
        self.checkpoints.clean()
        for name in _HALF_WRITTEN:
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
        with contextlib.suppress(OSError):  # a full disk has been said by then
            if error is None or isinstance(error, KeyboardInterrupt):
                self._write_state("complete" if self._complete else "stopped")
            else:
                self._write_state("failed", str(error) or type(error).__name__)
        self.close()

    def _write_state(self, state: str, reason: str | None = None) -> None:
        """Whoever finds "training" in a folder that is not locked knows that training was killed."""
        outputs.write_json(
            self.path / "state.json", {"state": state, "reason": reason, "time": round(time.time(), 3)}
        )

    def close(self) -> None:
        """Lets another process have the run."""
        if self._log is not None:
            # On a full disk closing fails too; what matters has been said by then.
            with contextlib.suppress(OSError):
                self._log.close()
        for listener in self.listeners:
            listener.close()
        os.close(self._lock)

    def write_config(self, config: dict[str, Any]) -> None:
        outputs.write_json(self.path / "config.json", config)
        self.config = config

    def write_summary(self, summary: dict[str, Any]) -> None:
        outputs.write_json(self.path / "summary.json", summary)
        self._complete = bool(summary["complete"])

    def rewind_log(self, step: int, epoch: int, aside: Path | None = None) -> int:
        """Drops the lines after `step`, those of epochs after `epoch`, and those that are unreadable.

        Args
            aside: a folder that what is dropped is kept in; it is made if need be.

        Returns
            how many lines were dropped, beside a last one that a kill cut short.
        """
        path = self.path / "log.jsonl"

        def lines(kept: bool) -> Iterator[bytes]:  # of a million lines one at a time
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
        """Moves checkpoints into a folder, with the summary and the configuration of the time before.

        Raises OSError: the folder or a file in it cannot be written.
        """
        aside.mkdir(exist_ok=True)
        outputs.write_json(aside / "config.json", config)
        summary = self.path / "summary.json"
        if summary.is_file():
            outputs.write_output(aside / summary.name, [summary.read_bytes()])
        for file in reversed(files):
            file.rename(aside / file.name)

    def log(self, line: dict[str, Any]) -> None:
        """Appends a line to the log.

        Raises OSError, which names the log: it cannot be written.
        """
        try:
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._log.name) from error
        for listener in self.listeners:
            listener.log(line)


def _is_within(text: bytes, step: int, epoch: int) -> bool:
    """True if a line of a log is readable and of no later step or epoch."""
    try:
        line = json.loads(text)
        return bool(line["step"] <= step and ("test_loss" not in line or line["epoch"] <= epoch))
    except (ValueError, TypeError, KeyError):
        return False


def _is_cut_short(text: bytes) -> bool:
    """True if a line is the rest of one that a kill cut short."""
    if text.endswith(b"\n"):
        return False
    try:
        json.loads(text)
    except ValueError:
        return True
    return False


def _lock(path: Path) -> int:
    """An open descriptor that no other process holds; the system frees it whatever happens."""
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    for _ in range(10):
        if locked(descriptor):
            return descriptor
        time.sleep(0.02)  # Perhaps somebody only looks whether it is locked.
    os.close(descriptor)
    raise RunError(f"another process is training in {path}")


def in_use(path: Path) -> bool:
    """Whether a process is training in a run's folder. Raises OSError: its lock cannot be opened."""
    try:
        descriptor = os.open(path / _LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not locked(descriptor, alone=False)
    finally:
        os.close(descriptor)


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of the run in a folder.

    Raises
        RunError: the folder holds no readable configuration.
    """
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} is not a run: {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
        raise RunError(f"{file} is not the configuration of a run: it has no settings")
    return config


def surroundings(config: dict[str, Any]) -> dict[str, str]:
    """The machine and the versions of programs that a run was begun with, by name; where it went on with
    others, from which step on."""
    found: dict[str, str] = {}
    before: dict[str, str] = {}
    for session in (config, *config.get("resumed", [])):
        now = {name: str(session[name]) for name in MACHINE if name in session}
        now |= {f"version of {name}": str(text) for name, text in session.get("versions", {}).items()}
        for name in dict.fromkeys([*before, *now]):
            text = now.get(name, "none")
            if session is config:
                found[name] = text
            elif text != before.get(name, "none"):
                found[name] = f"{found.get(name, 'none')}, from step {session['step']:,} on {text}"
        before = now
    return found


def arithmetic(config: dict[str, Any], step: int | None = None) -> str:
    """The kind of device and the software that decide the bits of a run's last session.

    The number of CPU threads is no part of it: results do not depend on it.

    Args
        step: of the last session that began before this step.
    """
    sessions = [one for one in config.get("resumed", []) if step is None or one["step"] < step]
    module = str((sessions[-1] if sessions else config).get("module", "another device"))
    return re.sub(r", \d+ threads?\b.*| \(not a GPU: .*", "", module)


def read_log(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """The lines of a run's log; a last line that a kill cut short is left out.

    Args
        most: of a log of more bytes, about so many: every epoch's line, the last line, and of the others each
            second, third, ..., evenly.
    """
    lines: list[dict[str, Any]] = []
    left_out = b""
    with contextlib.suppress(FileNotFoundError), (path / "log.jsonl").open("rb") as log:
        every = 1 if most is None else 1 + os.fstat(log.fileno()).st_size // most
        for number, text in enumerate(log):
            if number % every and b'"test_loss"' not in text:
                left_out = text if text.endswith(b"\n") else left_out
                continue
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
            left_out = b""
    with contextlib.suppress(ValueError):
        lines += [json.loads(left_out)]
    return lines


def unfinished(folder: Path) -> Path:
    """The run in `folder` that was trained last, of those that have not done all their epochs.

    Raises
        RunError: there is none.
    """
    found = []
    for config in folder.glob("*/config.json"):
        path = config.parent
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            epochs = read_config(path)["settings"]["epochs"]
            summary = path / "summary.json"
            if summary.exists():
                done = json.loads(summary.read_text(encoding="utf-8"))
                # One that was told to go on for longer is finished no more.
                if done["complete"] and done["epochs"] >= epochs:
                    continue
            log = path / "log.jsonl"
            found.append(((log if log.exists() else config).stat().st_mtime, path))
    if not found:
        raise RunError(
            f"{folder}/ holds no run to go on with; --resume RUN names one, --out FOLDER begins one"
        )
    return max(found)[1]


def folder_of(path: Path) -> Path:
    """The run's folder, given it, one of its checkpoints, set aside or not, or a folder of them."""
    if path.is_file() or path.suffix == checkpoint.SUFFIX:
        path = path.parent
    if checkpoint.is_aside(path):
        path = path.parent
    return path.parent if path.name == "checkpoints" else path


def find_checkpoint(path: Path, best: bool = False) -> tuple[Path, Checkpoint, list[str]]:
    """The checkpoint a user means by a run's folder (its newest sound one, or its best) or by a file.

    Returns
        Its file, its content, and a line for each newer one that is damaged and was skipped.

    Raises
        CheckpointError: there is none, or it is damaged.
    """
    if path.is_file() or path.suffix == checkpoint.SUFFIX:
        return path, checkpoint.load_offering_previous(path), []
    if not path.exists():
        raise RunError(f"there is no run {path}")
    folder = Folder(folder_of(path) / "checkpoints")
    file, content, skipped = folder.newest()
    if file is None or content is None:
        what = f"; {skipped[0]}" if skipped else ""
        raise CheckpointError(f"{path} holds no sound checkpoint{what}")
    if best and content.progress.get("best") is not None:
        file = folder.file(content.progress["best"]["step"])
        content = checkpoint.load(file)
    return file, content, skipped
