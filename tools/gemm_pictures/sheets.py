"""Sheets of squares, on which the pictures are drawn."""

from __future__ import annotations

from typing import Any

from cconvnet.plots.figures import COLORS

BLUE, ORANGE, GREEN = COLORS[:3]
EMPTY = "#eef1f4"
PALE = {BLUE: "#cfe3f1", ORANGE: "#f7dccb", GREEN: "#cdebe0"}


def bare(axes: Any, width: float, height: float) -> Any:
    """Make axes a sheet of squares, with the origin at the upper left."""
    axes.set(xlim=(-0.1, width + 0.1), ylim=(height + 0.1, -0.1), aspect="equal")
    axes.axis("off")
    return axes


def box(axes: Any, x: float, y: float, width: float, height: float, color: str, **more: Any) -> None:
    """Draw a filled rectangle."""
    from matplotlib.patches import Rectangle

    style = {"facecolor": color, "edgecolor": "white", "linewidth": 0.8} | more
    axes.add_patch(Rectangle((x, y), width, height, **style))
