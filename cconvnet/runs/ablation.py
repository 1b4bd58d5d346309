"""Results of an ablation: a network beside itself without each of its parts, and what the paper found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.nets.ablation import ABLATIONS
from cconvnet.runs.history import TOP5_FROM, History
from cconvnet.runs.overview import read_overview
from cconvnet.runs.reading import RunError, data_name, settings_of

FULL = "full"  # the run of the network as it is
TANH = ABLATIONS["relu"].variant
LEVEL = 0.25  # the training error at which the paper compares ReLU and tanh

_BY_VARIANT = {ablation.variant: ablation for ablation in ABLATIONS.values()}


def runs_of(folder: Path) -> list[Path]:
    """Return the runs of an ablation that have begun, the full network's first.

    Raises:
        RunError: The full network's has not.
    """
    found = [folder / name for name in (FULL, *_BY_VARIANT) if (folder / name / "config.json").is_file()]
    if not found or found[0].name != FULL:
        raise RunError(f"{folder} contains no ablation: there is no run {folder / FULL}")
    return found


def results(folder: Path) -> dict[str, Any]:
    """Return the results of an ablation as JSON values.

    Returns:
        "net", "data", "epochs", "seed", "classes" and "test_images" of all runs, and the "chip"; "runs", for
        each its name, word, state, rate, errors of its last epoch and test, their differences from the full
        network's, the epochs to a training error of 25%, speed, parameters, and the section and finding of
        the paper; "relu", see :func:`relu_and_tanh`. What a run's files lack is None.

    Raises:
        RunError: The folder contains no ablation.
    """
    histories = [History(path) for path in runs_of(folder)]
    config, settings = histories[0].config, settings_of(histories[0].config)
    full = _run(histories[0])
    runs = [full, *(_run(history, full) for history in histories[1:])]
    return {
        "folder": str(folder),
        "net": settings["net"],
        "data": data_name(settings["data"]),
        "epochs": settings["epochs"],
        "seed": settings["seed"],
        "classes": len(settings["classes"]),
        "test_images": settings["test_images"],
        "chip": config.get("chip"),
        "runs": runs,
        "relu": relu_and_tanh(histories),
    }


def _run(history: History, full: dict[str, Any] | None = None) -> dict[str, Any]:
    overview, ablation = read_overview(history.path), _BY_VARIANT.get(history.path.name)

    def last(name: str) -> float | None:
        column = history.epochs[name]
        return float(column[-1]) if len(column) and math.isfinite(column[-1]) else None

    errors = {name: last(name) for name in ("test_error_top1", "test_error_top5", "train_error_top1")}
    differences = {
        f"{name}_difference": None if full is None else _minus(error, full[name])
        for name, error in errors.items()
    }
    return {
        "name": history.path.name,
        "word": ablation and ablation.word,
        "state": overview.state,
        "lr": settings_of(history.config)["lr"],
        "epochs": overview.epochs,
        **errors,
        **differences,
        "epochs_to_25_percent": _first(history, LEVEL),
        "images_per_second": overview.images_per_second,
        "parameters": overview.parameters,
        "section": ablation and ablation.section,
        "finding": ablation and ablation.finding,
    }


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _first(history: History, level: float) -> float | None:
    """Return the epochs, parts included, after which the training error was at most `level`."""
    epochs, errors = history.training_error()
    reached = np.flatnonzero(errors <= level)
    if not len(reached):
        return None
    span = slice(max(0, int(reached[0]) - 1), int(reached[0]) + 1)
    return float(np.interp(level, errors[span][::-1], epochs[span][::-1]))


def relu_and_tanh(histories: Sequence[History]) -> dict[str, float] | None:
    """Return a training error and the epochs to it of ReLU and tanh, as the paper's figure 1 compares them.

    It is 25%, or the lowest that both reached. None if either has not begun.
    """
    pair = [history for name in (FULL, TANH) for history in histories if history.path.name == name]
    lowest = [np.nanmin(errors) for _, errors in (one.training_error() for one in pair) if len(errors)]
    if len(lowest) < 2:
        return None
    level = max(LEVEL, *map(float, lowest))
    relu, tanh = (_first(history, level) for history in pair)
    assert relu is not None and tanh is not None
    return {"error": level, "relu_epochs": relu, "tanh_epochs": tanh}


# ---- texts -----------------------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of the results, one for each run."""
    names = ["test_error_top1", "test_error_top5", "train_error_top1"]
    titles = ["test error", "top-5 error", "training error"]
    if found["classes"] < TOP5_FROM:
        del names[1], titles[1]
    columns = ["network", *titles, f"epochs to {LEVEL:.0%}", "images/s", "the paper"]
    return columns, [_row(run, names) for run in found["runs"]]


def _row(run: dict[str, Any], names: Sequence[str]) -> list[str]:
    state = "" if run["state"] == "complete" else f" ({run['state']})"
    row = [run["name"] + state]
    for name in names:
        difference = _text(run[f"{name}_difference"], lambda value: f" ({100 * value:+.2f})")
        row.append(_text(run[name], lambda value: f"{value:.2%}") + difference)
    row.append(_text(run["epochs_to_25_percent"], lambda epochs: f"{epochs:.1f}"))
    row.append(_text(run["images_per_second"], lambda speed: f"{speed:,.0f}"))
    return [*row, f"{run['section']}: {run['finding']}" if run["finding"] else ""]


def _text(value: float | None, form: Callable[[float], str]) -> str:
    return "" if value is None else form(value)


def notes(found: dict[str, Any]) -> list[str]:
    """Return sentences on what the figures mean."""
    lines = []
    relu = found["relu"]
    if relu is not None:
        ours, theirs = relu["relu_epochs"], relu["tanh_epochs"]
        rates = {run["name"]: run["lr"] for run in found["runs"]}
        lines.append(
            f"ReLU reached {relu['error']:.1%} training error after {ours:.1f} epochs, tanh after "
            f"{theirs:.1f}: {theirs / ours:.1f} times as many. Their rates are {rates[FULL]:g} and "
            f"{rates[TANH]:g}."
        )
    error, count = found["runs"][0]["test_error_top1"], found["test_images"]
    if error is not None and count:
        # Two standard errors of the difference of two shares, as of independent tests.
        chance = 2 * math.sqrt(2 * error * (1 - error) / count)
        lines.append(
            f"In brackets are differences from {FULL}, in points. With {count:,} test images and one seed, "
            f"those of test errors under {100 * chance:.1f} points may be chance."
        )
    lines.append(
        "Training errors are means over the steps of the last epoch, with the run's augmentation and dropout."
    )
    return lines


def markdown(found: dict[str, Any]) -> str:
    """Return the results as a page of Markdown."""
    columns, rows = table(found)
    right = {*columns} - {columns[0], columns[-1]}
    chip = f", on {found['chip']}" if found["chip"] else ""
    lines = [
        f"# Ablations of {found['net']} on {found['data']}",
        "",
        f"{found['epochs']:,} epochs, seed {found['seed']}{chip}.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'|'.join('--:' if column in right else '---' for column in columns)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *notes(found),
        "",
        'The paper: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural '
        'Networks", 2012; the section precedes the finding.',
        "",
    ]
    return "\n".join(lines)
