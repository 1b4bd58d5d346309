"""The filters of a network's first layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cconvnet import runs
from cconvnet.plots.figures import PlotError, figure, save


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
