"""Pictures of a network's predictions, with the nearest training images.

The arrangement follows figure 4 of Krizhevsky et al. 2012. On the left is the right class below each image,
and a bar for each of the five most probable classes, the right one in another colour. On the right are the
training images whose last hidden layer is nearest to that of the image in the first column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cconvnet.plots.analysis import NEIGHBOURS, TOP, Look, Seen
from cconvnet.plots.figures import COLORS, FAINT, INK, RULE, drawn
from cconvnet.plots.mosaic import Array

RIGHT, WRONG = COLORS[1], COLORS[5]

_MAX_NEIGHBOUR_ROWS = 6  # beside two rows of images: more would be too small to see
_MAX_NAME = 26  # characters


def predictions(look: Look, out: Path, title: str, about: str = "") -> None:
    """Draw images with a network's predictions and the nearest training images.

    Args:
        look: The images.
        out: The file.
        title: The title.
        about: The line below the title.

    Raises:
        PlotError: matplotlib is missing, or the file cannot be written.
    """
    count = len(look.seen)
    columns = min(count, 4)
    rows = -(-count // columns)
    near_rows = min(count, _MAX_NEIGHBOUR_ROWS if rows < 3 else 3 * rows)
    height = max(rows * 2.95, near_rows * 0.98 + 0.5)
    width = columns * 1.75 + 0.3 + (1 + NEIGHBOURS) * height / (near_rows + 0.5)
    with drawn(out, width, height + 0.7, title, about) as page:
        left, right = page.subfigures(1, 2, width_ratios=(columns * 1.75, width - columns * 1.75))
        grid = left.subplots(
            2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": [3, 2] * rows, "hspace": 0.02}
        )
        for axes in grid.flat:
            axes.set_axis_off()
        for number, seen in enumerate(look.seen):
            row, column = divmod(number, columns)
            _draw_answer(grid[2 * row, column], grid[2 * row + 1, column], seen, look.class_names)
        _draw_neighbours(right, look.seen[:near_rows], look)


def shown(image: Array) -> Array:
    """Return an image uint8[H,W,C] in the shape that imshow expects."""
    return image[..., 0] if image.shape[2] == 1 else image


def short(name: str, most: int = _MAX_NAME) -> str:
    """Shorten a class's name to at most `most` characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def draw_image(axes: Any, image: Array) -> None:
    """Draw an image uint8[H,W,C] without axes."""
    small = max(image.shape[:2]) < 100
    axes.imshow(
        shown(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest" if small else "antialiased"
    )
    axes.set_axis_off()


def _draw_answer(top: Any, under: Any, seen: Seen, classes: list[str]) -> None:
    draw_image(top, seen.image)
    title = short(classes[seen.label] if seen.label is not None else seen.name, 19)
    top.set_title(
        title, loc="center", y=0, pad=-13, fontsize=9, color=INK, fontweight="bold", parse_math=False
    )
    draw_bars(under, seen.classes, seen.probabilities, classes, seen.label)


def draw_bars(
    under: Any, numbers: list[int], probabilities: list[float], classes: list[str], right: int | None
) -> None:
    """Draw a bar for each of the most probable classes.

    Args:
        under: The axes.
        numbers: The classes, at most TOP.
        probabilities: Their probabilities.
        classes: The names of all classes.
        right: The class with another colour.
    """
    colors = [RIGHT if number == right else WRONG for number in numbers]
    rows = range(len(numbers))
    under.barh(rows, probabilities, 0.86, color=colors, alpha=0.55)
    for row, number in zip(rows, numbers, strict=True):
        under.text(0.02, row, short(classes[number]), va="center", fontsize=8, color=INK, parse_math=False)
    under.set_axis_on()
    under.grid(False)
    under.set_xlim(0, 1)
    # Networks with fewer classes get bars of the same height.
    under.set_ylim(TOP - 0.5, -0.5)
    under.set_xticks([])
    under.set_yticks([])
    for spine in under.spines.values():
        spine.set_visible(True)
        spine.set_edgecolor(RULE)


def _draw_neighbours(part: Any, rows: list[Seen], look: Look) -> None:
    grid = part.subplots(
        len(rows), 1 + NEIGHBOURS, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02}
    )
    for line, seen in zip(grid, rows, strict=True):
        for axes in line:
            axes.set_axis_off()
        draw_image(line[0], seen.image)
        for axes, image, (_, _, label) in zip(line[1:], seen.near_images, seen.neighbours, strict=False):
            draw_image(axes, image)
            axes.set_title(
                short(look.class_names[label], 13),
                loc="center",
                fontsize=6.5,
                color=FAINT,
                fontweight="normal",
                pad=2,
                parse_math=False,
            )
    part.suptitle(
        f"nearest in {look.hidden} among {look.among:,} training images",
        x=0.02,
        ha="left",
        fontsize=9.5,
        fontweight="bold",
        parse_math=False,
    )
