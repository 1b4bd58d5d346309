"""Pictures of a training step of several ranks: their work, exchanges and waits, and how long each waited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cconvnet.network.rank_tracing import RankRecord, RanksRecord, side_by_side
from cconvnet.network.tracing import PASSES
from cconvnet.plots.figures import FAINT, RULE, drawn
from cconvnet.plots.timeline import (
    BAR_INCHES,
    LANE_INCHES,
    PASS_COLORS,
    WIDTH,
    draw_bar,
    draw_legend,
    draw_shards,
    end_lanes,
    in_time,
    time_unit,
)

# The colours of transfers that go on, paler than those of the work that they follow.
TRANSFERS = {
    "check": "#e6bcd3",
    "activations": "#a9d8f2",
    "factors": "#f7e08a",
    "gradients": "#f2c879",
    "weights": "#8fd0bb",
}
_FOR_RANK: dict[str, Any] = {"facecolor": "white", "edgecolor": FAINT, "hatch": "////", "linewidth": 0.5}
_FOR_TRANSFER = RULE
# In lanes: the work of a rank, its transfers below, and the distance to the next rank.
_WORK, _MOVING, _BETWEEN = 0.8, 0.65, 0.35
_LANES = _WORK + _MOVING + _BETWEEN
_MAX_INCHES = 7.0  # of all lanes, unless there are so many that they would be thinner than
_MIN_LANE_INCHES = 0.2


def rank_timeline(record: RanksRecord, out: Path) -> str:
    """Draw a traced step of several ranks: two lanes for each, and the time that each worked and waited.

    Args:
        record: The step.
        out: The file.

    Returns:
        The line about the step that is in the picture.

    Raises:
        PlotError: matplotlib is missing, or the file cannot be written.
    """
    count = len(record.ranks)
    inches = max(_MIN_LANE_INCHES, min(LANE_INCHES, _MAX_INCHES / _LANES / count))
    lanes, bars = inches * _LANES * count + 1.0, BAR_INCHES * count + 0.6
    line = about(record)
    title = f"{record.net}: a training step of {count} ranks"
    with drawn(out, WIDTH, lanes + bars + 0.7, title, line) as page:
        above, below = page.subplots(2, 1, height_ratios=(lanes, bars))
        _draw_lanes(above, record, inches)
        _draw_sums(below, record)
    return line


def about(record: RanksRecord) -> str:
    """Return a line with batch, precision, hosts, times, and how well the clocks agree."""
    hosts = list(dict.fromkeys(rank.host for rank in record.ranks))
    where = f"on {hosts[0]}" if len(hosts) == 1 else f"on {len(hosts)} hosts"
    return (
        f"batch {record.batch} in {record.shards} shards, {record.precision}, {where}: "
        f"{in_time(record.seconds)} ({record.batch / record.seconds:,.0f} images/s), the median of "
        f"{record.steps}; not traced {in_time(record.untraced_seconds)}; "
        f"clocks agree to {in_time(record.clock_error)}"
    )


def _draw_lanes(axes: Any, record: RanksRecord, inches: float) -> None:
    ticks = []
    for number, rank in enumerate(record.ranks):
        top = number * _LANES
        ticks += [(top + _WORK / 2, _name(record, number))]
        ticks += [(top + _WORK + _MOVING / 2, "exchange")]
        _draw_work(axes, record, rank, top + _WORK / 2, inches)
        _draw_transfers(axes, record, rank, top + _WORK, inches)
    axes.set_yticks(*zip(*ticks, strict=True))
    axes.set_ylim(len(record.ranks) * _LANES - _BETWEEN, -_BETWEEN)
    end_lanes(axes, record.seconds)
    _draw_legend(axes, record)


def _name(record: RanksRecord, number: int) -> str:
    rank = record.ranks[number]
    several = len({rank.host for rank in record.ranks}) > 1
    return (
        f"rank {number}\n{rank.host.split('.')[0]} {rank.device}"
        if several
        else f"rank {number}\n{rank.device}"
    )


def _draw_work(axes: Any, record: RanksRecord, rank: RankRecord, lane: float, inches: float) -> None:
    def draw(stretch: tuple[float, float], names: tuple[str, ...], color: str, **style: Any) -> None:
        draw_bar(axes, lane, stretch, record.seconds, names, color, height=_WORK, lane_inches=inches, **style)

    for span in rank.spans:
        draw((span.begin, span.end), (span.layer, span.layer.split("+")[0]), PASS_COLORS[span.what])
    for wait in rank.waits:
        if wait.rank is None:
            draw((wait.begin, wait.end), (f"{wait.of} {wait.what}", wait.of), _FOR_TRANSFER)
        else:
            names = (f"waits for rank {wait.rank}", f"rank {wait.rank}")
            draw((wait.begin, wait.end), names, "white", **_FOR_RANK)
    draw_shards(axes, rank.spans, record.seconds, lane - _WORK / 2)


def _draw_transfers(axes: Any, record: RanksRecord, rank: RankRecord, top: float, inches: float) -> None:
    """Draw transfers from their begin to their end, those at the same time below each other."""
    rows = side_by_side(rank.transfers)
    height = _MOVING / (max(rows, default=0) + 1)
    for row, one in zip(rows, rank.transfers, strict=True):
        names = (f"{one.of} {one.what}", one.of)
        draw_bar(
            axes,
            top + (row + 0.5) * height,
            (one.begin, one.end),
            record.seconds,
            names,
            TRANSFERS[one.what],
            height=height,
            lane_inches=inches,
        )


def _draw_legend(axes: Any, record: RanksRecord) -> None:
    from matplotlib.patches import Patch

    names = {"check": "loss checked", "exchange": "exchange begun"}
    spans = {span.what for rank in record.ranks for span in rank.spans}
    handles = [
        Patch(color=PASS_COLORS[what], label=names.get(what, what)) for what in PASSES if what in spans
    ]
    handles.append(Patch(label="waits for a rank", **_FOR_RANK))
    handles.append(Patch(color=_FOR_TRANSFER, label="waits for a transfer"))
    handles.append(Patch(color=FAINT, label="in no layer"))
    moved = {one.what for rank in record.ranks for one in rank.transfers}
    labels = {"check": "losses"}
    handles += [
        Patch(color=color, label=f"exchange of {labels.get(what, what)}")
        for what, color in TRANSFERS.items()
        if what in moved
    ]
    draw_legend(axes, handles, -(-len(handles) // 3))


def _draw_sums(axes: Any, record: RanksRecord) -> None:
    unit, size = time_unit(record.seconds)
    for number, rank in enumerate(record.ranks):
        left = 0.0
        for length, style in _sums(record, rank):
            look = {"height": 0.7, "edgecolor": "white", "linewidth": 0.3} | style
            axes.barh(number, length / size, left=left / size, **look)
            left += length
        text = f"  waits {in_time(rank.waited)}, {rank.waited / record.seconds:.1%}"
        axes.text(left / size, number, text, va="center", fontsize=8.5, color=FAINT)
    axes.set_yticks(range(len(record.ranks)), [f"rank {number}" for number in range(len(record.ranks))])
    axes.set_ylim(len(record.ranks) - 0.4, -0.6)
    axes.set_xlim(0, 1.18 * record.seconds / size)
    axes.set_xlabel(unit)
    axes.set_title(f"by rank: the others wait for rank {record.slowest}, which waits least")
    axes.grid(visible=False)


def _sums(record: RanksRecord, rank: RankRecord) -> list[tuple[float, dict[str, Any]]]:
    """Return the seconds of each kind of work and wait, and how they are drawn."""
    found: list[tuple[float, dict[str, Any]]] = [
        (sum(span.seconds for span in rank.spans if span.what == what), {"color": color})
        for what, color in PASS_COLORS.items()
    ]
    found.append((sum(wait.seconds for wait in rank.waits if wait.rank is not None), _FOR_RANK))
    found.append((sum(wait.seconds for wait in rank.waits if wait.rank is None), {"color": _FOR_TRANSFER}))
    return [*found, (record.unaccounted(rank), {"color": FAINT})]
