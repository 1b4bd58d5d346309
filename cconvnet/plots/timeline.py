"""Pictures of the time of a training step: spans of layers, updates and copies, and the costliest layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cconvnet.network.tracing import PASSES, Record, Span
from cconvnet.plots.figures import COLORS, FAINT, INK, drawn

_PASS_COLORS = {
    "load": COLORS[5],
    "forward": COLORS[0],
    "check": COLORS[3],
    "backward": COLORS[1],
    "update": COLORS[2],
    "copy": COLORS[4],
}
_MAX_LAYERS = 16
_LANE_INCHES = 0.75
_BAR_INCHES = 0.24
_WIDTH = 11.0
_PANEL_INCHES = 9.3  # width of the panels, between the names on their left and the right edge
_LABEL_POINTS = 7.5
_CHARACTER_INCHES = 0.062  # mean width of a character of that size
_LINE_INCHES = 0.13  # height of a line of that size
_MIN_EDGED_INCHES = 0.03  # narrower bars have no white edge


def timeline(record: Record, out: Path) -> str:
    """Draw a traced step: a lane for each device and each direction of copies, and the layers by cost.

    Args:
        record: The step.
        out: The file.

    Returns:
        The line about the step that is in the picture.

    Raises:
        PlotError: matplotlib is missing, or the file cannot be written.
    """
    rows = costliest(record)
    lanes, bars = _LANE_INCHES * len(record.lanes) + 0.75, _BAR_INCHES * len(rows) + 0.6
    line = about(record)
    with drawn(out, _WIDTH, lanes + bars + 0.7, f"{record.net}: a training step", line) as page:
        above, below = page.subplots(2, 1, height_ratios=(lanes, bars))
        _draw_lanes(above, record)
        _draw_costs(below, rows, record.seconds)
    return line


def about(record: Record) -> str:
    """Return a line with batch, precision, devices, times, and the share of the time outside all layers."""
    share = record.unaccounted / record.seconds
    captured = "" if record.devices[0].split(":")[0] != "cuda" else " and captured as one launch"
    return (
        f"batch {record.batch}, {record.precision}, {', '.join(record.devices)}: {in_time(record.seconds)} "
        f"({record.batch / record.seconds:,.0f} images/s), the median of {record.steps}; "
        f"{share:.1%} of it in no layer; not traced{captured} {in_time(record.untraced_seconds)}"
    )


def in_time(seconds: float) -> str:
    """Format a time with three digits in a suitable unit."""
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
    unit, size = next((pair for pair in units if seconds >= pair[1]), units[-1])
    value = seconds / size
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def costliest(record: Record) -> list[dict[str, Any]]:
    """Return the costliest layers first, then the sum of the others, then the time outside all layers.

    Each is a row of Record.totals(). If there are several lanes, the sum can exceed the duration of the step.
    """
    rows = sorted(record.totals(), key=total, reverse=True)
    rest = rows[_MAX_LAYERS:]
    found = rows[:_MAX_LAYERS]
    if rest:
        sums = {what: sum(row[what] for row in rest) for what in PASSES}
        found.append({"layer": f"{len(rest)} others", **sums})
    return [*found, {"layer": "no layer", **dict.fromkeys(PASSES, 0.0), "idle": record.unaccounted}]


def total(row: dict[str, Any]) -> float:
    """Return the seconds of a row of costliest()."""
    return float(sum(value for name, value in row.items() if name != "layer"))


def _draw_lanes(axes: Any, record: Record) -> None:
    unit, size = _unit(record.seconds)
    for span in record.spans:
        lane, color = record.lanes.index(span.lane), _PASS_COLORS[span.what]
        inches = span.seconds / record.seconds * _PANEL_INCHES
        # White edges separate neighbours, but would hide bars that are no wider than they are.
        edge = "white" if inches > _MIN_EDGED_INCHES else color
        bar = {"height": 0.8, "color": color, "edgecolor": edge, "linewidth": 0.5}
        axes.barh(lane, span.seconds / size, left=span.begin / size, **bar)
        _label(axes, lane, span, inches, size)
    axes.set_yticks(range(len(record.lanes)), record.lanes)
    axes.set_ylim(len(record.lanes) - 0.5, -0.5)
    axes.set_xlim(0, record.seconds / size)
    axes.set_xlabel(unit)
    axes.grid(axis="y", visible=False)
    used = [what for what in PASSES if any(span.what == what for span in record.spans)]
    one = len(record.devices) == 1
    names = {"backward": "backward with the update" if one else "backward", "check": "loss checked"}
    from matplotlib.patches import Patch

    axes.legend(
        handles=[Patch(color=_PASS_COLORS[what], label=names.get(what, what)) for what in used],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(used),
        handlelength=1,
        handleheight=1,
        borderpad=0,
        borderaxespad=0.3,
        labelcolor=FAINT,
    )


def _label(axes: Any, lane: int, span: Span, inches: float, size: float) -> None:
    """Write the layer's name on a span that has room for it, vertically if the span is narrow.

    Of layers that are computed together, only the first is named if there is no room for all.
    """
    first = span.layer.split("+")[0]
    rooms = [(0, inches - 0.05)] + [(90, 0.75 * _LANE_INCHES)] * (inches > _LINE_INCHES)
    fitting = (
        (name, rotation)
        for rotation, room in rooms
        for name in (span.layer, first)
        if len(name) * _CHARACTER_INCHES < room
    )
    name, rotation = next(fitting, ("", 0))
    axes.text(
        (span.begin + span.end) / 2 / size,
        lane,
        name,
        ha="center",
        va="center",
        rotation=rotation,
        color="white" if span.what in ("forward", "backward", "update", "check") else INK,
        fontsize=_LABEL_POINTS,
        clip_on=True,
    )


def _draw_costs(axes: Any, rows: list[dict[str, Any]], seconds: float) -> None:
    unit, size = _unit(seconds)
    for index, row in enumerate(rows):
        left = 0.0
        for what, color in (*_PASS_COLORS.items(), ("idle", FAINT)):
            length = row.get(what, 0.0) / size
            axes.barh(index, length, left=left, color=color, height=0.7, edgecolor="white", linewidth=0.3)
            left += length
        share = f"  {in_time(total(row))}  {total(row) / seconds:.1%}"
        axes.text(left, index, share, va="center", fontsize=8.5, color=FAINT)
    axes.set_yticks(range(len(rows)), [row["layer"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.18 * max(total(row) for row in rows) / size)
    axes.set_xlabel(unit)
    axes.set_title("by layer, and their share of the step")
    axes.grid(axis="y", visible=False)


def _unit(seconds: float) -> tuple[str, float]:
    return ("seconds", 1.0) if seconds >= 2 else ("milliseconds", 1e-3) if seconds >= 2e-3 else ("µs", 1e-6)
