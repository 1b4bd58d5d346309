"""Pages to draw on, which need no display and no global state; they need matplotlib (the extra ``plot``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any


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
