"""Charts of what ``cconvnet bench`` found, drawn from its result files.

They need matplotlib (the extra ``plot``), which nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cconvnet.bench.step import peak
from cconvnet.plots import figure, save


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
