"""Pictures of the time of a training step: spans of layers, updates and copies, and the costliest layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cconvnet.network.tracing import PASSES, Record, Span
from cconvnet.plots.figures import COLORS, FAINT, INK, drawn

PASS_COLORS = {
    "load": COLORS[5],
    "forward": COLORS[0],
    "check": COLORS[3],
    "backward": COLORS[1],
    "exchange": COLORS[4],
    "update": COLORS[2],
    "copy": COLORS[4],
}
LANE_INCHES = 0.75
BAR_INCHES = 0.24
WIDTH = 11.0
_MAX_LAYERS = 16
_PANEL_INCHES = 9.3  # width of the panels, between the names on their left and the right edge
_LABEL_POINTS = 7.5
_CHARACTER_INCHES = 0.062  # mean width of a character of that size
_LINE_INCHES = 0.13  # height of a line of that size
_DARK = [PASS_COLORS[what] for what in ("forward", "backward", "update", "check")]  # with white names
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
    lanes, bars = LANE_INCHES * len(record.lanes) + 0.75, BAR_INCHES * len(rows) + 0.6
    line = about(record)
    with drawn(out, WIDTH, lanes + bars + 0.7, f"{record.net}: a training step", line) as page:
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
    for span in record.spans:
        # Of layers that are computed together, only the first is named if there is no room for all.
        names = (span.layer, span.layer.split("+")[0])
        lane = record.lanes.index(span.lane)
        draw_bar(axes, lane, (span.begin, span.end), record.seconds, names, PASS_COLORS[span.what])
    axes.set_yticks(range(len(record.lanes)), record.lanes)
    in_shards = draw_shards(axes, record.spans, record.seconds, -0.4)
    axes.set_ylim(len(record.lanes) - 0.5, -0.75 if in_shards else -0.5)
    end_lanes(axes, record.seconds)
    used = [what for what in PASSES if any(span.what == what for span in record.spans)]
    one = len(record.devices) == 1 and not in_shards
    labels = {"backward": "backward with the update" if one else "backward", "check": "loss checked"}
    from matplotlib.patches import Patch

    draw_legend(axes, [Patch(color=PASS_COLORS[what], label=labels.get(what, what)) for what in used])


def draw_shards(axes: Any, spans: Sequence[Span], whole: float, top: float) -> bool:
    """Write the number of each shard above the begin of its passes, if there are several and there is room.

    Args:
        axes: The axes.
        spans: The spans of a device.
        whole: The seconds of the axis.
        top: The upper edge of the lane.

    Returns:
        True if there are several.
    """
    _, size = time_unit(whole)
    in_shards = [span for span in spans if span.shard is not None]
    if len({span.shard for span in in_shards}) < 2:
        return False
    first = in_shards[:1] + [b for a, b in itertools.pairwise(in_shards) if a.shard != b.shard]
    ends = [span.begin for span in first[1:]] + [whole]
    for span, end in zip(first, ends, strict=True):
        begin, text = span.begin / size, f" shard {span.shard}"
        if (end - span.begin) / whole * _PANEL_INCHES > len(text) * _CHARACTER_INCHES:
            axes.plot([begin, begin], [top, top - 0.22], color=FAINT, linewidth=0.8)
            axes.text(begin, top - 0.02, text, fontsize=_LABEL_POINTS, color=FAINT, va="bottom")
    return True


def end_lanes(axes: Any, seconds: float) -> None:
    """Let an axis of time begin at 0 and end with the step."""
    unit, size = time_unit(seconds)
    axes.set_xlim(0, seconds / size)
    axes.set_xlabel(unit)
    axes.grid(axis="y", visible=False)


def draw_legend(axes: Any, handles: list[Any], columns: int | None = None) -> None:
    """Draw a legend above the right corner."""
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=columns or len(handles),
        handlelength=1,
        handleheight=1,
        borderpad=0,
        borderaxespad=0.3,
        labelcolor=FAINT,
    )


def draw_bar(
    axes: Any,
    lane: float,
    stretch: tuple[float, float],
    whole: float,
    names: Sequence[str],
    color: str,
    *,
    height: float = 0.8,
    lane_inches: float = LANE_INCHES,
    **style: Any,
) -> None:
    """Draw a stretch of time with a name, if there is room for one.

    Args:
        axes: The axes, whose horizontal unit is that of time_unit().
        lane: Where its middle is.
        stretch: Its begin and end, in seconds.
        whole: The seconds of the axis.
        names: Names, the longest first.
        color: Of the bar.
        height: Its part of a lane.
        lane_inches: The height of a lane.
        style: Further arguments of barh().
    """
    _, size = time_unit(whole)
    begin, end = stretch
    inches = (end - begin) / whole * _PANEL_INCHES
    # White edges separate neighbours, but would hide bars that are no wider than they are.
    edge = "white" if inches > _MIN_EDGED_INCHES else color
    look = {"height": height, "color": color, "edgecolor": edge, "linewidth": 0.5} | style
    axes.barh(lane, (end - begin) / size, left=begin / size, **look)
    upright = height * lane_inches - 0.02
    rooms = [(0, inches - 0.05)] * (upright > _LINE_INCHES) + [(90, upright)] * (inches > _LINE_INCHES)
    fitting = (
        (name, rotation) for rotation, room in rooms for name in names if len(name) * _CHARACTER_INCHES < room
    )
    name, rotation = next(fitting, ("", 0))
    axes.text(
        (begin + end) / 2 / size,
        lane,
        name,
        ha="center",
        va="center",
        rotation=rotation,
        color="white" if color in _DARK else INK,
        fontsize=_LABEL_POINTS,
        clip_on=True,
        bbox={"color": "white", "pad": 0.8} if name and "hatch" in style else None,
    )


def _draw_costs(axes: Any, rows: list[dict[str, Any]], seconds: float) -> None:
    unit, size = time_unit(seconds)
    for index, row in enumerate(rows):
        left = 0.0
        for what, color in (*PASS_COLORS.items(), ("idle", FAINT)):
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


def time_unit(seconds: float) -> tuple[str, float]:
    """Return the name of a unit for stretches of a time, and its seconds."""
    return ("seconds", 1.0) if seconds >= 2 else ("milliseconds", 1e-3) if seconds >= 2e-3 else ("µs", 1e-6)
