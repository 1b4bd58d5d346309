"""Training curves of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cconvnet import runs
from cconvnet.plots.figures import PlotError, figure, save


def curve(run: Path, out: Path) -> None:
    """Draws a run's loss and errors over the epochs.

    Raises
        PlotError: matplotlib is missing, or the log has no lines yet.
    """
    page = figure(9, 3.6)
    lines = runs.read_log(run)
    steps = [line for line in lines if "loss" in line]
    epochs = [line for line in lines if "test_loss" in line]
    if not lines:
        raise PlotError(f"{run / 'log.jsonl'} has no lines to draw")
    loss, error = page.subplots(1, 2)
    page.suptitle(run.name)

    def draw(axes: Any, part: list[dict[str, Any]], key: str, label: str, **style: Any) -> None:
        axes.plot([line["epoch"] for line in part], [line[key] for line in part], label=label, **style)

    faint = {"color": "tab:blue", "linewidth": 0.7, "alpha": 0.5}
    dots = {"marker": "o", "markersize": 3}
    for axes, suffix, name in ((loss, "loss", "loss"), (error, "error_top1", "top-1 error")):
        step_key = "loss" if suffix == "loss" else "train_error_top1"
        draw(axes, steps, step_key, "training, steps", **faint)
        draw(axes, epochs, f"train_{suffix}", "training, epochs", color="tab:blue", **dots)
        draw(axes, epochs, f"test_{suffix}", "test", color="tab:orange", **dots)
        axes.set_xlabel("epoch")
        axes.set_xlim(0, None)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend()
    error.set_ylim(0, None)
    save(page, out)
