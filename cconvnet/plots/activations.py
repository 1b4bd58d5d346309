"""Pictures of the feature maps that a network's layers compute for one image."""

from __future__ import annotations

from pathlib import Path

from cconvnet.plots.analysis import Maps
from cconvnet.plots.figures import FAINT, drawn
from cconvnet.plots.mosaic import Array, mosaic, side_by_side
from cconvnet.plots.predictions import draw_image

_SHAPE = 8.0  # width of a sheet of maps, divided by its height


def sheet(maps: Maps, shape: float = _SHAPE) -> tuple[Array, str]:
    """Arrange a layer's maps in one picture.

    Args:
        maps: The maps.
        shape: The width of the picture, divided by its height.

    Returns:
        The picture float[H,W,3] of values from 0 to 1, and a text with the number of maps and their scale.
    """
    tiles = maps.maps.transpose(2, 0, 1)
    low, high = min(float(tiles.min()), 0.0), float(tiles.max())
    columns = side_by_side(len(tiles), tiles.shape[2], tiles.shape[1], shape)
    count = f"{len(tiles)} of {maps.count:,} maps" if len(tiles) < maps.count else f"{maps.count:,} maps"
    text = f"{count}, brightest first, {tiles.shape[1]}x{tiles.shape[2]}, black {low:.3g}, white {high:.3g}"
    return mosaic((tiles - low) / (high - low or 1), columns), text


def activations(image: Array, maps: list[Maps], out: Path, title: str, about: str = "") -> None:
    """Draw an image, and the maps of layers one below the other.

    Args:
        image: uint8[H,W,C], the network's input.
        maps: The maps of each layer.
        out: The file.
        title: The title.
        about: The line below the title.

    Raises:
        PlotError: matplotlib is missing, or the file cannot be written.
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
