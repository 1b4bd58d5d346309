"""Feature maps of a network's convolutions for one picture."""

from __future__ import annotations

from pathlib import Path

from cconvnet.plots.analysis import Maps
from cconvnet.plots.figures import FAINT, drawn
from cconvnet.plots.mosaic import Array, mosaic, side_by_side
from cconvnet.plots.predictions import draw_image

_SHAPE = 8.0


def sheet(maps: Maps, shape: float = _SHAPE) -> tuple[Array, str]:
    """A layer's maps in one picture float[H,W,3] of values from 0 to 1, and what is shown on what scale."""
    tiles = maps.maps.transpose(2, 0, 1)
    low, high = min(float(tiles.min()), 0.0), float(tiles.max())
    columns = side_by_side(len(tiles), tiles.shape[2], tiles.shape[1], shape)
    count = f"{len(tiles)} of {maps.count:,} maps" if len(tiles) < maps.count else f"{maps.count:,} maps"
    text = f"{count}, brightest first, {tiles.shape[1]}x{tiles.shape[2]}, black {low:.3g}, white {high:.3g}"
    return mosaic((tiles - low) / (high - low or 1), columns), text


def activations(image: Array, maps: list[Maps], out: Path, title: str, about: str = "") -> None:
    """Draws a picture and, under each other, the maps of layers.

    Args
        image: uint8[H,W,C], what the network sees.

    Raises PlotError if matplotlib is missing or the file cannot be written.
    """
    sheets = [sheet(one) for one in maps]
    width, picture = 11.0, 1.7
    heights = [(width - picture) * array.shape[0] / array.shape[1] + 0.32 for array, _ in sheets]
    with drawn(out, width, sum(heights) + 0.75, title, about) as page:
        grid = page.add_gridspec(len(maps), 2, width_ratios=(picture, width - picture), height_ratios=heights)
        axes = page.add_subplot(grid[:, 0])
        draw_image(axes, image)
        axes.set_anchor("N")
        for row, (one, (array, text)) in enumerate(zip(maps, sheets, strict=True)):
            axes = page.add_subplot(grid[row, 1])
            axes.imshow(array, interpolation="nearest")
            axes.set_axis_off()
            axes.set_anchor("W")
            axes.set_title(f"{one.layer}: {text}", fontsize=9, fontweight="normal", color=FAINT, pad=3)
