"""Pictures of a run: its training curve, and the filters of its first layer.

They need matplotlib (the extra ``plot``), which nothing else does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import runs


class PlotError(ValueError):
    """A picture cannot be drawn; the text says why."""


def figure(width: float, height: float) -> Any:
    """A figure that needs no display and no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError("pictures need matplotlib, which is missing: pip install 'cconvnet[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def save(page: Any, path: Path) -> None:
    """Writes a figure to a file.

    Raises PlotError if its ending names no kind of picture.
    """
    _check_kind(page, path)
    page.savefig(path, dpi=150)


def check(path: Path) -> None:
    """Raises PlotError now if `save` would later."""
    _check_kind(figure(1, 1), path)


def _check_kind(page: Any, path: Path) -> None:
    kinds = page.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise PlotError(
            f"{path} must end with a kind of picture: {', '.join('.' + kind for kind in sorted(kinds))}"
        )


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


def filters(run: Path, out: Path) -> str:
    """Draws the filters of the first convolution of a run's newest checkpoint; returns its name.

    Filters over one channel are grey, over three colour, each scaled to its own range.

    Raises
        PlotError: matplotlib is missing, or the network has no such convolution.
        CheckpointError, RunError: there is no sound checkpoint.
    """
    _, checkpoint, _ = runs.find_checkpoint(run)
    layers = checkpoint.spec["layers"]
    names = [f"{layer['name']}.weight" for layer in layers]
    name = next((n for n in names if n in checkpoint.tensors and checkpoint.tensors[n].ndim == 4), None)
    if name is None:
        raise PlotError(f"{run}: its network has no convolution")
    weights = checkpoint.tensors[name]
    if weights.shape[3] not in (1, 3):
        raise PlotError(f"{run}: {name} is over {weights.shape[3]} channels; 1 or 3 can be drawn")
    columns = int(np.ceil(np.sqrt(len(weights) * 1.5)))
    rows = -(-len(weights) // columns)
    page = figure(0.6 * columns, 0.6 * rows)
    for index in range(len(weights)):
        axes = page.add_subplot(rows, columns, index + 1)
        low, high = weights[index].min(), weights[index].max()
        picture = (weights[index] - low) / max(float(high - low), 1e-30)
        axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
    save(page, out)
    return name.removesuffix(".weight")
