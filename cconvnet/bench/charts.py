"""Charts of the results of ``cconvnet bench``, drawn from its result files.

They need matplotlib (the extra ``plot``), which no other part of bench needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cconvnet.bench.kernels import label, pass_name
from cconvnet.bench.step import peak
from cconvnet.plots import PlotError, figure, save

# More rows in a panel are hard to read.
_ROWS_PER_PANEL = 50
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def _measured(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows with times; raise PlotError if there are none."""
    rows = [row for row in result["rows"] if "seconds" in row]
    if not rows:
        raise PlotError("no row was measured, so there is nothing to draw")
    return rows


def _of(result: dict[str, Any]) -> str:
    machine = result["machine"]
    chip = machine.get("chip", machine["device"])
    return ", ".join(
        [
            result["net"],
            *([f"batch {result['batch']}"] if "batch" in result else []),
            result["precision"],
            chip,
        ]
    )


# ---- kernels and steps beside others' --------------------------------------------------------------------


def kernel_bars(result: dict[str, Any], path: Path) -> None:
    """Draw a peer's time over ours for each layer and pass, as bars.

    Without peers the bars are shares of the limit. The first column of each peer is a bar, its other columns
    are marks.

    Args:
        result: A result of cconvnet.bench.kernels.
        path: The image file to write.

    Raises:
        PlotError: matplotlib is missing, the file's ending is unknown, or there is nothing to draw.
    """
    rows = _measured(result)
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
    names = [" ".join(dict.fromkeys([label(row), pass_name(row["operation"])])) for row in rows]
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
    page.suptitle(_of(result))
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
            # Bars begin at 1 and extend to the right where ours is faster.
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
    """Draw the images per second of each side with the spread of its steps, and its peak memory.

    Raises:
        PlotError: As for :func:`cconvnet.plots.figure` and :func:`cconvnet.plots.save`.
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


# ---- how training is fed ---------------------------------------------------------------------------------


def data_bars(result: dict[str, Any], path: Path) -> None:
    """Draw the images per second of each stage on the way into a network.

    Args:
        result: A result of cconvnet.bench.data.
        path: The image file to write.

    Raises:
        PlotError: matplotlib is missing, or the file's ending is unknown.
    """
    rows = result["rows"]
    page = figure(9, 1.4 + 0.45 * len(rows))
    axes = page.subplots()
    limiting = result["limit"]["stage"]
    colors = [
        "tab:gray"
        if row["side"] != "cconvnet"
        else "tab:orange"
        if row["stage"] in (limiting, "train")
        else "tab:blue"
        for row in rows
    ]
    names = [row["stage"] if row["side"] == "cconvnet" else f"{row['side']} {row['stage']}" for row in rows]
    rates = [row["images_per_second"] for row in rows]
    spread = [
        [rate - row["images_per_second_min"] for rate, row in zip(rates, rows, strict=True)],
        [row["images_per_second_max"] - rate for rate, row in zip(rates, rows, strict=True)],
    ]
    bars = axes.barh(names, rates, xerr=spread, color=colors, capsize=3)
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=3)
    # The stages differ by orders of magnitude.
    axes.set_xscale("log")
    axes.set_xlim(min(rates) / 3, max(rates) * 3)
    axes.set_xlabel("images/s, median; lines: slowest and fastest turn; orange: training and what limits it")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    page.suptitle(f"{_of(result)}: {result['workers']} workers, {result['data']}")
    save(page, path)


# ---- the roofline ----------------------------------------------------------------------------------------

_PASS_COLORS = {
    "fprop": "tab:blue",
    "dgrad": "tab:orange",
    "wgrad": "tab:green",
    "wgrad+update": "tab:olive",
    "forward": "tab:cyan",
    "backward": "tab:red",
    "update": "tab:purple",
}
# Operations of each panel that are named; the others are small.
_LABELS = 12


def roofline(result: dict[str, Any], path: Path) -> None:
    """Draw each operation of a step under the device's two peaks.

    The left panel contains the products: their rate over their operations per byte, under the matrix rate and
    the copy rate. The right panel contains all operations that only move memory: their rate over their size,
    under the copy rate. The area of a dot is its time.

    Args:
        result: A result of cconvnet.bench.roofline.
        path: The image file to write.

    Raises:
        PlotError: matplotlib is missing, the file's ending is unknown, or there is nothing to draw.
    """
    rows = _measured(result)
    limits = result["ceilings"]
    rate, bandwidth = limits["flops_per_second"], limits["bytes_per_second"]
    products = [row for row in rows if row["flops"]]
    others = [row for row in rows if not row["flops"]]
    longest = max(row["seconds"] for row in rows)
    page = figure(13, 6)
    left, right = page.subplots(1, 2, width_ratios=(1, 1))

    intensities = [row["flops"] / row["bytes"] for row in products]
    ridge = rate / bandwidth
    low, high = min([*intensities, ridge]) / 2, max([*intensities, ridge]) * 2
    left.plot([low, ridge, high], [low * bandwidth / 1e9, rate / 1e9, rate / 1e9], color="black")
    _dots(left, products, intensities, [row["flops_per_second"] / 1e9 for row in products], longest)
    left.set_xlabel("operations per byte that must be moved")
    left.set_ylabel("GFLOP/s")
    left.set_title(f"products; limit {_rate(rate, 'FLOP/s')}", fontsize=10)

    sizes = [row["bytes"] / row["calls"] / 1e6 for row in others]
    right.axhline(bandwidth / 1e9, color="black")
    _dots(right, others, sizes, [row["bytes_per_second"] / 1e9 for row in others], longest)
    right.set_xlabel("MB that must be moved by each call")
    right.set_ylabel("GB/s")
    right.set_title(
        f"all other operations; limit {_rate(bandwidth, 'B/s')} copied, more only from caches", fontsize=10
    )
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(which="major", alpha=0.3)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    for axes, limit in ((left, rate), (right, bandwidth)):
        bottom, top = axes.get_ylim()
        axes.set_ylim(min(bottom, limit / 1e10), max(top, limit / 4e8))
    page.legend(*_pass_handles(rows), loc="outside lower center", ncols=6)
    page.suptitle(f"{_of(result)}: each operation of a training step; the larger a dot, the longer it takes")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(page)
    canvas.draw()  # the room for labels is known once everything else is placed
    _label(left, products, rate / 1e9)
    _label(right, others, bandwidth / 1e9)
    save(page, path)


def _rate(value: float, unit: str) -> str:
    factor, letter = (1e12, "T") if value >= 1e12 else (1e9, "G")
    return f"{value / factor:,.4g} {letter}{unit}"


def _pass_handles(rows: list[dict[str, Any]]) -> tuple[list[Any], list[str]]:
    from matplotlib.patches import Patch

    names = [name for name in _PASS_COLORS if any(row["pass"] == name for row in rows)]
    return [Patch(color=_PASS_COLORS[name]) for name in names], names


def _dots(axes: Any, rows: list[dict[str, Any]], xs: list[float], ys: list[float], longest: float) -> None:
    sizes = [12 + 300 * row["seconds"] / longest for row in rows]
    colors = [_PASS_COLORS[row["pass"]] for row in rows]
    axes.scatter(xs, ys, sizes, colors, alpha=0.6, edgecolors="white", linewidths=0.5)
    axes.margins(0.1)


def _label(axes: Any, rows: list[dict[str, Any]], limit: float) -> None:
    """Write the names of the longest operations beside their dots, where they overlap nothing."""
    if not rows:
        return
    from matplotlib.text import Text

    places = axes.collections[0].get_offsets()
    # The passes of a layer are close together; their colours distinguish them.
    longest: dict[str, int] = {}
    for index in sorted(range(len(rows)), key=lambda index: -float(rows[index]["seconds"])):
        longest.setdefault(_short(rows[index]), index)
    dots = axes.transData.transform(places)
    radii = [math.sqrt(size) / 2 * axes.figure.dpi / 72 for size in axes.collections[0].get_sizes()]
    taken = [_box(x - r, y - r, x + r, y + r) for (x, y), r in zip(dots, radii, strict=True)]
    height = axes.transData.transform((1, limit))[1]
    taken.append(_box(axes.bbox.x0, height - 2, axes.bbox.x1, height + 2))
    renderer = axes.figure.canvas.get_renderer()
    for name, index in list(longest.items())[:_LABELS]:
        for dx, dy, ha, va in _AROUND:
            text = axes.annotate(
                name,
                places[index],
                (dx, dy),
                textcoords="offset points",
                fontsize=8,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7},
                ha=ha,
                va=va,
                arrowprops={"arrowstyle": "-", "color": "gray", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0},
            )
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer).padded(1)  # without the line to the dot
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _box(*corners: float) -> Any:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(*corners)


# Offsets of a label from its dot in points, the nearest first.
_AROUND = [
    (dx * distance, dy * distance, "left" if dx > 0 else "right" if dx < 0 else "center", "center")
    for distance in (14, 24, 36, 50, 66)
    for dx, dy in ((1, 0.3), (1, -0.3), (-1, 0.3), (-1, -0.3), (0, 1), (0, -1), (0.8, 0.9), (0.8, -0.9))
]


def _short(row: dict[str, Any]) -> str:
    """Return the layer, with the operation if it is not the layer's main one."""
    name: str = row["operation"]
    layer: str = row["layer"]
    weighted = row["type"] in ("conv", "fc", "local")
    if not weighted or row["flops"]:
        return layer
    return f"{layer} {name.partition('_')[0] if row['pass'] != 'update' else 'update'}"


# ---- where the time goes ---------------------------------------------------------------------------------


def step_stack(result: dict[str, Any], path: Path) -> None:
    """Draw the time of each layer in a step as a stack of its passes, with its floor, and the whole step.

    Args:
        result: A result of cconvnet.bench.roofline.
        path: The image file to write.

    Raises:
        PlotError: matplotlib is missing, the file's ending is unknown, or there is nothing to draw.
    """
    rows = _measured(result)
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    page = figure(11, 2.6 + 0.3 * len(layers))
    whole, each = page.subplots(2, 1, height_ratios=(2, max(len(layers), 3)))

    time = {name: 1e3 * sum(row["seconds"] for row in rows if row["pass"] == name) for name in _PASS_COLORS}
    floor = {
        name: 1e3 * sum(row["floor_seconds"] for row in rows if row["pass"] == name) for name in _PASS_COLORS
    }
    totals = {"step": result["step"]["seconds"] * 1e3, "floor": result["step"]["floor_seconds"] * 1e3}
    for place, parts in enumerate((time, floor)):
        start = 0.0
        for name, length in parts.items():
            whole.barh(place, length, 0.75, start, color=_PASS_COLORS[name], alpha=0.85)
            if length > 0.06 * max(totals.values()):
                whole.text(
                    start + length / 2, place, f"{length:.3g}", ha="center", va="center", color="white"
                )
            start += length
        if place == 0 and (rest := totals["step"] - start) > 0:
            whole.barh(place, rest, 0.75, start, color="lightgray")
            if rest > 0.06 * totals["step"]:
                whole.text(start + rest / 2, place, f"{rest:.3g}", ha="center", va="center")
    whole.set_yticks([0, 1], [f"step, {totals['step']:,.4g} ms", f"floor, {totals['floor']:,.4g} ms"])
    whole.invert_yaxis()

    for place, layer in enumerate(layers):
        start = 0.0
        own = [row for row in rows if row["layer"] == layer]
        for row in sorted(own, key=lambda row: list(_PASS_COLORS).index(row["pass"])):
            length = 1e3 * row["seconds"]
            color = _PASS_COLORS[row["pass"]]
            each.barh(place, length, 0.7, start, color=color, alpha=0.85, edgecolor="white", linewidth=0.4)
            start += length
        least = 1e3 * sum(row["floor_seconds"] for row in own)
        each.plot([least, least], [place - 0.45, place + 0.45], color="black", linewidth=2)
        each.annotate(
            f"{start:.3g} ms, {least / max(start, 1e-9):.0%}",
            (max(start, least), place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    each.set_yticks(range(len(layers)), layers)
    each.set_ylim(len(layers) - 0.4, -0.6)
    each.margins(x=0.12)
    each.set_xlabel("ms; black: the layer's floor, with the share of it that is reached")
    for axes in (whole, each):
        axes.set_xlim(0, None)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    from matplotlib.patches import Patch

    handles, names = _pass_handles(rows)
    page.legend(
        [*handles, Patch(color="lightgray")], [*names, "rest: loading, the host"], loc="outside lower center",
        ncols=7, fontsize=9,
    )  # fmt: skip
    page.suptitle(f"{_of(result)}: where the time of a training step goes")
    save(page, path)


# ---- scaling ---------------------------------------------------------------------------------------------


def scaling(result: dict[str, Any], path: Path) -> None:
    """Draw the time and the memory of a step over the batch, and over the height of the images.

    Args:
        result: A result of cconvnet.bench.scaling.
        path: The image file to write.

    Raises:
        PlotError: matplotlib is missing, the file's ending is unknown, or there is nothing to draw.
    """
    measured = _measured(result)
    names = [name for name in ("batch", "size") if any(row["series"] == name for row in measured)]
    page = figure(10, 0.8 + 3.6 * len(names))
    for name, (time, memory) in zip(names, page.subplots(len(names), 2, squeeze=False), strict=True):
        rows = [row for row in measured if row["series"] == name]
        _growth(time, result, rows, name, "seconds", 1e3, "tab:blue", "a step")
        _growth(memory, result, rows, name, "memory_bytes", 1e-6, "tab:blue", "the network, as planned")
        if "peak_rss_bytes" in rows[0]:
            _growth(memory, result, rows, name, "peak_rss_bytes", 1e-6, "tab:orange", "the whole process")
        time.set_ylabel("step, ms")
        memory.set_ylabel("memory, MB")
        fixed = f"{rows[0]['size']} pixels" if name == "batch" else f"batch {rows[0]['batch']}"
        values = [row[name] for row in rows]
        for axes in (time, memory):
            axes.set_xlabel(f"batch, at {fixed}" if name == "batch" else f"height of the images, at {fixed}")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(values, [str(value) for value in values], fontsize=8)
            axes.minorticks_off()
            low, high = axes.get_ylim()
            # At least a decade, so that values that hardly grow look like it.
            middle = math.sqrt(low * high)
            axes.set_ylim(min(low, middle / 4), max(high, middle * 4))
            _plain_ticks(axes.yaxis)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
    page.suptitle(f"{_of(result)}: how a training step grows")
    save(page, path)


def _growth(
    axes: Any,
    result: dict[str, Any],
    rows: list[dict[str, Any]],
    series: str,
    key: str,
    unit: float,
    color: str,
    what: str,
) -> None:
    """Draw the points of a series and both fits over all of them: a power and a straight line."""
    values = [row[series] for row in rows]
    fitted = (result["fits"].get(series) or {}).get(key)
    # The memory of a process has a large fixed part, which no power fits.
    if fitted and key != "peak_rss_bytes":
        what += f", ~ {'batch' if series == 'batch' else 'side'}^{fitted['exponent']:.2f}"
        power = [unit * fitted["factor"] * value ** fitted["exponent"] for value in values]
        axes.plot(values, power, "--", color=color, linewidth=1)
    axes.plot(values, [unit * row[key] for row in rows], "o", color=color, label=what)
    if fitted:
        each = fitted["per_image"] if series == "batch" else fitted["per_pixel"]
        grown = [value if series == "batch" else value * value for value in values]
        total = [unit * (fitted["fixed"] + each * value) for value in grown]
        if min(total) > 0:
            per = "image" if series == "batch" else "pixel"
            name = "ms" if key == "seconds" else "MB"
            label = f"{unit * fitted['fixed']:.3g} {name} + {unit * each:.3g} {name} for each {per}"
            axes.plot(values, total, "-", color=color, linewidth=1, alpha=0.6, label=label)


def _plain_ticks(axis: Any) -> None:
    """Write plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
