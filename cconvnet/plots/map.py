"""Pictures of features in the plane, with images at some of their points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cconvnet.plots.figures import FAINT, drawn
from cconvnet.plots.mosaic import Array
from cconvnet.plots.predictions import short, shown

_MAX_CLASSES = 12  # in the legend
_SIDE = 0.34  # inches of an image
_PAGE = 6.0  # inches


def draw_map(
    points: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: list[str],
    images: Array,
    out: Path,
    title: str,
    about: str = "",
) -> None:
    """Draw a point for each image, coloured by its class, and the images themselves where there is room.

    Args:
        points: float[n,2].
        labels: int[n].
        classes: The names of the classes.
        images: uint8[n,H,W,C].
        out: The file.
        title: The title.
        about: The line below the title.

    Raises:
        PlotError: matplotlib is missing, or the file cannot be written.
    """
    present = np.unique(labels)
    with drawn(out, 2 * _PAGE, _PAGE + 0.75, title, about) as page:
        from matplotlib import colormaps

        dots, pictures = page.subplots(1, 2)
        colors = colormaps["tab20" if len(present) > 10 else "tab10"]
        for number, label in enumerate(present.tolist()):
            here = points[labels == label]
            named = short(classes[label]) if len(present) <= _MAX_CLASSES else None
            dots.scatter(
                *here.T, s=14, color=colors(number % colors.N), alpha=0.75, linewidths=0, label=named
            )
        if len(present) <= _MAX_CLASSES:
            dots.legend(loc="upper left", bbox_to_anchor=(0, -0.02), ncols=4, fontsize=9)
        for axes, name in ((dots, f"{len(points):,} images, by class"), (pictures, "some of the images")):
            axes.set_title(name, fontsize=9.5, fontweight="normal", color=FAINT)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(False)
            axes.set_aspect("auto")
        _draw_images(pictures, points, images)


def _draw_images(axes: Any, points: NDArray[np.float64], images: Array) -> None:
    """Draw images at their points, in the order of the images, none over another."""
    low, high = points.min(0), points.max(0)
    span = np.where(high > low, high - low, 1)
    places = (points - low) / span
    room = _SIDE / _PAGE
    drawn_at = np.empty((0, 2))
    for place, image in zip(places, images, strict=True):
        if len(drawn_at) and (np.abs(drawn_at - place).max(1) < room).any():
            continue
        drawn_at = np.concatenate([drawn_at, place[None]])
        x, y = place
        half = 0.92 * room / 2
        axes.imshow(
            shown(image), extent=(x - half, x + half, y - half, y + half), cmap="gray", vmin=0, vmax=255
        )
    axes.set_xlim(-room, 1 + room)
    axes.set_ylim(-room, 1 + room)
