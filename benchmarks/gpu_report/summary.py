"""Summarize a report's folder, however incomplete: failures, and kernels and steps compared with peers."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_report.running import LOG, ROOT, read_json, read_values, write_json
from gpu_report.settings import KERNELS, MACHINE, SMOKE, STEP, TESTS

LONGEST = 9500  # characters in results.txt
FAILURES = 12  # shown of each kind


def write(folder: Path) -> str:
    """Write results.txt, and the results of the commands into summary.json; return the text."""
    kernels, trouble = kernel_results(folder)
    others = [value for value in read_values(folder / STEP) if isinstance(value, dict)]
    machine = [value for value in read_values(folder / MACHINE) if isinstance(value, dict)]
    found = read_json(folder / "summary.json") or {}
    results = [*kernels, *last_of_each(others)]
    write_json(folder / "summary.json", found | {"results": results, "measured": machine})
    sections = [
        list(_parts(found)),
        list(_smoke(_text(folder / SMOKE))),
        list(_tests(_text(folder / TESTS))),
        list(_conformance(machine)),
        list(_proofs(folder)),
        list(_sanitizer(_text(folder / LOG))),
        list(_step(results)),
        [trouble] if trouble else [],
        list(_means(kernels)),
        [line for result in kernels for line in _kernels(result)],
    ]
    text = "\n".join("\n".join(section) for section in sections if section) + "\n"
    if len(text) > LONGEST:
        # The last lines are cut: the tables of the least important networks and precisions.
        text = text[: LONGEST - 60].rpartition("\n")[0] + "\n... more in kernels.jsonl and summary.json\n"
    (folder / "results.txt").write_text(text, encoding="utf-8")
    return text


def kernel_results(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the results of kernels, in the form of `cconvnet bench kernels`.

    The second value is the reason why lines cannot be merged into results; empty if they can.
    """
    lines = [value for value in read_values(folder / KERNELS) if isinstance(value, dict)]
    if not lines:
        return [], ""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    importlib.invalidate_caches()
    try:
        from cconvnet.bench import merging

        return merging.results(lines), ""
    except Exception as error:  # nothing is built, or a line has another format
        return [], f"the lines of kernels.jsonl cannot be merged: {type(error).__name__}: {error}"


def last_of_each(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last of lines that were rewritten as more was measured."""
    found: dict[Any, dict[str, Any]] = {}
    for number, line in enumerate(lines):
        forms = line.get("what") == "step forms"
        found[("forms", line.get("precision")) if forms else number] = line
    return list(found.values())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _parts(found: dict[str, Any]) -> Iterator[str]:
    parts = [part for part in found.get("parts", []) if part["state"] != "skipped"]
    yield "parts: " + ", ".join(f"{part['name']} {part['state']} {part['seconds']:.0f} s" for part in parts)
    yield from (f"  {part['name']}: {part['why']}" for part in parts if part.get("why"))


def _smoke(text: str) -> Iterator[str]:
    counts = [len(re.findall(rf"^{word} ", text, re.M)) for word in ("ok", "FAILED", "LOST")]
    if not text:
        return
    yield "smoke: {} ok, {} failed, {} lost the device".format(*counts)
    for case, why in re.findall(r"^FAILED (.*)\n +(.*)", text, re.M)[:FAILURES]:
        yield f"  FAILED {case[:150]}"
        yield f"    {why[:200]}"


def _tests(text: str) -> Iterator[str]:
    if not text:
        return
    ends = re.findall(r"^=+ (.*(?:passed|failed|error|no tests).*) =+$", text, re.M)
    passed, failures = (len(re.findall(rf"\] {word} ", text)) for word in ("PASSED", "FAILED"))
    yield f"tests: {'; '.join(ends) or 'no closing line'} (lines: {passed} PASSED, {failures} FAILED)"
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+?::.*?)(?: - (.*))?$", text, re.M)
    failed += re.findall(r"\] (?:FAILED|ERROR) (\S+?::.*?)()$", text, re.M)
    whys: dict[str, str] = {}
    for name, why in failed:
        whys[name.strip()] = whys.get(name.strip()) or why
    for name, why in list(whys.items())[: 2 * FAILURES]:
        yield f"  FAILED {name[:140]}{' - ' + why[:120] if why else ''}"


def _conformance(machine: list[dict[str, Any]]) -> Iterator[str]:
    checks = [line for line in machine if line.get("what") == "conformance"]
    if checks:
        verdict = next((line for line in reversed(checks) if "checks" in line), None)
        count = len(checks) - (verdict is not None)
        failed = [f"{line.get('check')}: {line['failure']}" for line in checks if line.get("failure")]
        failed = (verdict or {}).get("failed") or failed
        ended = "" if verdict else ", cut off"
        yield f"conformance: {count} checks{ended}, {len(failed)} failed"
        yield from (f"  FAILED {check[:160]}" for check in failed[:FAILURES])
    for line in machine:
        if line.get("what") == "calibration":
            shown = [
                f"{value['name']} {value['value']:.4g} {value['unit']}"
                for value in line.get("measurements", [])
                if value.get("value") is not None
            ]
            count, why = len(line.get("measurements", [])), line.get("failure", "")
            yield f"calibration: {count} measurements {why}".rstrip()
            if shown:
                yield "  " + "; ".join(shown)


def proofs(folder: Path) -> list[Path]:
    """Return the files of proofs in a report's folder, each named after its architecture."""
    return sorted(path for name in ("sm_*.json", "emulator.json") for path in folder.glob(name))


def _proofs(folder: Path) -> Iterator[str]:
    for path in proofs(folder):
        found = read_json(path) or {}
        proven, failed = found.get("rows", {}), found.get("failed", {})
        yield f"proof: {len(proven)} of {len(proven) + len(failed)} rows proven on {path.stem}"
        yield from (f"  FAILED {row}: {why[:200]}" for row, why in list(failed.items())[:FAILURES])


def _sanitizer(text: str) -> Iterator[str]:
    """Yield the totals of compute-sanitizer, and its first findings."""
    for end in re.findall(r"^=+ ((?:ERROR|RACECHECK) SUMMARY: .*)$", text, re.M):
        yield f"compute-sanitizer: {end}"
    found = re.findall(
        r"^=+ ((?:Invalid|Error|Uninitialized|Barrier|Program hit|Race reported).*)$", text, re.M
    )
    yield from (f"  {line[:160]}" for line in dict.fromkeys(found[: 4 * FAILURES]))


def _step(results: list[dict[str, Any]]) -> Iterator[str]:
    for line in results:
        if line.get("what") == "step forms":
            about = f"our step, {line.get('net', '')} {line['precision']}"
            forms = [
                f"{name} {1e3 * form['seconds']:.3f} ms ({form['images_per_second']:,.0f}/s)"
                for name, form in line.get("forms", {}).items()
            ]
            yield f"{about}: " + ", ".join(forms or [line.get("failed", "nothing was measured")])
        elif line.get("what") == "step":
            for row in line["rows"]:
                ratio = f", ours {row['times_as_fast']:.2f} times as fast" if "times_as_fast" in row else ""
                rate = f"{1e3 * row['seconds']:.3f} ms ({row['images_per_second']:,.0f}/s)"
                yield f"bench step {row['side']} {row['form']} {row['precision']}: {rate}{ratio}"
            for peer in line.get("peers", {}).values():
                for form, why in (
                    {"": peer["missing"]} if "missing" in peer else peer.get("failed", {})
                ).items():
                    yield f"  PyTorch {form} {why[:160]}"
        elif line.get("what") == "roofline" and "step" in line:
            step = line["step"]
            lost = ", ".join(f"{own['layer']} {1e6 * own['lost_seconds']:.0f} us" for own in line["furthest"])
            yield (
                f"roofline {line['precision']}: step {1e3 * step['seconds']:.3f} ms, its floor "
                f"{1e3 * step['floor_seconds']:.3f} ms; lost most: {lost}"
            )


def _means(kernels: list[dict[str, Any]]) -> Iterator[str]:
    """Yield for each table our mean speed relative to the fastest peer of each row."""
    for result in kernels:
        ratios: dict[str, list[float]] = {"products": [], "all else": []}
        for row in result["rows"]:
            found = _best_peer(row, result["precision"])
            if found and row.get("trained", True):
                ratios["products" if row["products"] else "all else"].append(found[1]["ratio"])
        for what, values in ratios.items():
            if values:
                mean = math.exp(sum(map(math.log, values)) / len(values))
                table = f"{result['net']} {result['precision']}, {what}"
                fast = f"{sum(value >= 1 for value in values)} at least as fast"
                yield f"geometric mean of peer / ours, {table}: {mean:.3f} ({len(values)} rows, {fast})"


def _best_peer(row: dict[str, Any], precision: str) -> tuple[str, Any] | None:
    from cconvnet.bench.merging import best_peer

    return best_peer(row, precision)


def _kernels(result: dict[str, Any]) -> Iterator[str]:
    precision, rates = result["precision"], "not measured"
    if limits := result.get("ceilings"):
        copied = 1e-12 * limits["bytes_per_second"]
        multiplied = 1e-12 * limits["flops_per_second"]
        rates = f"{copied:.2f} TB/s, {multiplied:.0f} TFLOP/s"
    table = f"{result['net']}, batch {result['batch']}, {precision}"
    yield f"{table}; peaks {rates}; caches {result['caches']}"
    for name, peer in result["peers"].items():
        if "missing" in peer:
            yield f"  {name} is not compared: {peer['missing'][:160]}"
    head = f"{'us':>9}{'launch':>7}{'TFLOP/s':>8}{'TB/s':>6}{'peer us':>9}{'ratio':>6}  kernel, peer"
    yield f"  {'layer':13}{'operation':22}{head}"
    for row in result["rows"]:
        start = f"  {row['layer']:13}{row['operation']:22}"
        if "seconds" not in row:
            yield f"{start} {row.get('wrong') or row.get('refused') or 'nothing was measured'}"[:200]
            continue
        launch = f"{1e6 * row['launch_seconds']:7.1f}" if "launch_seconds" in row else " " * 7
        found = _best_peer(row, precision)
        beside = f"{1e6 * found[1]['seconds']:9.1f}{found[1]['ratio']:6.2f}" if found else " " * 15
        notes = [row["kernel"].removeprefix(row["operation"])[-20:], found[0] if found else ""]
        notes += [] if row.get("trained", True) else ["(not as trained)"]
        notes += [row["how"][:80]] if row.get("how", "graph") != "graph" else []
        numbers = f"{row['flops_per_second'] / 1e12:8.1f}{row['bytes_per_second'] / 1e12:6.2f}"
        text = f"{start}{1e6 * row['seconds']:9.1f}{launch}{numbers}{beside}  {' '.join(filter(None, notes))}"
        yield text.rstrip()
