"""Figures without a display: the style of all pictures, and how they are written.

Figures need matplotlib (the extra ``plot``).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cconvnet.system.installation import pip_install
from cconvnet.system.outputs import check_output, write_output

# Colours that colour-blind people can distinguish: Okabe and Ito, "Color Universal Design", 2008. Without
# their yellow, which is too pale for a line, and their black, which is the text's.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, FAINT, RULE = "#1f2933", "#5f6c7b", "#d5dbe1"

_MARGIN = 0.1  # inches

STYLE: Any = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    # Makes the same figure give the same bytes.
    "svg.hashsalt": "cconvnet",
}


class PlotError(ValueError):
    """A picture cannot be drawn; the text contains the reason."""


def figure(width: float, height: float) -> Any:
    """Make a figure that needs no display and no global state.

    Args:
        width: Inches.
        height: Inches.

    Raises:
        PlotError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError(f"pictures need matplotlib, which is missing: {pip_install('matplotlib')}") from error
    return Figure(figsize=(width, height), layout="constrained")


@contextmanager
def drawn(path: Path, width: float, height: float, title: str = "", about: str = "") -> Iterator[Any]:
    """Make a figure in the common style, and write it when the block ends.

    Args:
        path: The file.
        width: Inches.
        height: Inches.
        title: The title.
        about: The line below the title.

    Raises:
        PlotError: matplotlib is missing, or the file has no known ending or no folder.
    """
    check(path)
    from matplotlib import rc_context

    with rc_context(STYLE):
        page = figure(width, height)
        page.get_layout_engine().set(w_pad=_MARGIN, h_pad=0.06)
        if title or about:
            _head(page, title, about)
        yield page
        save(page, path)


def _head(page: Any, title: str, about: str) -> None:
    """Draw the title and the line below it at the left edge; the layout gets the rest of the page."""
    width, height = page.get_size_inches()
    below = 0.0
    for text, room, style in (
        (title, 0.34, {"fontsize": 13, "fontweight": "bold"}),
        (about, 0.24, {"fontsize": 9.5, "color": FAINT}),
    ):
        if text:
            # Names of runs and data may contain dollar signs, which are no formulas.
            position = (_MARGIN / width, 1 - (below + room) / height)
            page.text(*position, text, va="bottom", parse_math=False, **style)
            below += room
    page.get_layout_engine().set(rect=(0, 0, 1, 1 - (below + 0.06) / height))


def save(page: Any, path: Path) -> None:
    """Write a figure to a file atomically.

    Raises:
        PlotError: The file has no known ending or no folder.
    """
    kind = _check_kind(page, path)
    buffer = io.BytesIO()
    # Without a date the same figure gives the same bytes.
    plain = {"metadata": {"Date": None}} if kind == "svg" else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        page.savefig(buffer, format=kind, dpi=150, **plain)
    # One warning replaces those for each letter.
    boxes = (
        f"{path}: the font lacks some letters, which are drawn as boxes; set font.family in a matplotlibrc "
        "file to a font that has them"
    )
    texts = (str(one.message) for one in caught)
    for text in dict.fromkeys(boxes if "missing from font" in text else text for text in texts):
        warnings.warn(text, stacklevel=2)
    write_output(path, [buffer.getbuffer()])


def check(path: Path) -> None:
    """Refuse a file that `save` could not write later.

    Raises:
        PlotError: The file has no known ending or no folder.
        OutputError: The file cannot be written.
    """
    check_output(path, _check_kind(figure(1, 1), path))


def _check_kind(page: Any, path: Path) -> str:
    kinds = page.canvas.get_supported_filetypes()
    kind = path.suffix.removeprefix(".").lower()
    if kind not in kinds:
        raise PlotError(
            f"{path} must end with a kind of picture: {', '.join('.' + kind for kind in sorted(kinds))}"
        )
    if not path.parent.is_dir():
        raise PlotError(f"{path} cannot be written: there is no folder {path.parent}")
    return kind
