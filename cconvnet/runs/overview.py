"""What there is to say of a run in a line: how far it is, how good, how fast, and what became of it."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from cconvnet import runs
from cconvnet.runs import RunError

# What a run can be, the first being what most wants to be seen.
STATES = ("training", "failed", "damaged", "killed", "stopped", "complete")
SORTS = ("when", "name", "net", "error", "speed", "state")
# A folder that holds one of these was a run, whatever else is missing.
_TRACES = ("config.json", "log.jsonl", "checkpoints")
# Of a longer log a part tells enough: a folder may hold hundreds of runs.
_MOST_OF_LOG = 2**17
# What a file that no longer holds what was written into it leads to.
_DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError)


@dataclasses.dataclass(frozen=True)
class Overview:
    """A run; what its files do not tell is None.

    Attributes
        state: one of STATES; "killed" is a run that nobody trains and that had no time to say how it ended.
        reason: why it failed, or what is damaged.
        epochs, of_epochs: done, and to do in all.
        best_error, best_epoch, last_error: the test's top-1 error, as a share.
        images_per_second: the median of the log's lines.
        seconds: of training, tests and saving not counted.
        when: when its log was last written, in seconds since 1970.
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
        """As JSON values."""
        return {**dataclasses.asdict(self), "path": str(self.path), "name": self.path.name}


def look(path: Path) -> Overview:
    """The run in a folder. A folder that holds no run, or a damaged one, is "damaged"."""
    try:
        return _sound(path)
    except _DAMAGE as error:
        reason = str(error) if isinstance(error, RunError) else f"its files are damaged: {error!r}"
        return Overview(path, "damaged", reason, when=_written(path))


def _sound(path: Path) -> Overview:
    config = runs.read_config(path)
    settings = config["settings"]
    lines = runs.read_log(path, _MOST_OF_LOG)
    steps = [line for line in lines if "loss" in line]
    epochs = [line for line in lines if "test_loss" in line]
    best = min(epochs, key=lambda line: float(line["test_error_top1"]), default=None)
    rates = [float(line["images_per_second"]) for line in steps]
    state, reason = _state(path)
    return Overview(
        path,
        state,
        reason,
        net=settings["net"],
        data=runs.data_name(settings["data"]),
        device=config["device"],
        precision=settings["precision"],
        parameters=config["parameters"],
        epochs=int(epochs[-1]["epoch"]) if epochs else 0,
        of_epochs=int(settings["epochs"]),
        steps=max((int(line["step"]) for line in lines), default=0),
        best_error=None if best is None else float(best["test_error_top1"]),
        best_epoch=None if best is None else int(best["epoch"]),
        last_error=float(epochs[-1]["test_error_top1"]) if epochs else None,
        images_per_second=statistics.median(rates) if rates else None,
        seconds=_seconds(path, steps, int(settings["batch"])),
        when=_written(path),
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file of a run; empty where there is none."""
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
    if runs.in_use(path):
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
    """From the summary if it is of the run's end, else from what the log's lines say of their steps."""
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
    """The runs in a folder, or the run that it is itself.

    Args
        sort: one of SORTS: "when": the one written last first; "error": the best first; "speed": the fastest
            first; "state": those that train first; "name", "net": as the alphabet goes.

    Raises
        RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}; runs lie in runs/, unless --out said otherwise")
    paths = [folder] if _is_run(folder) else [path for path in folder.iterdir() if _is_run(path)]
    found = sorted((look(path) for path in paths), key=lambda run: (-(run.when or 0.0), run.path.name))
    keys: dict[str, Any] = {
        "when": lambda run: 0,
        "name": lambda run: run.path.name,
        "net": lambda run: run.net or "~",
        "error": lambda run: 2.0 if run.best_error is None else run.best_error,
        "speed": lambda run: -(run.images_per_second or 0.0),
        "state": lambda run: STATES.index(run.state),
    }
    return sorted(found, key=keys[sort])


def _is_run(path: Path) -> bool:
    return any((path / trace).exists() for trace in _TRACES)
