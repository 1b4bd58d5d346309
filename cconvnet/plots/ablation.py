"""Pictures of ablations: training and test errors of a network and of the same without one of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cconvnet.plots.curve import thinned
from cconvnet.plots.figures import COLORS, FAINT, INK, drawn
from cconvnet.runs import data_name
from cconvnet.runs.ablation import FULL, LEVEL, TANH, relu_and_tanh, runs_of
from cconvnet.runs.history import History
from cconvnet.runs.reading import settings_of


def ablation(folder: Path, out: Path) -> None:
    """Draw training and test error over epochs: the paper's figure 1, with lines of the other ablations.

    The network as it is has a solid line, the one with tanh a dashed one.

    Args:
        folder: The folder of the ablation's runs.
        out: The file.

    Raises:
        PlotError: matplotlib is missing.
        RunError: The folder contains no ablation.
    """
    histories = [History(path) for path in runs_of(folder)]
    settings = {history.path.name: settings_of(history.config) for history in histories}
    full = settings[FULL]
    title = f"{full['net']} on {data_name(full['data'])}"
    about = f"batch {full['batch']:,}, lr {full['lr']:g}, seed {full['seed']}"
    if TANH in settings and settings[TANH]["lr"] != full["lr"]:
        about += f"; with tanh lr {settings[TANH]['lr']:g}"
    with drawn(out, 10.5, 4.5, title, about) as page:
        page.get_layout_engine().set(wspace=0.05)
        training, test = page.subplots(1, 2)
        for number, history in enumerate(histories):
            style = _style(history, number)
            training.plot(*thinned(*history.training_error()), **style)
            epochs = history.epochs
            test.plot(epochs["epoch"], epochs["test_error_top1"], marker="o", markersize=4, **style)
        _mark_level(training, histories)
        for axes, name in ((training, "training error"), (test, "test error")):
            _style_axes(axes, name)
        page.legend(*test.get_legend_handles_labels(), loc="outside lower left", ncols=len(histories))


def _style(history: History, number: int) -> dict[str, Any]:
    """Return the line of a run: ReLU and tanh in ink, as in the paper, others in colour."""
    name = history.path.name
    ink = {FULL: "-", TANH: "--"}
    if name in ink:
        return {"label": name, "color": INK, "linestyle": ink[name], "linewidth": 1.8, "zorder": 4}
    return {"label": name, "color": COLORS[number % len(COLORS)], "linewidth": 1.2, "zorder": 3}


def _mark_level(axes: Any, histories: Sequence[History]) -> None:
    """Draw the training error at which ReLU and tanh are compared, and when they reach it."""
    found = relu_and_tanh(histories)
    if found is None:
        return
    relu, tanh, error = found["relu_epochs"], found["tanh_epochs"], found["error"]
    axes.axhline(error, color=FAINT, linewidth=0.9, linestyle=(0, (2, 3)), zorder=1)
    axes.plot([relu, tanh], [error, error], "o", color=INK, markersize=5, zorder=5)
    name = f"{LEVEL:.0%}" if error == LEVEL else f"{error:.1%}, the lowest of both"
    axes.annotate(
        f"{name}: {relu:.1f} epochs with ReLU, {tanh:.1f} with tanh",
        (0.02, 0.03),  # where errors seldom are
        xycoords="axes fraction",
        fontsize=8.5,
        color=FAINT,
    )


def _style_axes(axes: Any, name: str) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.set_title(name)
    axes.set_xlabel("epoch")
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
