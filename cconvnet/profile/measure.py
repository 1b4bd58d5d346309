"""Measured times of a GPU beside those of a profile, and the model's error."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cconvnet.bench import merging

_OF_A_RUN = ("net", "batch", "precision")


def load(path: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured of the network of a profile, in its batch and precision.

    Args:
        path: A result of `bench kernels` or `bench step`, or lines of a report of `make gpu-report`.
        result: The profile.

    Raises:
        ValueError: The file contains no such result.
    """
    try:
        if path.suffix != ".jsonl":
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return value
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    found: list[dict[str, Any]] = [line for line in lines if line.get("what") in ("kernels", "step")]
    found += merging.results(line for line in lines if "side" in line)
    for one in found:
        if all(one.get(name) == result[name] for name in _OF_A_RUN):
            return one
    raise ValueError(
        f"{path} has no result of {result['net']}, batch {result['batch']}, {result['precision']}"
    )


def add(result: dict[str, Any], measured: Mapping[str, Any]) -> None:
    """Add the measured times of a result of `bench kernels` or `bench step` to a profile.

    A measured row is the time of all launches of an operation. It is added to the first of them, with the
    error of their sum.

    Args:
        result: The profile, which receives ``measured_seconds`` and ``model_error``, a share of the measured
            time, in its rows or its step.
        measured: The result of bench.

    Raises:
        ValueError: The result is not of this network, batch and precision, or has no times.
    """
    for name in _OF_A_RUN:
        if measured.get(name) != result[name]:
            raise ValueError(f"--measured is of {name} {measured.get(name)}, not {result[name]}")
    if measured.get("what") == "step":
        _add_step(result, measured)
    elif measured.get("what") == "kernels":
        _add_kernels(result, measured)
    else:
        raise ValueError(
            f"--measured must be a result of bench kernels or bench step, not {measured['what']}"
        )
    result["measured"] = {"machine": measured["machine"], "what": measured["what"]}


def _add_step(result: dict[str, Any], measured: Mapping[str, Any]) -> None:
    seconds = measured.get("step_seconds")
    if not seconds:
        raise ValueError("--measured has no time of a step")
    step = result["step"]
    step["measured_seconds"] = seconds
    if "seconds" in step:
        step["model_error"] = step["seconds"] / seconds - 1


def _add_kernels(result: dict[str, Any], measured: Mapping[str, Any]) -> None:
    times = {(row["layer"], row["operation"]): row["seconds"] for row in measured["rows"] if "seconds" in row}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["kernels"]:
        found.setdefault((row["layer"].partition("+dropout")[0], row["operation"]), []).append(row)
    errors = []
    for key, rows in found.items():
        if key in times and all("seconds" in row for row in rows):
            predicted = sum(row["seconds"] for row in rows)
            errors.append(predicted / times[key] - 1)
            rows[0] |= {"measured_seconds": times[key], "model_error": errors[-1]}
    if not errors:
        raise ValueError("--measured has no row of an operation of this profile")
    result["step"]["median_error"] = statistics.median(map(abs, errors))
