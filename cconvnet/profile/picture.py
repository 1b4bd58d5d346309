"""The picture of a profile: where the predicted time of a step goes, and what binds it.

It needs matplotlib (the extra ``plot``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cconvnet.plots import PlotError, figure, save
from cconvnet.plots.figures import COLORS, INK
from cconvnet.profile.model import RESOURCES

_GAPS = "gaps"
_GRAY = "#b8c0c8"
# Resources that bind seldom share the last colour.
_OF_RESOURCE = {
    "tensor": COLORS[0],
    "l2": COLORS[1],
    "dram": COLORS[2],
    "issue": COLORS[3],
    "shared": COLORS[4],
    "serial": COLORS[5],
    _GAPS: _GRAY,
}
_OTHER = "#7a6f9b"
# Shorter passes have no bar of their own.
_LEAST_SHARE = 0.003


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the time of the step as a stack of what binds it, and the time of each layer's pass.

    Args:
        result: A result of cconvnet.profile.result.profile.
        path: The image file to write.

    Raises:
        PlotError: matplotlib is missing, the file's ending is unknown, or nothing was predicted.
    """
    rows = [row for row in result["kernels"] if "seconds" in row]
    if not rows or "seconds" not in result["step"]:
        raise PlotError("nothing was predicted, so there is nothing to draw")
    passes: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        passes.setdefault(f"{row['layer']} {row['pass'].removesuffix('+update')}", []).append(row)
    shortest = _LEAST_SHARE * result["step"]["seconds"]
    passes = {name: own for name, own in passes.items() if sum(row["seconds"] for row in own) >= shortest}
    page = figure(10, 2.4 + 0.2 * len(passes))
    whole, each = page.subplots(2, 1, height_ratios=(2, max(len(passes), 4)))
    _draw_step(whole, result, rows)
    for place, own in enumerate(passes.values()):
        start = 0.0
        for row in own:
            length = 1e6 * row["seconds"]
            each.barh(place, length, 0.7, start, color=_color(row["binds"]))
            start += length
        error = [1e6 * abs(sum(row[key] for row in own)) - start for key in ("least_seconds", "most_seconds")]
        each.plot([start + error[0], start + error[1]], [place] * 2, color=INK, linewidth=0.6)
        floor = 1e6 * sum(row["floor_seconds"] for row in own)
        each.plot([floor, floor], [place - 0.4, place + 0.4], color=INK, linewidth=2)
    each.set_yticks(range(len(passes)), list(passes), fontsize=7)
    each.set_ylim(len(passes) - 0.4, -0.6)
    each.set_xlabel("predicted us; thick: the floor, thin: the range of the prediction")
    for axes in (whole, each):
        axes.set_xlim(0, None)
        axes.grid(axis="y", visible=False)
    _add_legend(page, rows)
    page.suptitle(
        f"{result['net']}, batch {result['batch']}, {result['precision']}: predicted for "
        f"{result['chip']['name']}, not measured"
    )
    save(page, path)


def _draw_step(axes: Any, result: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> None:
    """Draw the whole step over its floor."""
    step = result["step"]
    bound = {name: sum(row["seconds"] for row in rows if row["binds"] == name) for name in RESOURCES}
    start = 0.0
    for name, seconds in [*bound.items(), (_GAPS, step["gap_seconds"])]:
        length = 1e3 * seconds
        axes.barh(0, length, 0.75, start, color=_color(name))
        if seconds > 0.06 * step["seconds"]:
            axes.text(start + length / 2, 0, f"{length:.3g}", ha="center", va="center", color="white")
        start += length
    axes.barh(1, 1e3 * step["floor_seconds"], 0.75, color=INK)
    axes.set_yticks(
        [0, 1], [f"step, {1e3 * step['seconds']:.3g} ms", f"floor, {1e3 * step['floor_seconds']:.3g} ms"]
    )
    axes.invert_yaxis()
    axes.set_xlabel("ms")


def _color(resource: str) -> str:
    return _OF_RESOURCE.get(resource, _OTHER)


def _add_legend(page: Any, rows: list[Mapping[str, Any]]) -> None:
    from matplotlib.patches import Patch

    bound = {row["binds"] for row in rows}
    names = [name for name in RESOURCES if name in bound]
    handles = [Patch(color=_color(name)) for name in [*names, _GAPS]]
    labels = [f"bound by {name}" for name in names] + ["gaps between kernels"]
    page.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
