"""What ``cconvnet bench kernels`` prints, a line for each row as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cconvnet.bench.kernels import column_name
from cconvnet.bench.peaks import Ceilings
from cconvnet.bench.timing import GRAPH


def pass_name(operation: str) -> str:
    """As a reader calls it: "fprop", "backward", "relu, bias backward", "update"."""
    if operation == "softmax_cross_entropy":
        return "both passes"
    kind, _, name = operation.rpartition("_")
    return f"{kind.replace('_', ', ')} {name}" if kind.startswith("relu") else name


class Table:
    """Lines of equal columns; the kernel's name, which may be long, stands last.

    Args:
        result: of kernels(), before its first row.
        layers: the names of the layers it will have.
    """

    def __init__(self, result: dict[str, Any], layers: list[str]) -> None:
        self._result = result
        self._on_gpu = result["machine"]["device"].startswith("cuda")
        self._peers = [
            column_name(name, column)
            for name, peer in result["peers"].items()
            for column in peer.get("columns", [])
        ]
        self._columns = [
            ("layer", max(map(len, ["layer", *layers]))),
            ("pass", 19),
            ("median us", 12),
            ("min us", 12),
            ("TFLOP/s", 8),
            ("GB/s", 8),
            ("of limit", 9),
            *([("launch us", 9)] if self._on_gpu else []),
            *((f"x {name}", max(len(name) + 2, 6)) for name in self._peers),
            ("kernel", 0),
        ]

    def _line(self, cells: list[str]) -> str:
        left = ("layer", "pass", "kernel")
        return "  ".join(
            cell.ljust(width) if name in left else cell.rjust(width)
            for (name, width), cell in zip(self._columns, cells, strict=True)
        ).rstrip()

    def head(self) -> Iterator[str]:
        found, machine = self._result, self._result["machine"]
        yield (
            f"{found['net']}, batch {found['batch']}, {found['precision']}, {machine['device']}: "
            f"{machine.get('chip', '')} ({machine['module']})"
        )
        yield f"limits, measured: {Ceilings(**found['ceilings'])}; caches: {found['caches']}"
        for name, peer in found["peers"].items():
            if text := peer.get("missing") or peer.get("failed"):
                yield f"{name} is not compared: {text}"
            else:
                settings = " ".join(f"{key}={value}" for key, value in peer["environment"].items())
                about = {k: v for k, v in peer.items() if k not in ("columns", "environment")}
                parts = [*(f"{key} {value}" for key, value in about.items()), settings]
                yield f"{name}: {', '.join(filter(None, parts))}"
        yield ""
        yield self._line([name for name, _ in self._columns])

    def row(self, row: dict[str, Any]) -> Iterator[str]:
        name = [row["layer"], pass_name(row["operation"])]
        for key in ("wrong", "refused"):
            if key in row:
                widths = [width for _, width in self._columns]
                start = "  ".join(cell.ljust(width) for cell, width in zip(name, widths, strict=False))
                yield f"{start}  {key}: {row[key]}"
                return
        cells = [
            *name,
            f"{1e6 * row['seconds']:,.1f}",
            f"{1e6 * row['seconds_min']:,.1f}",
            f"{row['flops_per_second'] / 1e12:,.3f}" if row["products"] else "",
            f"{row['bytes_per_second'] / 1e9:,.1f}",
            f"{row['share']:.1%}",
            *([f"{1e6 * row['launch_seconds']:,.1f}"] if self._on_gpu else []),
        ]
        for peer in self._peers:
            found = row["peers"].get(peer, {})
            cells.append(f"{found['ratio']:.2f}" if "ratio" in found else "-")
        yield self._line([*cells, row["kernel"]])
        if row.get("how", GRAPH) != GRAPH:
            yield f"    {row['how']}"
        for peer, found in row["peers"].items():
            if found.get("how", GRAPH) != GRAPH:
                yield f"    {peer}: {found['how']}"
            if "failed" in found:
                yield f"    {peer} failed: {found['failed']}"
            for kernel, why in found.get("wrong", {}).items():
                yield f"    {peer}: {kernel} is left out: {why}"

    def foot(self) -> Iterator[str]:
        yield ""
        for key, what in (
            ("products", "convolutions and fully connected layers"),
            ("others", "everything else"),
        ):
            for name, mean in self._result["summary"].get(key, {}).items():
                rows = f"{mean['rows']} row{'s' * (mean['rows'] != 1)}"
                yield f"geometric mean, {what}: {mean['ratio']:.2f} x {name} ({rows})"
        count = sum("wrong" in row for row in self._result["rows"])
        if count:
            yield f"{count} of our results {'is' if count == 1 else 'are'} wrong"
