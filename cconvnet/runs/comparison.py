"""Differences between runs: in their settings, in their networks and in their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cconvnet import nets
from cconvnet.data.preprocessing import UNRECORDED
from cconvnet.nets import compare as compare_specs
from cconvnet.runs.overview import Overview, read_overview
from cconvnet.runs.reading import RunError, read_config, read_log, settings_of, surroundings

_ERROR = "test_error_top1"


def compare(paths: Sequence[Path]) -> dict[str, Any]:
    """Compare two or more runs, as JSON values.

    Returns:
        "runs", their folders; "settings", by name, the values for each run where they differ; "networks", for
        each run after the first, rows of layer, attribute, the first run's value and its own; "results", by
        name, a value for each run, None where its files lack it; "better", the run whose test error stays the
        lowest and the epoch from which on it is, None if there is none. Only epochs count that all runs have
        tested.

    Raises:
        RunError: One of them cannot be read.
    """
    if len(paths) < 2:
        raise RunError("two runs or more are compared")
    configs = [read_config(path) for path in paths]
    overviews = [read_overview(path) for path in paths]
    for run in overviews:
        if run.state == "damaged":
            raise RunError(f"{run.path}: {run.reason}")
    logs = [_epochs(path) for path in paths]
    specs = [nets.spec_from_dict(config["spec"]) for config in configs]
    return {
        "runs": [str(path) for path in paths],
        "settings": _settings(configs),
        "networks": [compare_specs(specs[0], spec) for spec in specs[1:]],
        "results": _results(overviews, logs),
        "better": _better(paths, logs),
    }


def _epochs(path: Path) -> dict[int, dict[str, Any]]:
    """Return the lines of a run's log that contain tests, by epoch."""
    lines = read_log(path, most=1)  # of other lines as few as possible
    return {int(line["epoch"]): line for line in lines if "test_loss" in line}


def _settings(configs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    settings = [
        {
            "preprocessing": UNRECORDED.record(),
            **settings_of(config),
            "device": config["device"],
            **surroundings(config),
        }
        for config in configs
    ]
    names = dict.fromkeys(name for values in settings for name in values)
    rows = {name: [values.get(name) for values in settings] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def _results(
    overviews: Sequence[Overview], logs: Sequence[dict[int, dict[str, Any]]]
) -> dict[str, list[Any]]:
    last = [epochs[max(epochs)] if epochs else {} for epochs in logs]
    found: dict[str, list[Any]] = {
        name: [getattr(run, name) for run in overviews]
        for name in ("state", "epochs", "steps", "best_error", "best_epoch", "last_error")
    }
    for name in ("test_error_top5", "test_loss", "train_error_top1", "train_loss"):
        found[name] = [line.get(name) for line in last]
    for name in ("images_per_second", "seconds", "parameters"):
        found[name] = [getattr(run, name) for run in overviews]
    return found


def _better(paths: Sequence[Path], logs: Sequence[dict[int, dict[str, Any]]]) -> dict[str, Any] | None:
    common = sorted(set.intersection(*(set(epochs) for epochs in logs)))
    if not common:
        return None

    def leader(epoch: int) -> int | None:
        errors = [epochs[epoch][_ERROR] for epochs in logs]
        least = min(errors)
        return errors.index(least) if errors.count(least) == 1 else None

    best = leader(common[-1])
    if best is None:
        return None
    since = common[-1]
    for epoch in reversed(common):
        if leader(epoch) != best:
            break
        since = epoch
    return {"run": str(paths[best]), "epoch": since, "of_epochs": common[-1]}


# ---- tables ----------------------------------------------------------------------------------------------

_RESULTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "state": ("state", str),
    "epochs": ("epochs", str),
    "steps": ("steps", "{:,}".format),
    "best_error": ("best test error", "{:.2%}".format),
    "best_epoch": ("  at epoch", str),
    "last_error": ("last test error", "{:.2%}".format),
    "test_error_top5": ("last top-5 error", "{:.2%}".format),
    "test_loss": ("last test loss", "{:.4f}".format),
    "train_error_top1": ("last training error", "{:.2%}".format),
    "train_loss": ("last training loss", "{:.4f}".format),
    "images_per_second": ("images/s", "{:,.0f}".format),
    "seconds": ("seconds of training", "{:,.1f}".format),
    "parameters": ("parameters", "{:,}".format),
}


def tables(found: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the title, columns and rows of each table of a comparison."""
    names = _names(found["runs"])
    shown = [("", ["", *names], [_row(name, values) for name, values in found["results"].items()])]
    if found["settings"]:
        rows = [
            [name, *(_setting(name, value) for value in values)] for name, values in found["settings"].items()
        ]
        shown.append(("settings", ["", *names], rows))
    for name, rows in zip(names[1:], found["networks"], strict=True):
        if rows:
            shown.append(("networks", ["layer", "value", names[0], name], rows))
    return shown


def verdict(found: dict[str, Any]) -> str:
    """Return a sentence on the run whose test error stays the lowest."""
    better = found["better"]
    if better is None:
        return "no run is better than the others after the last epoch that all have tested"
    name = _names(found["runs"])[found["runs"].index(better["run"])]
    if better["epoch"] == better["of_epochs"]:
        return f"{name} is better at epoch {better['epoch']}, the last that all have tested"
    return f"{name} is better from epoch {better['epoch']} on, to epoch {better['of_epochs']}"


def _names(paths: Sequence[str]) -> list[str]:
    """Return the folders' names, or their paths if two have the same name."""
    names = [Path(path).name for path in paths]
    return names if len(set(names)) == len(names) else list(paths)


def _row(name: str, values: Sequence[Any]) -> list[str]:
    title, text = _RESULTS[name]
    return [title, *("-" if value is None else text(value) for value in values)]


def _setting(name: str, value: Any) -> str:
    if name == "lr_schedule":
        return str(nets.value_text(nets.RateCurve(**value)))
    if name == "distort":
        return str(nets.value_text(nets.Distortion(**value)))
    return _short(value)


def _short(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(map(_short, value[:4])) or "none"
        return f"{shown}, ... ({len(value)})" if len(value) > 4 else shown
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(part)}" for key, part in value.items()) or "none"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
