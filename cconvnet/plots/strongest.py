"""Pictures of a layer's strongest responses: patches of images, and what of them each channel responds to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cconvnet.plots.figures import FAINT, drawn
from cconvnet.plots.mosaic import mosaic
from cconvnet.seeing.strongest import Strong

_SIDE = 3  # patches in a row of a channel
_COLUMNS = 4  # channels in a row
_INCHES = 1.35  # of a block of patches
_MOST = 99.5  # per cent of projected values that are not cut off


def strongest(found: list[Strong], out: Path, title: str, about: str = "") -> None:
    """Draw the strongest responses of channels: projections on the left, patches on the right.

    Args:
        found: The channels.
        out: The file.
        title: The title.
        about: The line below the title.

    Raises:
        PlotError: matplotlib is missing, or the file cannot be written.
    """
    columns = min(len(found), _COLUMNS)
    rows = -(-len(found) // columns)
    with drawn(out, columns * (2 * _INCHES + 0.3), rows * (_INCHES + 0.35) + 0.75, title, about) as page:
        grid = page.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, one in zip(grid.flat, found, strict=False):
            limit = float(np.percentile(np.abs(one.projections), _MOST)) or 1.0
            tiles = np.clip(0.5 + one.projections / (2 * limit), 0, 1)
            blocks = [
                mosaic(block if block.shape[-1] == 3 else block[..., 0], _SIDE)
                for block in (tiles, one.patches / 255)
            ]
            gap = np.ones((blocks[0].shape[0], blocks[0].shape[1] // 16, 3), np.float32)
            axes.imshow(np.concatenate([blocks[0], gap, blocks[1]], axis=1), interpolation="nearest")
            axes.set_title(
                f"channel {one.channel}, up to {one.values.max():.3g}",
                fontsize=9,
                fontweight="normal",
                color=FAINT,
                pad=3,
            )
