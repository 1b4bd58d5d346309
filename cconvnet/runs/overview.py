"""One-line summary of a run: progress, best error, speed and state."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from cconvnet.runs.folder import in_use
from cconvnet.runs.reading import RunError, data_name, read_config, read_log

# The states of a run, in the order in which a user most wants to see them.
STATES = ("training", "failed", "damaged", "killed", "stopped", "complete")
SORTS = ("when", "name", "net", "error", "speed", "state")
# A folder that contains one of these was a run, whatever else is missing.
_TRACES = ("config.json", "log.jsonl", "checkpoints")
# Bytes of a log. Of a longer one a part is enough, as a folder may contain hundreds of runs.
_MOST_OF_LOG = 2**17
# The exceptions that the reading of a damaged file may raise.
_DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError)


@dataclasses.dataclass(frozen=True)
class Overview:
    """The summary of a run; values that its files lack are None.

    Attributes:
        state: One of STATES. "killed" is a run that no process trains and that could not record its end.
        reason: Why it failed, or what is damaged.
        epochs: The number of epochs done.
        of_epochs: The number of epochs in all.
        best_error: The lowest top-1 error of a test, from 0 to 1.
        best_epoch: The epoch of that test.
        last_error: The top-1 error of the last test.
        images_per_second: The median of the log's lines; the mean of a run too short for one.
        seconds: Of training, without tests and saving.
        when: When its log was last written, in seconds since 1970.
    """

    path: Path
    state: str
    reason: str | None = None
    net: str | None = None
    data: str | None = None
    device: str | None = None
    precision: str | None = None
    parameters: int | None = None
    epochs: int | None = None
    of_epochs: int | None = None
    steps: int | None = None
    best_error: float | None = None
    best_epoch: int | None = None
    last_error: float | None = None
    images_per_second: float | None = None
    seconds: float | None = None
    when: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return {**dataclasses.asdict(self), "path": str(self.path), "name": self.path.name}


def read_overview(path: Path) -> Overview:
    """Return the summary of the run in a folder. No run, or a damaged one, is "damaged"."""
    try:
        return _sound(path)
    except _DAMAGE as error:
        reason = str(error) if isinstance(error, RunError) else f"its files are damaged: {error!r}"
        return Overview(path, "damaged", reason, when=_written(path))


def _sound(path: Path) -> Overview:
    config = read_config(path)
    settings = config["settings"]
    lines = read_log(path, _MOST_OF_LOG)
    steps = [line for line in lines if "loss" in line]
    epochs = [line for line in lines if "test_loss" in line]
    best = min(epochs, key=lambda line: float(line["test_error_top1"]), default=None)
    rates = [float(line["images_per_second"]) for line in steps]
    state, reason = _state(path)
    summary = read_json(path / "summary.json")
    return Overview(
        path,
        state,
        reason,
        net=settings["net"],
        data=data_name(settings["data"]),
        device=config["device"],
        precision=settings["precision"],
        parameters=config["parameters"],
        epochs=int(epochs[-1]["epoch"]) if epochs else 0,
        of_epochs=int(settings["epochs"]),
        steps=max((int(line["step"]) for line in lines), default=0),
        best_error=None if best is None else float(best["test_error_top1"]),
        best_epoch=None if best is None else int(best["epoch"]),
        last_error=float(epochs[-1]["test_error_top1"]) if epochs else None,
        images_per_second=statistics.median(rates) if rates else summary.get("images_per_second"),
        seconds=_seconds(path, steps, int(settings["batch"])),
        when=_written(path),
    )


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file of a run; the values are empty if there is none.

    Raises:
        RunError: The file is damaged.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise RunError(f"{file} is damaged: it should be an object")
    return found


def _state(path: Path) -> tuple[str, str | None]:
    if in_use(path):
        return "training", None
    found = read_json(path / "state.json")
    match found.get("state"):
        case "training":
            return "killed", None
        case "complete" | "stopped" | "failed" as ended:
            return ended, found.get("reason")
        case None:  # written before runs had a state
            summary = read_json(path / "summary.json")
            return ("complete" if summary["complete"] else "stopped") if summary else "killed", None
        case other:
            raise RunError(f"{path / 'state.json'} is damaged: there is no state {other!r}")


def _seconds(path: Path, steps: list[dict[str, Any]], batch: int) -> float | None:
    """Return the seconds of training: from the summary if it is newer than the log, else from the log."""
    summary = read_json(path / "summary.json")
    if summary and (not steps or summary["steps"] >= steps[-1]["step"]):
        return float(summary["seconds"])
    seconds, before = 0.0, 0
    for line in steps:
        if line["images_per_second"] > 0:
            seconds += (line["step"] - before) * batch / line["images_per_second"]
        before = line["step"]
    return round(seconds, 3) if steps else None


def _written(path: Path) -> float | None:
    for file in (path / "log.jsonl", path / "config.json", path):
        try:
            return file.stat().st_mtime
        except OSError:
            continue
    return None


def overviews(folder: Path, sort: str = "when") -> list[Overview]:
    """Return the summaries of the runs in a folder, or of the run that it is itself.

    Args:
        folder: The folder.
        sort: One of SORTS. "when" puts the one written last first, "error" the best, "speed" the fastest, and
            "state" those that train; "name" and "net" sort alphabetically.

    Raises:
        RunError: There is no such folder.
    """
    found = sorted(
        (read_overview(path) for path in runs_in(folder)), key=lambda run: (-(run.when or 0.0), run.path.name)
    )
    keys: dict[str, Any] = {
        "when": lambda run: 0,
        "name": lambda run: run.path.name,
        "net": lambda run: run.net or "~",
        "error": lambda run: 2.0 if run.best_error is None else run.best_error,
        "speed": lambda run: -(run.images_per_second or 0.0),
        "state": lambda run: STATES.index(run.state),
    }
    return sorted(found, key=keys[sort])


def runs_in(folder: Path) -> list[Path]:
    """Return the runs in a folder by name, or the folder if it is one itself.

    Raises:
        RunError: There is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}; runs are in runs/, unless --out named another folder")
    return [folder] if _is_run(folder) else sorted(path for path in folder.iterdir() if _is_run(path))


def _is_run(path: Path) -> bool:
    return any((path / trace).exists() for trace in _TRACES)
