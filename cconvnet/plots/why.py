"""Pictures of the reasons for a class: the photograph, Grad-CAM, guided gradients and occlusion in a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cconvnet.plots.analysis import TOP
from cconvnet.plots.figures import FAINT, drawn
from cconvnet.plots.mosaic import Array
from cconvnet.plots.predictions import draw_bars, draw_image, shown
from cconvnet.seeing.why import Why

_WIDTH = 2.6  # inches of a panel
_MOST = 99.5  # per cent of guided gradients that are not cut off


def why(found: Why, classes: list[str], out: Path, title: str, about: str = "") -> None:
    """Draw the reasons for a class.

    Args:
        found: The reasons.
        classes: The names of the classes.
        out: The file.
        title: The title.
        about: The line below the title.

    Raises:
        PlotError: matplotlib is missing, or the file cannot be written.
    """
    height = _WIDTH * found.image.shape[0] / found.image.shape[1]
    with drawn(out, 4 * _WIDTH, height + 1.95, title, about) as page:
        grid = page.subplots(2, 4, gridspec_kw={"height_ratios": [height, 1.15]})
        for axes in grid.flat:
            axes.set_axis_off()
        top, under = grid
        name = classes[found.wanted]
        draw_image(top[0], found.image)
        top[0].set_title("what the network sees", loc="left")
        best = np.argsort(-found.probabilities, kind="stable")[:TOP].tolist()
        draw_bars(under[0], best, found.probabilities[best].tolist(), classes, found.wanted)

        draw_image(top[1], found.image)
        _heat(top[1], found.cam / (found.cam.max() or 1), found.image, "inferno")
        top[1].set_title("Grad-CAM", loc="left")
        _note(under[1], f"places of {found.layer} that speak\nfor {name}")

        top[2].imshow(shown((255 * _guided(found.guided)).astype(np.uint8)), cmap="gray", vmin=0, vmax=255)
        top[2].set_title("guided gradient", loc="left")
        _note(under[2], f"pixels that would raise\nthe score of {name}")

        draw_image(top[3], found.image)
        before, least = float(found.probabilities[found.wanted]), float(found.occluded.min())
        lost = np.maximum(before - found.occluded, 0)
        _heat(top[3], lost / (lost.max() or 1), found.image, "viridis", found.square)
        top[3].set_title("occlusion", loc="left")
        _note(
            under[3],
            f"where a grey square of {found.square[1]}x{found.square[0]}\ntakes its probability\n"
            f"from {before:.2f} down to {least:.2f}",
        )


def _heat(
    axes: Any, values: NDArray[Any], image: Array, colors: str, square: tuple[int, int] | None = None
) -> None:
    """Lay values from 0 to 1 over an image; of places of a square, each belongs to its middle."""
    height, width = image.shape[:2]
    if square is not None:
        values = _in_the_middle(values, square, (height, width))
    axes.imshow(
        values,
        cmap=colors,
        alpha=0.75 * values,
        extent=(0, width, height, 0),
        interpolation="bicubic",
        vmin=0,
        vmax=1,
    )


def _in_the_middle(values: NDArray[Any], square: tuple[int, int], image: tuple[int, int]) -> NDArray[Any]:
    """Return a value for each pixel; those beyond the outermost middles are the outermost ones."""
    for axis, (side, whole) in enumerate(zip(square, image, strict=True)):
        middles = np.linspace(side / 2, whole - side / 2, values.shape[axis])
        pixels = np.arange(whole) + 0.5
        values = np.apply_along_axis(lambda row: np.interp(pixels, middles, row), axis, values)  # noqa: B023
    return values


def _guided(gradient: NDArray[Any]) -> NDArray[Any]:
    """Return gradients as brightness from 0 to 1, with 0 in the middle."""
    limit = float(np.percentile(np.abs(gradient), _MOST)) or 1.0
    return np.clip(0.5 + gradient / (2 * limit), 0, 1)


def _note(axes: Any, text: str) -> None:
    axes.text(0, 1, text, va="top", fontsize=9, color=FAINT, parse_math=False, transform=axes.transAxes)
