"""Training curves of runs: loss and errors over epochs, steps or seconds."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.errors import nearest
from cconvnet.nets import RateCurve, value_text
from cconvnet.plots.figures import COLORS, FAINT, INK, PlotError, check, drawn
from cconvnet.runs import data_name, in_use
from cconvnet.runs.history import TOP5_FROM, X_AXES, Array, History, smoothed
from cconvnet.runs.reading import settings_of

PANELS = ("loss", "error")

_MAX_POINTS = 1500  # of a line: more are not visible, so means and ranges of blocks are drawn instead
_MAX_NAMED_RATES = 8  # more names would overlap
_MAX_RATES = 40
_LOG_FROM = 30.0  # a loss that falls by a larger factor is legible only on a logarithmic axis
_SECONDS_BETWEEN_REDRAWS = 4.0


@dataclass(frozen=True)
class Curves:
    """Settings of a drawing of training curves.

    Attributes:
        x: The horizontal axis: "epoch", "step" or "seconds" of training.
        smooth: The number of log lines over which training values are averaged; 1 for no averaging. None
            chooses it automatically.
        log: Whether the axis of the loss is logarithmic. None makes it so if the loss falls far enough.
        panels: "loss", "error", or both.
    """

    x: str = "epoch"
    smooth: int | None = None
    log: bool | None = None
    panels: tuple[str, ...] = PANELS

    def __post_init__(self) -> None:
        if self.x not in X_AXES:
            raise PlotError(nearest("--x", self.x, X_AXES))
        if self.smooth is not None and self.smooth < 1:
            raise PlotError(f"--smooth must be at least 1, not {self.smooth}")


def curve(runs: Path | Sequence[Path], out: Path, how: Curves | None = None) -> None:
    """Draw the loss and the errors of one run, or of several over each other.

    Args:
        runs: The folder of a run, or of several.
        out: The file.
        how: The settings of the drawing.

    Raises:
        PlotError: matplotlib is missing, or no log has a line yet.
        RunError: A folder contains no run.
    """
    paths = [runs] if isinstance(runs, Path) else list(runs)
    draw([History(path) for path in dict.fromkeys(paths)], out, how or Curves())


def into_run(run: Path, say: Callable[[str], None]) -> None:
    """Draw the curve of a run that has ended into its folder, or report the reason why it cannot be drawn."""
    try:
        curve(run, run / "curve.png")
    except (PlotError, OSError) as error:
        say(f"curve.png was not drawn: {error}")


def follow(
    runs: Sequence[Path],
    out: Path,
    how: Curves | None = None,
    say: Callable[[str], None] = print,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Draw runs again whenever their logs grow, until all are complete.

    Args:
        runs: The folders of the runs. Logs may still be empty.
        out: The file.
        how: The settings of the drawing.
        say: Receives a line after the first drawing.
        wait: Waits for a number of seconds.

    Raises:
        PlotError: matplotlib is missing, or a run was removed.
        RunError: A folder contains no run.
    """
    histories = [History(path) for path in dict.fromkeys(runs)]
    drawn_once = False
    while True:
        # This is checked before the log is read, so that lines written in between are drawn.
        complete = all(_complete(history.path) for history in histories)
        for history in histories:
            if not history.path.is_dir():
                raise PlotError(f"{history.path} was removed")
        grown = [history.read() for history in histories]
        if any(map(len, histories)) and (any(grown) or not drawn_once):
            draw(histories, out, how or Curves())
            if not drawn_once:
                say(f"{out}, redrawn as the log grows; Ctrl-C ends it")
            drawn_once = True
        if complete:
            break
        wait(_SECONDS_BETWEEN_REDRAWS)


def _complete(run: Path) -> bool:
    try:
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    # A resumed run still has the summary of its previous end, so it must not be in use either.
    return isinstance(summary, dict) and summary.get("complete") is True and not in_use(run)


# ---- words -----------------------------------------------------------------------------------------------

# The settings that readers look for first, in this order.
_FIRST_SETTINGS = ("net", "data", "lr", "precision", "batch", "seed", "size", "epochs", "towers")


def _words(values: dict[str, Any]) -> str:
    words = [_word(key, value) for key, value in values.items() if value is not None or key == "data"]
    return ", ".join(words).replace(", on ", " on ")


def _word(key: str, value: Any) -> str:
    if key in ("net", "precision"):
        return str(value)
    if key == "data":
        return f"on {data_name(value)}"
    if key == "device":
        return f"on {value}"
    name = key.replace("_", " ")
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if key == "lr_steps":
        return "lr steps " + (", ".join(f"{step['epoch']:g}" for step in value) or "none")
    if value is None:
        return f"own {name}"
    if key == "lr_schedule":
        return f"lr schedule {value_text(RateCurve(**value))}"
    if isinstance(value, dict):
        return f"{name} " + (", ".join(f"{layer} {factor:g}" for layer, factor in value.items()) or "none")
    if isinstance(value, list):
        return f"{len(value)} {name}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def differences(histories: Sequence[History]) -> list[str]:
    """Return a short name for each run: its differing settings, or its folder's name if none differs."""
    settings = [
        {**settings_of(history.config), "device": history.config.get("device")} for history in histories
    ]
    # Too long for a name, and not visible in a curve.
    hidden = ("classes", "preprocessing")
    keys = [key for key in dict.fromkeys([*_FIRST_SETTINGS, *settings[0]]) if key not in hidden]
    differing = [key for key in keys if any(one.get(key) != settings[0].get(key) for one in settings)]
    # Settings that follow from the data are not named if the data is.
    if "data" in differing:
        differing = [key for key in differing if key not in ("image_shape", "train_images", "test_images")]
    named = differing[:4]
    names = [_words({key: one.get(key) for key in named}) for one in settings]
    folders = [history.path.resolve().name for history in histories]
    if len(set(folders)) < len(folders):
        folders = [str(history.path) for history in histories]
    if not named:
        return folders
    if len(set(names)) < len(names):
        return [f"{folder}: {name}" for folder, name in zip(folders, names, strict=True)]
    return names


def about(history: History) -> str:
    """Return a line about a run: network, data, batch, learning rate, precision and device."""
    settings = history.config["settings"]
    return ", ".join(
        [
            f"{settings['net']} on {data_name(settings['data'])}",
            f"batch {settings['batch']:,}",
            f"lr {settings['lr']:g}",
            settings["precision"],
            str(history.config.get("device", "")),
        ]
    ).rstrip(", ")


# ---- drawing ---------------------------------------------------------------------------------------------


def draw(histories: Sequence[History], out: Path, how: Curves) -> None:
    """Draw runs whose logs were read; see `curve`."""
    check(out)
    if not any(map(len, histories)):
        logs = ", ".join(str(history.path / "log.jsonl") for history in histories)
        raise PlotError(f"{logs} has no lines to draw")
    several = len(histories) > 1
    title = f"{len(histories)} runs" if several else histories[0].path.resolve().name
    line = "" if several else about(histories[0])
    if several:
        same = [
            f"{h.config['settings']['net']} on {data_name(h.config['settings']['data'])}" for h in histories
        ]
        line = same[0] if len(set(same)) == 1 else ""
    names = differences(histories) if several else [""]
    alone = len(how.panels) == 1
    width, height = (4.1, 3.0) if alone else (10.5, 4.4 if not several else 4.5 + 0.2 * len(histories))
    with drawn(out, width, height, *((title, line) if not alone else ())) as page:
        page.get_layout_engine().set(wspace=0.05)
        for panel, axes in zip(how.panels, page.subplots(1, len(how.panels), squeeze=False)[0], strict=True):
            for number, (history, name) in enumerate(zip(histories, names, strict=True)):
                _draw_run(axes, history, panel, how, COLORS[number % len(COLORS)] if several else None, name)
            _style_axes(axes, histories, panel, how)
        if several:
            _name_runs(page, names, histories)
        else:
            page.legend(
                *page.axes[-1].get_legend_handles_labels(),
                loc="outside lower left",
                ncols=2 + len(how.panels),
            )


def _draw_run(axes: Any, history: History, panel: str, how: Curves, color: str | None, name: str) -> None:
    """Draw a run's lines in a panel, in one colour, or in one for training and one for test."""
    training, test = (color, color) if color else COLORS[:2]
    key, step_key = ("loss", "loss") if panel == "loss" else ("error_top1", "train_error_top1")
    steps, epochs = history.steps, history.epochs
    # Of several runs only the tests are named; a note explains the dashes once.
    label, test_label = (None, name) if name else ("training", "test")
    # Epochs of few steps are better shown by their own lines.
    lines, own_key = (epochs, f"train_{key}") if len(epochs) >= len(steps) else (steps, step_key)
    if len(lines):
        x, y = history.positions(lines, how.x), lines[own_key]
        window = how.smooth or max(1, len(y) // 60)
        alpha, dashes = (0.5, "--") if color else (1.0, "-")
        if window > 1 and not color:
            _draw_raw(axes, x, y, training)
        kept = thinned(x, smoothed(y, window))
        axes.plot(*kept, color=training, alpha=alpha, linestyle=dashes, linewidth=1.2, label=label, zorder=3)
    if len(epochs):
        # Dots mark epochs as long as they do not touch each other.
        dots = {"marker": "o", "markersize": 4} if len(epochs) <= 60 else {}
        x = history.positions(epochs, how.x)
        axes.plot(x, epochs[f"test_{key}"], color=test, label=test_label, zorder=4, **dots)
        if panel == "error" and len(history.config["settings"]["classes"]) >= TOP5_FROM:
            top5 = None if name else "test, top 5"
            axes.plot(x, epochs["test_error_top5"], color=test, linestyle=":", label=top5, zorder=4)


def _draw_raw(axes: Any, x: Array, y: Array, color: str) -> None:
    """Draw logged training values behind their average: a line, or the ranges of blocks of many points."""
    if len(x) <= _MAX_POINTS:
        axes.plot(x, y, color=color, alpha=0.25, linewidth=0.7)
        return
    positions, parts = _blocks(x), _blocks(y)
    low, high = (np.array([f(part) for part in parts]) for f in (np.nanmin, np.nanmax))
    axes.fill_between([part.mean() for part in positions], low, high, color=color, alpha=0.18, linewidth=0)


def _blocks(values: Array) -> list[Array]:
    return np.array_split(values, min(len(values), _MAX_POINTS))


def thinned(x: Array, y: Array) -> tuple[Array, Array]:
    """Reduce a line to _MAX_POINTS points, each the mean of a block."""
    if len(x) <= _MAX_POINTS:
        return x, y
    return (
        np.array([part.mean() for part in _blocks(x)]),
        np.array([part.mean() for part in _blocks(y)]),
    )


def _name_runs(page: Any, names: Sequence[str], histories: Sequence[History]) -> None:
    """Draw the legend of several runs: colour and lowest error of each, and the kinds of lines."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLORS[number % len(COLORS)], linewidth=3) for number in range(len(names))
    ]
    kinds: dict[str, dict[str, Any]] = {
        "test": {"marker": "o", "markersize": 4},
        "training": {"linestyle": "--", "alpha": 0.6},
    }
    if any(line.get_linestyle() == ":" for axes in page.axes for line in axes.lines):
        kinds["test, top 5"] = {"linestyle": ":"}
    handles += [Line2D([], [], color=INK, linewidth=1.2, **style) for style in kinds.values()]
    bests = [history.lowest_error() for history in histories]
    named = [
        name if best is None else f"{name}: best {100 * best:.2f}%"
        for name, best in zip(names, bests, strict=True)
    ]
    page.legend(handles, [*named, *kinds], loc="outside lower left", ncols=2)


def _mark_best(axes: Any, history: History, how: Curves, color: str, named: bool) -> None:
    """Draw a ring around the test with the lowest error, and beside it the error if `named`."""
    best, error = history.best(), history.lowest_error()
    if best is None or error is None:
        return
    x = float(history.positions(history.epochs, how.x)[best])
    ring = {"markerfacecolor": "none", "markeredgecolor": color, "markeredgewidth": 1.5}
    axes.plot([x], [error], "o", markersize=10, zorder=5, gid="best", clip_on=False, **ring)
    if not named:
        return
    right, top = axes.get_xlim()[1], axes.get_ylim()[1]
    side = "right" if x > 0.85 * right else "left" if x < 0.15 * right else "center"
    above = error < 0.2 * top
    at = _top_beside(axes, x, side) if above else error
    axes.annotate(
        f"best {100 * error:.2f}%",
        (x, at if at < 0.4 * top else error),
        (0, 9 if above else -9),
        textcoords="offset points",
        ha=side,
        va="bottom" if above else "top",
        fontsize=9,
        color=color,
        fontweight="bold",
        zorder=6,
    )


def _top_beside(axes: Any, x: float, side: str) -> float:
    """Return the largest value of the curves where a label that is aligned to `side` at `x` lies."""
    width = 0.18 * axes.get_xlim()[1]  # of the longest label in the smallest picture
    left = x - width * {"left": 0.0, "center": 0.5, "right": 1.0}[side]
    where = np.linspace(left, left + width, 20)
    values = [np.interp(where, *line.get_data()) for line in axes.lines if len(line.get_xdata())]
    return float(np.max(values))


def _style_axes(axes: Any, histories: Sequence[History], panel: str, how: Curves) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

    axes.set_xlabel({"epoch": "epoch", "step": "step", "seconds": "seconds of training"}[how.x])
    axes.set_xlim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if how.x != "epoch":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if panel == "error":
        top5 = any(line.get_linestyle() == ":" for line in axes.lines)
        axes.set_title("top-1 and top-5 error" if top5 else "top-1 error")
        axes.set_ylim(0, None)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    else:
        axes.set_title("loss")
        if _log_helps(histories) if how.log is None else how.log:
            axes.set_yscale("log")
            axes.set_title("loss, logarithmic")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    alone = len(histories) == 1
    for number, history in enumerate(histories):
        color = COLORS[number % len(COLORS)]
        _mark_rates(axes, history, how, None if alone else color)
        if panel == "error":
            _mark_best(axes, history, how, COLORS[1] if alone else color, alone)


def _log_helps(histories: Sequence[History]) -> bool:
    """Return whether the losses differ so much that only a logarithmic axis shows them all."""
    columns = [
        values
        for history in histories
        for values in (history.steps["loss"], history.epochs["train_loss"], history.epochs["test_loss"])
    ]
    losses = np.concatenate(columns)
    losses = losses[np.isfinite(losses)]
    return bool(len(losses)) and losses.min() > 0 and bool(losses.max() > _LOG_FROM * losses.min())


def _mark_rates(axes: Any, history: History, how: Curves, color: str | None) -> None:
    """Draw a vertical line where the learning rate changed in a step; for a single run, with the new rate."""
    changes = history.rate_steps()[:_MAX_RATES]
    named = color is None and 0 < len(changes) <= _MAX_NAMED_RATES
    if named:
        axes.set_title(axes.get_title(loc="left"), pad=22)
    positions = [history.rate_position(index, how.x) for index, _ in changes]
    room = 0.08 * axes.get_xlim()[1]
    for (_, rate), position, after in zip(changes, positions, [*positions, math.inf][1:], strict=True):
        dots = {"linewidth": 0.9, "linestyle": (0, (2, 3)), "zorder": 1}
        axes.axvline(position, color=color or FAINT, gid="rate", **dots)
        if named and after - position > room:  # of rates in quick succession only the last is named
            axes.annotate(
                f"lr {rate:g}",
                (position, 1),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8.5,
                color=FAINT,
            )
