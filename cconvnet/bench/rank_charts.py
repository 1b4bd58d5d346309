"""Charts of exchanges between ranks and of predictions for ranks; see :mod:`cconvnet.bench.charts`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cconvnet.bench.exchange import headline, size_text
from cconvnet.plots import figure, save


def exchange(result: Mapping[str, Any], path: Path) -> None:
    """Draw the bus bandwidth of each algorithm over the size, with the spread of its turns.

    Args:
        result: A result of cconvnet.bench.exchange.
        path: The image file to write.

    Raises:
        PlotError: As for :func:`cconvnet.plots.figure` and :func:`cconvnet.plots.save`.
    """
    page = figure(9, 5)
    axes = page.subplots()
    for name in dict.fromkeys(row["algorithm"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["algorithm"] == name]
        sizes = [row["bytes"] for row in rows]
        rates = [row["bus_bytes_per_second"] / 1e9 for row in rows]
        slow, fast = (
            [rate * row["seconds"] / row[key] for rate, row in zip(rates, rows, strict=True)]
            for key in ("seconds_max", "seconds_min")
        )
        (line,) = axes.plot(sizes, rates, "o-", label=name, markersize=4)
        axes.fill_between(sizes, slow, fast, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({row["bytes"] for row in result["rows"]})
    axes.set_xticks(ticks, [size_text(size) for size in ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel("gradients")
    axes.set_ylabel("bus bandwidth, GB/s; bands: slowest and fastest turn")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    page.suptitle(headline(result), fontsize=9)
    save(page, path)


def ranks(result: Mapping[str, Any], path: Path) -> None:
    """Draw the predicted efficiency of each link over the number of ranks, weak and strong.

    Args:
        result: A result of cconvnet.bench.rank_scaling.
        path: The image file to write.

    Raises:
        PlotError: As for :func:`cconvnet.plots.figure` and :func:`cconvnet.plots.save`.
    """
    page = figure(10, 4.5)
    panels = page.subplots(1, 2, sharey=True)
    images = {"weak": "images for each rank", "strong": "images for all ranks"}
    for scaling, axes in zip(images, panels, strict=True):
        counts: list[int] = []
        for link in result["links"]:
            rows = [row for row in result["rows"] if (row["link"], row["scaling"]) == (link["name"], scaling)]
            counts = [row["ranks"] for row in rows]
            low, high = ([100 * row[f"efficiency{kind}"] for row in rows] for kind in ("", "_overlapped"))
            (line,) = axes.plot(counts, low, "o-", label=f"{link['name']} ({link['source']})", markersize=4)
            axes.fill_between(counts, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set_xlabel(f"ranks; {result['batch']} {images[scaling]}")
        axes.set_title(f"{scaling} scaling")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("predicted efficiency, %; bands: if the exchange overlaps")
    panels[0].set_ylim(bottom=0)
    panels[0].legend(fontsize=8)
    chip = result["machine"].get("chip", result["device"])
    page.suptitle(f"Predicted from one rank: {result['net']}, {result['precision']}, {chip}")
    save(page, path)
