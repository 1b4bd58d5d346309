"""A profile for people: the table of a step, the view of one kernel, and the comparison of two profiles."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from cconvnet.profile.model import RESOURCES

Row = Mapping[str, Any]

_BAR = 30
HEADER = ["layer", "pass", "kernel", "blocks", "waves", "tail", "binds", "next", "us", "floor", "lost"]
NUMBERS = {"blocks", "waves", "tail", "us", "floor", "lost", "before", "after", "times", "measured", "error"}
# Columns that are cut.
WIDTHS = {"kernel": 24, "kernels": 32}


def step_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of a profile."""
    measured = any("measured_seconds" in row for row in result["kernels"])
    header = HEADER + (["measured", "error"] if measured else [])
    return header, [_cells(row) + (_measured_cells(row) if measured else []) for row in result["kernels"]]


def _cells(row: Row) -> list[str]:
    return [
        row["layer"],
        row["pass"].removesuffix("+update") + " beside" * row.get("beside", False),
        short_kernel(row),
        f"{row['grid']:,}" if "grid" in row else "",
        _number(row.get("waves"), ".1f"),
        _number(row.get("tail"), ".0%"),
        row.get("binds", ""),
        row.get("binds_next", ""),
        _microseconds(row.get("seconds")),
        _microseconds(row["floor_seconds"] or None),
        _microseconds(row.get("lost_seconds")),
    ]


def _measured_cells(row: Row) -> list[str]:
    return [_microseconds(row.get("measured_seconds")), _number(row.get("model_error"), "+.0%")]


def short_kernel(row: Row) -> str:
    """Return a kernel's row of the table without the operation, or its name without arguments."""
    if row["row"] and row["floor_seconds"]:
        return re.sub(r"^(conv|fc|local)_\w+?_(implicit_)?gemm_", "", row["row"])
    name: str = row.get("kernel", row["operation"])
    return name.partition("<")[0].removesuffix("_kernel")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _microseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e6 * seconds:,.1f}"


def step_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the conclusions of a profile in sentences."""
    step, chip = result["step"], result["chip"]
    assumed = sum(one["status"] == "assumed" for one in chip["constants"].values())
    lines = []
    if "seconds" in step:
        speed = f", {result['batch'] / step['seconds']:,.0f} images/s" if step["whole"] else ""
        beside, rest = [
            [row for row in result["kernels"] if row.get("beside", False) == is_beside]
            for is_beside in (True, False)
        ]
        lines.append(
            f"predicted: {1e3 * step['seconds']:.3g} ms ({1e3 * step['least_seconds']:.3g} to "
            f"{1e3 * step['most_seconds']:.3g}){speed}; {step['kernels']} kernels "
            f"{1e3 * step['kernel_seconds']:.3g} ms, gaps {1e3 * step['gap_seconds']:.2g} ms"
        )
        if beside:
            lines.append(_branch_line(beside, rest, step))
    if "measured_seconds" in step:
        lines.append(f"measured: {1e3 * step['measured_seconds']:.3g} ms")
    if "model_error" in step:
        lines.append(f"error of the model: {step['model_error']:+.0%}")
    if "median_error" in step:
        lines.append(f"error of the model, median of the measured rows: {step['median_error']:.0%}")
    lines.append(
        f"floor: {1e3 * step['floor_seconds']:.3g} ms, the sum of each operation's arithmetic or bytes"
    )
    lines += step["missing"]
    lines.append(
        f"{chip['name']} ({result['arch']}); {assumed} of {len(chip['constants'])} constants are assumed, "
        f"not measured; machine code: {result['code']}"
    )
    return lines


def _branch_line(beside: Sequence[Row], rest: Sequence[Row], step: Row) -> str:
    """Return the kernels that run beside others, and what that hides."""
    divided = [row for row in rest if row.get("multiprocessors")]
    if divided:
        where = (
            f"while {len(divided)} others use {divided[0]['multiprocessors']} multiprocessors; "
            f"{1e3 * step['hidden_seconds']:.2g} ms are hidden"
        )
    else:
        where = "which take turns with the others, so nothing is hidden"
    seconds = sum(row["seconds"] for row in beside)
    return f"beside: {len(beside)} kernels, {1e3 * seconds:.2g} ms, {where}"


# ---- one kernel -------------------------------------------------------------------------------------------


def kernel_lines(row: Row) -> list[str]:
    """Return what is known about one kernel, as lines of text of at most 100 columns."""
    lines = [f"{row['layer']} {row['pass']}: {row.get('kernel', row['operation'])}"]
    lines += textwrap.wrap(row["problem"], 96, initial_indent="  ", subsequent_indent="    ")
    if row["row"]:
        lines.append(f"  row {row['row']}{_runner_up(row)}")
    if "registers" in row:
        lines.append(
            f"  {row['registers']} registers, {row.get('shared_bytes', row['code_shared_bytes']):,} bytes of "
            f"shared memory; {row['blocks_per_multiprocessor']} blocks a multiprocessor, limited by "
            f"{row['limit']}"
        )
    if "grid" in row:
        lines += _counted_lines(row)
    if row.get("hot_loop"):
        lines += ["  hot loop, instructions of a warp:", *_bars(row["hot_loop"], "", "")]
    if by_line := row.get("lines", {}).get("instructions"):
        lines.append("  lines with the most instructions:")
        lines += [
            f"    {one['line']:38} {one['instructions']:10,.0f} of a warp, {one['share']:.0%}"
            for one in by_line
        ]
    if "cycles" in row:
        cycles = {name: row["cycles"][name] for name in RESOURCES if row["cycles"][name] >= 0.5}
        lines += ["  cycles of a multiprocessor:", *_bars(cycles, row["binds"], row["binds_next"])]
        lines.append(
            f"  predicted {1e6 * row['seconds']:,.1f} us ({1e6 * row['least_seconds']:,.1f} to "
            f"{1e6 * row['most_seconds']:,.1f}), floor {1e6 * row['floor_seconds']:,.1f} us, "
            f"bound by {row['binds']}, then by {row['binds_next']}"
        )
    return lines


def _runner_up(row: Row) -> str:
    other = row["runner_up"]
    if other is None:
        return ""
    time = other.get("seconds")
    return f"; next {other['row']}" + (f", {1e6 * time:,.1f} us" if time is not None else "")


def _counted_lines(row: Row) -> list[str]:
    lines = [
        f"  {row['grid']:,} blocks of {row['threads']} threads"
        + (f", {row['waves']:.2f} waves, {row['tail']:.0%} lost in the last" if "waves" in row else "")
        + f"; {row['barriers']:,.0f} barriers"
        + (f", {row['phase_waits']:,.0f} waits of a warp for phases" if row.get("phase_waits") else "")
        + f"; {row['blocks_run']} blocks counted",
        f"  threads ask for {row['asked_bytes'] / 1e6:,.1f} MB, L2 moves {row['l2_bytes'] / 1e6:,.1f} MB, "
        f"{row['least_bytes'] / 1e6:,.1f} MB would do",
    ]
    if row["sectors_per_request"] is not None:
        share = row["least_sectors"] / max(row["sectors"], 1)
        lines.append(
            f"  global memory: {row['sectors_per_request']:.1f} sectors a request, "
            f"{share:.0%} of their bytes asked for"
        )
        lines += _worst(row["lines"]["sectors"], "sectors", "least_sectors")
    if row["conflict_ways"] is not None:
        lines.append(f"  shared memory: {row['conflict_ways']:.2f} wavefronts for each that is needed")
        lines += _worst(row["lines"]["conflicts"], "wavefronts", "least_wavefronts")
    return lines


def _worst(lines: Sequence[Row], key: str, least: str) -> list[str]:
    """Return the lines of the source that lose the most."""
    return [
        f"    {one['line']:38} {one['kind']:7} {one[key] / max(one['requests'], 1):5.1f} {key} a request, "
        f"{one[key] / max(one[least], 1):.2f} times the least"
        for one in lines
        if one["requests"]
    ]


def _bars(values: Mapping[str, float], first: str, second: str) -> list[str]:
    longest = max(values.values(), default=0.0) or 1.0
    lines = []
    for name, value in values.items():
        mark = {first: "  binds", second: "  binds next"}.get(name, "") if name else ""
        bar = "#" * max(round(_BAR * value / longest), 1 if value else 0)
        lines.append(f"    {name:10} {value:12,.0f}  {bar:{_BAR}}{mark}".rstrip())
    return lines


# ---- two profiles -----------------------------------------------------------------------------------------


def compare_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a comparison of two profiles, layer by layer and pass by pass."""
    header = ["layer", "pass", "kernels", "before", "after", "times", "instr.", "bound by"]
    old, new = _by_pass(before), _by_pass(after)
    rows = []
    for key in dict.fromkeys([*old, *new]):
        first, second = old.get(key, []), new.get(key, [])
        times = [sum(row.get("seconds", 0.0) for row in rows) for rows in (first, second)]
        rows.append(
            [
                key[0],
                key[1].removesuffix("+update"),
                _change(" + ".join(map(short_kernel, first)), " + ".join(map(short_kernel, second))),
                *(_microseconds(time or None) for time in times),
                f"{times[0] / times[1]:.2f}" if all(times) else "",
                _ratio(_instructions(first), _instructions(second)),
                _change(_bound(first), _bound(second)),
            ]
        )
    return header, rows


def _by_pass(result: Mapping[str, Any]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in result["kernels"]:
        found.setdefault((row["layer"], row["pass"]), []).append(row)
    return found


def _instructions(rows: Sequence[Row]) -> float:
    """Return the instructions of all warps."""
    total = 0.0
    for row in rows:
        if "instructions" in row:
            total += sum(row["instructions"].values()) * row["grid"] * -(-row["threads"] // 32)
    return total


def _ratio(before: float, after: float) -> str:
    return f"{after / before:.2f}" if before and after else ""


def _bound(rows: Sequence[Row]) -> str:
    slowest = max(rows, key=lambda row: row.get("seconds", 0.0), default={})
    return str(slowest.get("binds", ""))


def _change(before: str, after: str) -> str:
    return after if before == after else f"{before or 'none'} -> {after or 'none'}"


def compare_lines(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the conclusions of a comparison."""
    lines = [
        f"before: {_described(before)}",
        f"after:  {_described(after)}",
    ]
    first, second = (result["step"].get("seconds") for result in (before, after))
    if first and second:
        lines.append(
            f"predicted: {1e3 * first:.3g} ms -> {1e3 * second:.3g} ms, {first / second:.2f} times as fast"
        )
    if before["chip"]["constants"] != after["chip"]["constants"]:
        lines.append("the two were predicted with different constants")
    return lines


def _described(result: Mapping[str, Any]) -> str:
    commit = result["machine"].get("commit") or "unknown commit"
    return f"{result['net']}, batch {result['batch']}, {result['precision']}, {result['arch']}, {commit}"
