"""Write the tables and charts of docs/performance.md from the files in benchmarks/results: `make results`.

A table is between two marks in the page,

    <!-- results: kernels alexnet cpu -->
    <!-- end -->

which name the measurement (kernels, step, roofline, scaling, data, exchange, ranks), the network (without it:
a line for each network; an exchange has none) and the kind of device (cpu, cuda). `batch=64` and
`precision=bf16` may follow. The text between them is made from the newest matching result, followed by its
machine, versions, date and commit. The charts go to the folder images/ beside the page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
# The results as the page links them.
LINK = "../benchmarks/results"

# Functions of cconvnet.bench.charts or rank_charts, with prefixes of their charts' names and their titles.
PICTURES = {
    "kernels": [("kernel_bars", "kernels", "Times of each kernel beside its peers'")],
    "step": [("step_bars", "step", "Images per second and memory of training steps")],
    "roofline": [
        ("roofline", "roofline", "Each kernel under the machine's limits"),
        ("step_stack", "step-stack", "Where the time of a training step goes, and its floor"),
    ],
    "scaling": [("scaling", "scaling", "Time and memory against batch and image size")],
    "data": [("data_bars", "data", "Images per second of each stage on the way into training")],
    "exchange": [],
    "ranks": [("ranks", "ranks", "Predicted efficiency of several ranks")],
}
# Required keys of results, and of their descriptions of the machine.
REQUIRED = ("what", "precision", "rows", "machine")
REQUIRED_OF_MACHINE = ("date", "commit", "command", "device", "chip", "versions")
WORST = 10
# Columns of text behind those of figures.
TEXT = ("what",)


@dataclass(frozen=True)
class Result:
    """One result and its file."""

    file: str
    value: dict[str, Any]

    @property
    def machine(self) -> dict[str, Any]:
        """Return the description of the machine."""
        found: dict[str, Any] = self.value["machine"]
        return found

    @property
    def kind(self) -> str:
        """Return the kind of device."""
        return str(self.machine["device"]).split(":")[0]


@dataclass(frozen=True)
class Region:
    """Request of a mark in the page; None matches all."""

    what: str
    net: str | None
    kind: str
    batch: int | None = None
    precision: str = "fp32"

    def fits(self, result: Result) -> bool:
        """Return whether a result matches."""
        value = result.value
        return (
            (value["what"], result.kind, value["precision"]) == (self.what, self.kind, self.precision)
            and self.net in (None, value.get("net"))
            and self.batch in (None, value.get("batch"))
        )

    def picture(self, begin: str) -> str:
        """Return the path of a chart from the page."""
        words = [begin, self.net, self.kind, self.batch and f"batch{self.batch}"]
        words.append(None if self.precision == "fp32" else self.precision)
        return f"images/{'-'.join(str(word) for word in words if word)}.png"


def load(folder: Path) -> list[Result]:
    """Load all results of the bench commands in a folder, the oldest first; other files are ignored.

    Raises:
        ValueError: A result lacks a required key; the text names both.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        # A report of a GPU machine has several results in a file.
        for value in content.get("results", [content]):
            if value.get("what") not in PICTURES:
                continue
            required = REQUIRED if value["what"] == "exchange" else ("net", *REQUIRED)
            missing = [key for key in required if key not in value]
            missing += [
                f"machine.{key}" for key in REQUIRED_OF_MACHINE if key not in value.get("machine", {})
            ]
            if missing:
                raise ValueError(f"{path}: a result lacks {', '.join(missing)}")
            results.append(Result(path.name, value))
    # Sorting is stable, so results of one day stay in the order of their names.
    return sorted(results, key=lambda result: str(result.machine["date"]))


# ---- the page -------------------------------------------------------------------------------------------

_MARK = re.compile(r"<!-- (?:results: (?P<words>[^\n]*?)|(?P<end>end)) -->")


def parse(words: str) -> Region:
    """Return the region that a mark names.

    Raises:
        ValueError: A mark cannot be filled; the text names it.
    """
    plain = [word for word in words.split() if "=" not in word]
    options = dict(word.split("=", 1) for word in words.split() if "=" in word)
    if len(plain) not in (2, 3) or plain[0] not in PICTURES or not options.keys() <= {"batch", "precision"}:
        raise ValueError(
            f"a mark must be like <!-- results: step alexnet cpu batch=128 -->, of {', '.join(PICTURES)}; "
            f"not {words!r}"
        )
    batch = int(options["batch"]) if "batch" in options else None
    net = plain[1] if len(plain) == 3 else None
    return Region(plain[0], net, plain[-1], batch, options.get("precision", "fp32"))


def regions(text: str) -> list[tuple[Region, int, int]]:
    """Return the marked regions of a text, and the begin and the end of the text between their marks.

    Raises:
        ValueError: A mark has no end.
    """
    found: list[tuple[Region, int, int]] = []
    begun: re.Match[str] | None = None
    for mark in [*_MARK.finditer(text), None]:
        if begun is None:
            # An end without a begin belongs to another tool.
            begun = mark if mark and not mark["end"] else None
        elif mark is None or not mark["end"]:
            raise ValueError(f"{begun.group()} has no <!-- end -->")
        else:
            found.append((parse(begun["words"]), begun.end(), mark.start()))
            begun = None
    return found


def fill(text: str, results: Sequence[Result]) -> str:
    """Return the text with every region made anew from the results."""
    for region, begin, end in reversed(regions(text)):
        text = f"{text[:begin]}\n\n{body(region, results)}\n\n{text[end:]}"
    return text


def newest(region: Region, results: Sequence[Result]) -> Result | None:
    """Return the newest matching result."""
    return next((result for result in reversed(results) if region.fits(result)), None)


def body(region: Region, results: Sequence[Result]) -> str:
    """Return the text of a region."""
    if region.net is None:
        nets = dict.fromkeys(result.value.get("net") for result in results if region.fits(result))
        of_nets = [newest(Region(region.what, net, *_rest(region)), results) for net in nets]
        found = [result for result in of_nets if result is not None]
        parts = [_SUMMARIES[region.what](found)]
    else:
        found = [result for result in [newest(region, results)] if result is not None]
        parts = [_TABLES[region.what](result.value) for result in found]
        for _, begin, title in PICTURES[region.what]:
            parts.append(f"![{title}]({region.picture(begin)})")
    if not found:
        return f"{'GPU' if region.kind == 'cuda' else region.kind.upper()}: not yet measured."
    return "\n\n".join([*parts, provenance(found)])


def _rest(region: Region) -> tuple[str, int | None, str]:
    return region.kind, region.batch, region.precision


def provenance(results: Sequence[Result]) -> str:
    """Return machine, versions, date and commands, which are below a table."""
    groups: dict[str, list[str]] = {}
    for result in results:
        machine, value = result.machine, result.value
        where = [str(machine["chip"])]
        if "cores" in machine:
            where.append(f"{machine['cores']} cores")
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        absent = [name for name, peer in _peers(value).items() if "missing" in peer]
        line = (
            f"{', '.join(where)}; {value['precision']}; {versions}; {machine['date']}, commit "
            f"{machine['commit']}"
        )
        line += f"; not installed there: {', '.join(absent)}" if absent else ""
        file = f"[{result.file}]({LINK}/{result.file})"
        groups.setdefault(line, []).append(f"`{machine['command']}` ({file})")
    return "\n\n".join(":\n".join([line, ",\n".join(commands)]) for line, commands in groups.items())


def _peers(value: dict[str, Any]) -> dict[str, Any]:
    peers = value.get("peers", {})
    return peers if isinstance(peers, dict) else {}


# ---- tables ---------------------------------------------------------------------------------------------


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table; columns behind the first `left` and not of text are aligned to the right."""
    rule = ["---" if index < left or name in TEXT else "--:" for index, name in enumerate(columns)]
    lines = [columns, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _time(seconds: float | None) -> str:
    """Format seconds with three digits."""
    if seconds is None:
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds / 1e-6)} µs"


def _digits(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


def _bytes(size: float | None) -> str:
    return "" if size is None else f"{size / 1e6:,.0f} MB"


def _columns_of(lines: Iterable[dict[str, Any]]) -> list[str]:
    """Return the columns of peers with a time in any row, in their order."""
    names = (name for line in lines for name, peer in line.get("peers", {}).items() if "ratio" in peer)
    return list(dict.fromkeys(names))


def _row_name(line: dict[str, Any]) -> str:
    return f"{line['layer']} {line['operation']}"


def kernels_table(value: dict[str, Any]) -> str:
    """Return the table of kernels."""
    peers = _columns_of(value["rows"])
    columns = ["layer", "operation", "kernel", "median", "fastest", "GFLOP/s", "GB/s", "share of the limit"]
    lines = []
    for line in value["rows"]:
        if "seconds" not in line:
            why = next((f"{key}: {line[key]}" for key in ("wrong", "refused") if key in line), "")
            rest = [why, *[""] * (len(columns) - 3 + len(peers))]
            lines.append([line["layer"], line["operation"], *rest])
            continue
        lines.append(
            [
                line["layer"],
                line["operation"],
                f"`{line['kernel']}`",
                _time(line["seconds"]),
                _time(line["seconds_min"]),
                _digits(line["flops_per_second"] / 1e9) if line["products"] else "",
                _digits(line["bytes_per_second"] / 1e9),
                _share(line.get("share")),
                *(_times(line["peers"].get(peer, {}).get("ratio")) for peer in peers),
            ]
        )
    for key, words in (("products", "sums of products"), ("others", "all others")):
        means = value.get("summary", {}).get(key, {})
        if means:
            ratios = [_times(means.get(peer, {}).get("ratio")) for peer in peers]
            lines.append(["geometric mean", words, *[""] * (len(columns) - 2), *ratios])
    return table([*columns, *(f"times as fast as {peer}" for peer in peers)], lines, left=3)


def kernels_summary(results: Sequence[Result]) -> str:
    """Return a line for each network and peer's column."""
    lines = []
    for result in results:
        value = result.value
        for peer in _columns_of(value["rows"]):
            ratios = sorted(
                (line["peers"][peer]["ratio"], _row_name(line))
                for line in value["rows"]
                if "ratio" in line.get("peers", {}).get(peer, {})
            )
            (worst, worst_name), (best, best_name) = ratios[0], ratios[-1]
            means = [value["summary"].get(key, {}).get(peer, {}) for key in ("products", "others")]
            lines.append(
                [value["net"], str(value["batch"]), peer]
                + [_times(mean.get("ratio")) for mean in means]
                + [f"{worst_name} {_times(worst)}", f"{best_name} {_times(best)}"]
            )
    columns = ["network", "batch", "times as fast as", "sums of products", "all others", "worst", "best"]
    return table(columns, lines, left=3)


def step_table(value: dict[str, Any]) -> str:
    """Return the table of steps."""
    columns = ["side", "images/s", "median step", "fastest", "slowest", "peak memory"]
    lines = [
        [
            f"{line['side']} {line['form']}".strip(),
            _digits(line["images_per_second"]),
            _time(line["seconds"]),
            _time(line["seconds_min"]),
            _time(line["seconds_max"]),
            # On a GPU its own memory is scarce.
            _bytes(line.get("peak_device_bytes", line.get("peak_rss_bytes"))),
            _times(line.get("times_as_fast")),
            _times(line.get("times_the_memory")),
        ]
        for line in value["rows"]
    ]
    parts = [table([*columns, "cconvnet is times as fast", "with times the memory"], lines)]
    for name, peer in _peers(value).items():
        if settings := peer.get("environment"):
            given = " ".join(f"{key}={setting}" for key, setting in settings.items())
            parts.append(f"{name} ran with `{given}`.")
    return "\n\n".join(parts)


def roofline_table(value: dict[str, Any]) -> str:
    """Return the kernels that lose the most time to their floors, and the sum of all."""

    def cells(layer: str, operation: str, seconds: float, floor: float) -> list[str]:
        share = floor / seconds if seconds else 0.0
        return [layer, operation, _time(seconds), _time(floor), _share(share), _time(seconds - floor)]

    timed = [line for line in value["rows"] if "seconds" in line]
    worst = sorted(timed, key=lambda line: line["floor_seconds"] - line["seconds"])[:WORST]
    lines = [
        cells(*(line[key] for key in ("layer", "operation", "seconds", "floor_seconds"))) for line in worst
    ]
    floor = sum(line["floor_seconds"] for line in timed)
    lines.append(cells("all kernels", "", sum(line["seconds"] for line in timed), floor))
    if "step" in value:
        lines.append(cells("whole step", "", value["step"]["seconds"], floor))
    return table(["layer", "operation", "median", "floor", "share of the floor", "lost"], lines, left=2)


def scaling_table(value: dict[str, Any]) -> str:
    """Return the table of growing batches and images, and the fits."""
    from cconvnet.bench.scaling import verdict

    memory = value["memory_key"]
    lines = [
        [
            line["series"],
            str(line["batch"]),
            str(line["size"]),
            _time(line["seconds"]),
            _digits(line["images_per_second"]),
            _bytes(line[memory]),
        ]
        for line in value["rows"]
    ]
    parts = [table(["growing", "batch", "pixels", "step", "images/s", "memory"], lines)]
    parts += ["\n".join(f"- {line}" for line in verdict(value, series)) for series in ("batch", "size")]
    return "\n\n".join(filter(None, parts))


def data_table(value: dict[str, Any]) -> str:
    """Return the table of feeding, and its conclusions."""
    from cconvnet.bench import data

    columns, lines = data.table(value)
    return "\n\n".join([table(columns, lines), "\n".join(f"- {line}" for line in data.verdict(value))])


def exchange_table(value: dict[str, Any]) -> str:
    """Return the table of exchanges between ranks, and the meaning of its columns."""
    from cconvnet.bench import exchange

    columns, lines = exchange.table(value)
    notes = [exchange.headline(value), *exchange.verdict(value)]
    return "\n\n".join([table(columns, lines), "\n".join(f"- {line}" for line in notes)])


def ranks_table(value: dict[str, Any]) -> str:
    """Return the table of predicted efficiencies, with formula and assumptions."""
    from cconvnet.bench import rank_scaling

    columns, lines = rank_scaling.table(value)
    notes = [rank_scaling.headline(value), *rank_scaling.verdict(value)]
    return "\n\n".join([table(columns, lines, left=2), "\n".join(f"- {line}" for line in notes)])


def _stacked(make: Callable[[dict[str, Any]], str]) -> Callable[[Sequence[Result]], str]:
    """Concatenate the tables of several networks."""
    return lambda results: "\n\n".join(f"{r.value['net']}:\n\n{make(r.value)}" for r in results)


_TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "kernels": kernels_table,
    "step": step_table,
    "roofline": roofline_table,
    "scaling": scaling_table,
    "data": data_table,
    "exchange": exchange_table,
    "ranks": ranks_table,
}
_SUMMARIES: dict[str, Callable[[Sequence[Result]], str]] = {
    **{what: _stacked(make) for what, make in _TABLES.items()},
    "kernels": kernels_summary,
    "exchange": lambda results: "\n\n".join(exchange_table(result.value) for result in results),
}


# ---- pictures -------------------------------------------------------------------------------------------


def draw(text: str, results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw the charts of the regions of a page in a folder; return their paths."""
    from cconvnet.bench import charts, rank_charts

    drawn = []
    for region, _, _ in regions(text):
        result = newest(region, results)
        if region.net is None or result is None:
            continue
        for function, begin, _ in PICTURES[region.what]:
            path = folder / region.picture(begin)
            path.parent.mkdir(exist_ok=True)
            getattr(rank_charts if region.what == "ranks" else charts, function)(result.value, path)
            drawn.append(path)
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the marks")
    parser.add_argument("--results", type=Path, default=FOLDER, help="the folder of the results")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if something would change")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    text, results = options.page.read_text(encoding="utf-8"), load(options.results)
    filled = fill(text, results)
    if options.check:
        if filled != text:
            print(f"{options.page} differs from its results: run `make results`")
        return int(filled != text)
    options.page.write_text(filled, encoding="utf-8")
    for path in draw(filled, results, options.page.parent):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
