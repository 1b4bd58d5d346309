"""Pictures of the filters of a convolution: those of the first layer in colour, by tower.

The arrangement follows figure 3 of Krizhevsky et al. 2012, where the 48 filters of one GPU are above the 48
of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cconvnet import nets, runs
from cconvnet.errors import nearest
from cconvnet.nets import ConvSpec, LayerSpec, LocalSpec, NetSpec
from cconvnet.plots.figures import FAINT, PlotError, drawn
from cconvnet.plots.mosaic import Array, mosaic, scaled_each, scaled_together, side_by_side
from cconvnet.runs.checkpoint import Checkpoint

SCALES = ("own", "shared")

_MAX_FILTERS, _MAX_CHANNELS = 24, 32  # shown of a deeper layer
_SHAPE = 2.6  # width of a sheet, divided by its height


@dataclass(frozen=True)
class FilterSheet:
    """Pictures of the filters of a layer.

    Attributes:
        net: The network.
        layer: The layer.
        step: The number of training steps.
        towers: A picture for each tower, float[H,W] or [H,W,3] of values from 0 to 1.
        names: A name for each tower; a single tower has an empty name.
        text: The number of filters and their scale.
    """

    net: str
    layer: str
    step: int
    towers: list[Array]
    names: list[str]
    text: str


def filters(
    run: Path, out: Path, layer: str | None = None, scale: str = "own", best: bool = False
) -> FilterSheet:
    """Draw the filters of a layer of a run.

    Args:
        run: The folder of the run, or one of its checkpoints.
        out: The file.
        layer: The layer; the first convolution if not given.
        scale: A name from SCALES: the range of brightness is each filter's own, or shared by all.
        best: Use the best checkpoint instead of the newest.

    Raises:
        PlotError: matplotlib is missing, or the network has no such layer with filters.
        CheckpointError: There is no undamaged checkpoint.
        RunError: The folder contains no run.
    """
    _, checkpoint, _ = runs.find_checkpoint(run, best)
    sheet = filter_sheet(checkpoint, layer, scale)
    rows = sum(tower.shape[0] for tower in sheet.towers)
    width = 7.6
    height = width * rows / sheet.towers[0].shape[1] + 0.3 * len(sheet.towers) + 0.75
    title = f"{sheet.layer} of {sheet.net}"
    about = f"{runs.folder_of(run).resolve().name}, step {sheet.step:,}: {sheet.text}"
    with drawn(out, width, height, title, about) as page:
        grid = page.subplots(len(sheet.towers), 1, squeeze=False)[:, 0]
        for axes, name, tower in zip(grid, sheet.names, sheet.towers, strict=True):
            axes.imshow(tower, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(name, color=FAINT, fontsize=9, fontweight="normal", pad=4)
    return sheet


def filter_sheet(
    checkpoint: Checkpoint, layer: str | None = None, scale: str = "own", shape: float = _SHAPE
) -> FilterSheet:
    """Make the pictures that `filters` draws, without matplotlib.

    Args:
        checkpoint: The checkpoint.
        layer: The layer; the first convolution if not given.
        scale: A name from SCALES.
        shape: The approximate width of a tower's picture, divided by its height.

    Raises:
        PlotError: The network has no such layer with filters.
    """
    if scale not in SCALES:
        raise PlotError(nearest("--scale", scale, SCALES))
    spec = nets.spec_from_dict(checkpoint.spec)
    chosen = _layer(spec, layer)
    weights = _weights(checkpoint.tensors, chosen)
    towers = _towers(spec, chosen, int(checkpoint.settings["towers"]))
    own = len(weights) // towers
    kind = "colour" if weights.shape[3] == 3 else "grey"
    if weights.shape[3] in (1, 3):
        tiles = weights if weights.shape[3] == 3 else weights[..., 0]
        columns = side_by_side(own, tiles.shape[2], tiles.shape[1], shape * towers)
        text = f"{len(tiles):,} filters in {kind}"
        numbers = [(tower * own, (tower + 1) * own - 1) for tower in range(towers)]
        names = [f"tower {tower + 1}: filters {a} to {b}" for tower, (a, b) in enumerate(numbers)]
    else:
        # A row is a filter, its channels beside each other.
        shown = weights[:_MAX_FILTERS, :, :, :_MAX_CHANNELS]
        rows, _, _, columns = shown.shape
        tiles = shown.transpose(0, 3, 1, 2).reshape(rows * columns, *shown.shape[1:3])
        text = f"a row is a filter ({rows} of {len(weights):,})"
        text = f"{text}, its channels ({columns} of {weights.shape[3]:,})"
        towers, own, names = 1, len(tiles), [""]
    if scale == "own":
        tiles, text = scaled_each(tiles), f"{text}, each from its least to its largest weight"
    else:
        tiles, limit = scaled_together(tiles)
        text = f"{text}, all on one scale, grey is 0, white {limit:.3g}"
    pictures = [mosaic(tiles[tower * own : (tower + 1) * own], columns) for tower in range(towers)]
    names = names if towers > 1 else [""]
    return FilterSheet(spec.name, chosen.name, checkpoint.step, pictures, names, text)


def _layer(spec: NetSpec, name: str | None) -> LayerSpec:
    have = {layer.name: layer for layer in spec.layers if isinstance(layer, ConvSpec | LocalSpec)}
    if not have:
        raise PlotError(f"the network {spec.name} has no convolution")
    if name is not None and name not in have:
        raise PlotError(nearest("--layer", name, have))
    return have[name] if name is not None else next(iter(have.values()))


def _weights(tensors: Mapping[str, Array], layer: LayerSpec) -> Array:
    """Return filters as [K,R,S,C].

    Of a layer with several inputs these are the filters over the first. Of a local layer they are those of
    the position in the middle.
    """
    name = f"{layer.name}.weight"
    weights = tensors[name if name in tensors else f"{name}.0"]
    return weights if weights.ndim == 4 else weights[weights.shape[0] // 2, weights.shape[1] // 2]


def _towers(spec: NetSpec, layer: LayerSpec, devices: int) -> int:
    """Count the towers of a layer: parts that belong to groups of the next layer, or to devices.

    On one device the towers of the 2012 network are the groups of its second convolution.
    """
    reader = next((other for other in spec.layers if layer.name in other.inputs), None)
    while reader is not None and not hasattr(reader, "init"):
        reader = next((other for other in spec.layers if reader.name in other.inputs), None)
    towers = getattr(reader, "groups", 1)
    if towers == 1 and layer.split:
        towers = devices
    assert isinstance(layer, ConvSpec | LocalSpec)
    return towers if layer.filters % towers == 0 else 1
