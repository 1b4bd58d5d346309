"""Charts of what ``cconvnet bench`` found, drawn from its result files.

They need matplotlib (the extra ``plot``), which nothing else does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cconvnet.bench.kernel_table import pass_name
from cconvnet.bench.step import peak
from cconvnet.plots import PlotError, figure, save

# As many rows are still read with ease beside each other.
_ROWS_PER_PANEL = 50
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def kernel_bars(result: dict[str, Any], path: Path) -> None:
    """Bars of a peer's time over ours for each layer and pass; without peers, of the share of the limit.

    The first column of each peer is a bar, its other columns are marks.

    Args
        result: of cconvnet.bench.kernels.

    Raises
        PlotError: matplotlib is missing, the file's ending is unknown, or there is nothing to draw.
    """
    rows = [row for row in result["rows"] if "seconds" in row]
    if not rows:
        raise PlotError("no row was measured, so there is nothing to draw")
    values = [{name: peer["ratio"] for name, peer in row["peers"].items() if "ratio" in peer} for row in rows]
    columns = list(dict.fromkeys(name for found in values for name in found))
    if not columns:
        columns, values = ["limit"], [{"limit": row["share"]} for row in rows]
    first_of: dict[str, str] = {}
    for name in columns:
        first_of.setdefault(name.partition(" ")[0], name)
    panels = math.ceil(len(rows) / _ROWS_PER_PANEL)
    length = math.ceil(len(rows) / panels)
    page = figure(7 * panels, 1.6 + 0.19 * length)
    names = [" ".join(dict.fromkeys([row["layer"], pass_name(row["operation"])])) for row in rows]
    every = [value for found in values for value in found.values()]
    low, high = min([*every, 0.9]) / 1.4, max([*every, 1.1]) * 2
    for panel, axes in enumerate(page.subplots(1, panels, squeeze=False)[0]):
        part = slice(panel * length, (panel + 1) * length)
        _panel(axes, names[part], values[part], columns, set(first_of.values()))
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(length - 0.4, -0.6)
        ticks = [tick for tick in _TICKS if low <= tick <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(
            "share of the limit" if columns == ["limit"] else "its time over ours; above 1 ours is faster"
        )
        if panel == 0 and columns != ["limit"]:
            page.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(columns))
    machine = result["machine"]
    chip = machine.get("chip", machine["device"])
    page.suptitle(f"{result['net']}, batch {result['batch']}, {result['precision']}, {chip}")
    save(page, path)


def _panel(
    axes: Any, names: list[str], values: list[dict[str, float]], columns: list[str], bars: set[str]
) -> None:
    colors = ["tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple"]
    for index, column in enumerate(columns):
        places = [place for place, found in enumerate(values) if column in found]
        lengths = [values[place][column] for place in places]
        color = colors[index % len(colors)]
        if column in bars:
            # From 1 on, to the right where ours is faster.
            axes.barh(places, [value - 1 for value in lengths], 0.8, 1, color=color, alpha=0.75, label=column)
            for place, value in zip(places, lengths, strict=True):
                side = 4 if value >= 1 else -4
                axes.annotate(
                    f"{value:.2f}",
                    (max(values[place].values()) if value >= 1 else value, place),
                    (side, 0),
                    textcoords="offset points",
                    va="center",
                    ha="left" if value >= 1 else "right",
                    fontsize=6,
                )
        else:
            axes.plot(lengths, places, "|", color=color, markersize=7, markeredgewidth=2, label=column)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.grid(axis="x", alpha=0.3)


def step_bars(result: Mapping[str, Any], path: Path) -> None:
    """Draws images per second of each side, with the spread of its steps, and its peak memory beside them.

    Raises PlotError as :func:`cconvnet.plots.figure` and :func:`cconvnet.plots.save`.
    """
    rows = result["rows"]
    names = [" ".join(filter(None, [row["side"], row["form"].replace("+", ", ")])) for row in rows]
    drawing = figure(10, 1.2 + 0.45 * len(rows))
    rate, memory = drawing.subplots(1, 2, sharey=True)
    processor = result["machine"].get("chip", result["device"])
    drawing.suptitle(
        f"{result['net']}, a training step of {result['batch']} images, {result['precision']}, {processor}"
    )
    colors = ["tab:blue" if row is rows[0] else "tab:gray" for row in rows]
    rates = [row["images_per_second"] for row in rows]
    spread = [
        [own - result["batch"] / row["seconds_max"] for own, row in zip(rates, rows, strict=True)],
        [result["batch"] / row["seconds_min"] - own for own, row in zip(rates, rows, strict=True)],
    ]
    bars = rate.barh(names, rates, xerr=spread, color=colors, capsize=3)
    rate.bar_label(bars, [f"{value:,.1f}" for value in rates], padding=3)
    rate.set_xlabel("images/s, median; lines: slowest and fastest step")
    rate.invert_yaxis()
    peaks = [peak(row) / 1e6 for row in rows]
    bars = memory.barh(names, peaks, color=colors)
    memory.bar_label(bars, [f"{value:,.0f}" for value in peaks], padding=3)
    memory.set_xlabel("peak memory, MB")
    for axes in (rate, memory):
        axes.margins(x=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    save(drawing, path)
