"""Charts of exchanges between ranks and of predictions for ranks; see :mod:`cconvnet.bench.charts`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cconvnet.bench.exchange import headline, size_text
from cconvnet.plots import drawn
from cconvnet.plots.figures import COLORS
from cconvnet.training.options import EXCHANGES, PARALLELS, WIRES

_MARKERS = "osD^v*"
_LABELS = {
    "tree": "tree: as training",
    "tree bf16": "tree bf16: --wire bf16",
    "fast": "fast: --reduce fast",
    "MPI": "MPI: its own sum, waited for as training waits",
    "MPI blocking": "MPI blocking: keeps the core busy",
}
_TICKS = [digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5)]  # GB/s


def exchange(result: Mapping[str, Any], path: Path) -> None:
    """Draw the bus bandwidth of each algorithm over the size, with the spread of its turns.

    Args:
        result: A result of cconvnet.bench.exchange.
        path: The image file to write.

    Raises:
        PlotError: As for :func:`cconvnet.plots.drawn`.
    """
    with drawn(path, 10, 5.6, "Exchange of gradients between ranks", headline(result)) as page:
        axes = page.subplots()
        names = dict.fromkeys(row["algorithm"] for row in result["rows"])
        for number, name in enumerate(names):
            rows = [row for row in result["rows"] if row["algorithm"] == name]
            sizes = [row["bytes"] for row in rows]
            rates = [row["bus_bytes_per_second"] / 1e9 for row in rows]
            slow, fast = (
                [rate * row["seconds"] / row[key] for rate, row in zip(rates, rows, strict=True)]
                for key in ("seconds_max", "seconds_min")
            )
            _draw(axes, number, _LABELS[name], sizes, rates, slow, fast)
        axes.set_xscale("log")
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        shown = [tick for tick in _TICKS if low <= tick <= high]
        axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
        sizes = sorted({row["bytes"] for row in result["rows"]})
        axes.set_xticks(sizes, [size_text(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("gradients of each rank")
        axes.set_ylabel("bus bandwidth, GB/s")
        axes.set_title("lines: median of the turns; bands: from the slowest to the fastest")
        axes.legend(loc="lower right")


def ranks(result: Mapping[str, Any], path: Path) -> None:
    """Draw the predicted efficiency of each link over the number of ranks, weak and strong.

    Args:
        result: A result of cconvnet.bench.rank_scaling.
        path: The image file to write.

    Raises:
        PlotError: As for :func:`cconvnet.plots.drawn`.
    """
    chip = result["machine"].get("chip", result["device"])
    usual = {"wire": WIRES[0], "exchange": EXCHANGES[0], "parallel": PARALLELS[0]}
    options = (f" --{name} {result[name]}" for name, one in usual.items() if result[name] != one)
    title = f"{result['net']}{''.join(options)}: predicted efficiency of several ranks"
    about = (
        f"predicted from measured steps of one rank, {result['precision']}, {chip}; lines: exchange after "
        "the backward pass; bands: up to all of it during the pass"
    )
    images = {"weak": "images for each rank", "strong": "images for all ranks together"}
    with drawn(path, 12, 5.2, title, about) as page:
        panels = page.subplots(1, 2, sharey=True)
        for scaling, axes in zip(images, panels, strict=True):
            counts: list[int] = []
            for number, link in enumerate(result["links"]):
                key = link["name"], scaling
                rows = [row for row in result["rows"] if (row["link"], row["scaling"]) == key]
                counts = [row["ranks"] for row in rows]
                low, high = ([100 * row[f"efficiency{kind}"] for row in rows] for kind in ("", "_overlapped"))
                name = link["name"]
                if link["source"] == "measured":
                    name = f"between {name}"
                _draw(axes, number, f"{name} ({link['source']})", counts, low, low, high)
            axes.set_xscale("log")
            axes.set_xticks(counts, [str(count) for count in counts])
            axes.minorticks_off()
            axes.set_xlabel("ranks")
            axes.set_title(f"{scaling} scaling: {result['batch']} {images[scaling]}")
        panels[0].set_ylabel("predicted efficiency, %")
        panels[0].set_ylim(0, 105)
        page.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)


def _draw(
    axes: Any, number: int, label: str, x: list[int], y: list[float], low: list[float], high: list[float]
) -> None:
    """Draw a line in the colour and with the marks of its number, and a band."""
    color = COLORS[number % len(COLORS)]
    axes.plot(x, y, f"{_MARKERS[number % len(_MARKERS)]}-", label=label, markersize=5, color=color)
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
