"""Merge the lines that sides wrote one by one into results as of `cconvnet bench kernels`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cconvnet.bench.cases import BLOCKS
from cconvnet.bench.cost import Work
from cconvnet.bench.kernels import column_name, launched, summarize
from cconvnet.bench.lines import OURS, key
from cconvnet.bench.peaks import Peaks

_TIMES = ("seconds", "seconds_min", "seconds_max", "calls")


def results(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a result for each network and precision that ours has measured, in the order of the lines.

    A peer's time for a first convolution is that of the faster of its two forms: the given one and the one
    over blocks of pixels.
    """
    ours: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    theirs: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    begun: dict[str, Mapping[str, Any]] = {}
    limits: dict[str, Peaks] = {}
    for line in lines:
        event, side = line.get("event"), line.get("side")
        if event == "begin":
            begun[str(side)] = line
        elif event == "ceilings":
            rates = line["bytes_per_second"], line["flops_per_second"]
            limits[line["precision"]] = Peaks(*rates)
        elif event is None and side == OURS:
            ours[key(dict(line))] = line
        elif event is None and side is not None:
            theirs.setdefault(key(dict(line)), {})[str(side)] = line
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for own, line in ours.items():
        table = own[:3]
        if table not in found:
            found[table] = _begun(line, begun, limits)
        found[table]["rows"].append(_row(own, line, theirs, limits))
    for result in found.values():
        result["summary"] = summarize(result["rows"])
    return list(found.values())


def _begun(
    line: Mapping[str, Any], begun: Mapping[str, Mapping[str, Any]], limits: Mapping[str, Peaks]
) -> dict[str, Any]:
    about = begun.get(OURS, {})
    peers = {
        name: {"missing": other["missing"]} if "missing" in other else {**other["about"], "environment": {}}
        for name, other in begun.items()
        if name != OURS
    }
    measured = limits.get(line["precision"])
    return {
        "what": "kernels",
        "machine": about.get("machine", {}),
        "net": line["net"],
        "batch": line["batch"],
        "precision": line["precision"],
        "caches": about.get("about", {}).get("caches", ""),
        "ceilings": measured.to_dict() if measured else {},
        "peers": peers,
        "rows": [],
    }


def _row(
    own: tuple[Any, ...],
    line: Mapping[str, Any],
    theirs: Mapping[tuple[Any, ...], Mapping[str, Mapping[str, Any]]],
    limits: Mapping[str, Peaks],
) -> dict[str, Any]:
    row = {name: line[name] for name in ("layer", "operation", "products")}
    row |= {name: line[name] for name in ("trained", "refused", "same") if name in line}
    plan = line.get("plans", {}).get("plan")
    if plan is None:
        why = line.get("failed") or "; ".join(line.get("wrong", {}).values())
        return row | ({"wrong": why} if why else {})
    row |= {"kernel": plan["kernel"], "flops": line["flops"], "bytes": line["bytes"]} | launched(plan)
    row |= {name: plan[name] for name in _TIMES}
    row["flops_per_second"] = line["flops"] / row["seconds"]
    row["bytes_per_second"] = line["bytes"] / row["seconds"]
    if measured := limits.get(line["precision"]):
        row["floor_seconds"] = measured.floor(Work(line["flops"], line["bytes"]))
        row["share"] = row["floor_seconds"] / row["seconds"]
    peers: dict[str, Any] = {}
    *table, layer, operation = own
    for form in (layer, _other_form(layer)):
        for name, other in theirs.get((*table, form, operation), {}).items():
            for column, its in other.get("plans", {}).items():
                kept = peers.get(column_name(name, column))
                if kept is None or its["seconds"] < kept["seconds"]:
                    peers[column_name(name, column)] = {
                        "kernel": its["kernel"],
                        **launched(its),
                        **{time: its[time] for time in _TIMES},
                        **({} if form == layer else {"form": form}),
                        "ratio": its["seconds"] / row["seconds"],
                    }
            if form == layer and not other.get("plans"):
                peers[name] = {k: other[k] for k in ("refused", "failed", "wrong") if k in other}
    return row | {"peers": peers}


def _other_form(layer: str) -> str:
    return layer.removesuffix(BLOCKS) if layer.endswith(BLOCKS) else layer + BLOCKS


def fair(column: str, precision: str) -> bool:
    """Return whether a peer's column keeps to our precision.

    The fastest plan of cuDNN for floats may round to TF32.
    """
    return precision not in ("fp32", "fp32x3") or column != "cudnn best"


def best_peer(row: Mapping[str, Any], precision: str) -> tuple[str, Mapping[str, Any]] | None:
    """Return the fastest peer of a row that computes in the same precision."""
    timed = {
        name: peer for name, peer in row.get("peers", {}).items() if "ratio" in peer and fair(name, precision)
    }
    return min(timed.items(), key=lambda item: item[1]["seconds"], default=None)
