"""Predicted speed of a training on 1 to 64 ranks, from the measured step of one rank and a link.

No number of ranks but one is measured here: everything else is computed by FORMULA under ASSUMPTIONS.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.bench import exchange as exchanges
from cconvnet.bench.processes import Worker
from cconvnet.checks import real, whole
from cconvnet.devices import Device, devices_of, machine, require_precision
from cconvnet.formats.netfiles import AnyNet, resolve
from cconvnet.nets import NetSpec, spec_to_dict
from cconvnet.nets.shapes import multiply_adds
from cconvnet.network.buckets import Exchanged
from cconvnet.network.footprint import Plan
from cconvnet.ranks.cores import divide_cores, own_devices
from cconvnet.ranks.shares import Share
from cconvnet.ranks.world import World
from cconvnet.training.options import EXCHANGES, PARALLELS, WIRES

RANKS = (1, 2, 4, 8, 16, 32, 64)

# Bytes per second of a rank. NVLink: bus bandwidth of eight GPUs on NVLink 4, issue 212 of nccl-tests. The
# others: nine tenths of 12.5 and 1.25 GB/s, and less than two thirds of what 16 lanes of PCIe 4 carry.
ASSUMED = {"NVLink": 370e9, "PCIe": 20e9, "100 GbE": 11e9, "10 GbE": 1.1e9}

BACKWARD = 2 / 3  # of a step
PASSES = 3  # products of a step for each of the forward pass

FORMULA = (
    "T(b, 1) = t(b), the measured step of a batch of b images on one rank",
    "T(b, N) = t(b) + P + E, the predicted step of N ranks, each with b images",
    "P = (N-1) s t(b), the products of the factors of other ranks' images, of which a step has the share s",
    "E = (N-1)/N (G + W + F + A) / B, the exchange, if nothing is computed meanwhile",
    f"E = (N-1)/N (W + A) / B + max(0, (N-1)/N (G + F) / B - {BACKWARD:.2g} t(b)), if gradients and factors "
    "go during the backward pass",
    "G, W, F: bytes of gradients, weights and factors of all ranks; A: of activations of layers that ranks "
    "compute together, and of their gradients; B: bytes per second of the link",
    "weak scaling, b images for each rank: efficiency t(b) / T(b, N)",
    "strong scaling, b images for all ranks: efficiency t(b) / (N T(b/N, N))",
)
ASSUMPTIONS = (
    "links named as assumed have not been measured, and have no latency",
    "each rank has the link to itself, whatever N is: a host's ranks share neither memory nor network",
    "all ranks are as fast as the one that was measured, and none waits for images or for a slower one",
    f"the backward pass is {BACKWARD:.0%} of a step",
    "products of factors take as long as the step's other multiply-adds, of which the backward pass has two "
    "for each of the forward pass; --exchange gradients predicts without factors",
    "a rank's smaller part of the update saves nothing",
)


# ---- the prediction --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """The link between ranks.

    Attributes:
        name: Of the link.
        source: "measured", "given" or "assumed".
        rates: Bytes that a rank sends in an exchange, ascending, and its bytes per second then.
    """

    name: str
    source: str
    rates: tuple[tuple[float, float], ...]

    def __str__(self) -> str:
        return f"{self.name} ({self.source})"

    def rate(self, sent: float) -> float:
        """Return the bytes per second of an exchange in which each rank sends so many bytes."""
        sizes, rates = zip(*self.rates, strict=True)
        return float(np.interp(math.log(max(sent, 1.0)), np.log(sizes), rates))


def constant(name: str, source: str, rate: float) -> Link:
    """Return a link that is as fast for all sizes."""
    return Link(name, source, ((1.0, rate),))


def measured_link(result: Mapping[str, Any]) -> Link:
    """Return the link of a result of :func:`cconvnet.bench.exchange.exchange`, as training uses it.

    Raises:
        ValueError: It is none, or contains no exchange of training.
    """
    if result.get("what") != "exchange":
        raise ValueError("--link must be GB/s or a file of bench exchange")
    ranks = result["ranks"]
    rates = tuple(
        (2 * (ranks - 1) / ranks * row["bytes"], row["bus_bytes_per_second"])
        for row in sorted(result["rows"], key=lambda row: row["bytes"])
        if row["algorithm"] == "tree"
    )
    if not rates:
        raise ValueError("--link must be a file of bench exchange with the algorithm tree")
    return Link(f"{ranks} ranks", "measured", rates)


def predict(step: float, ranks: int, moved: Exchanged, share: float, link: Link) -> dict[str, float]:
    """Predict the step of several ranks by FORMULA.

    Args:
        step: Seconds of the step of one rank with its own images.
        ranks: Their number.
        moved: What they exchange.
        share: Of the products of factors in the multiply-adds of a step of one rank.
        link: The link between them.

    Returns:
        ``product_seconds`` P; ``exchange_seconds`` E and ``seconds`` T if nothing is computed meanwhile;
        and likewise ``exchange_seconds_overlapped`` and ``seconds_overlapped``.
    """
    part = (ranks - 1) / ranks
    products = (ranks - 1) * share * step
    early, late = part * (moved.gradients + moved.factors), part * (moved.weights + moved.columns)
    rate = link.rate(early + late)
    alone = (early + late) / rate
    overlapped = late / rate + max(0.0, early / rate - BACKWARD * step)
    return {
        "product_seconds": products,
        "exchange_seconds": alone,
        "exchange_seconds_overlapped": overlapped,
        "seconds": step + products + alone,
        "seconds_overlapped": step + products + overlapped,
    }


def exchanged(
    spec: NetSpec,
    batch: int,
    ranks: int,
    device: Device,
    precision: str,
    wire: str,
    exchange: str,
    parallel: str = "data",
) -> tuple[Exchanged, float]:
    """Return what ranks of so many images each exchange in a step, and the share of the products of factors.

    The share is of the multiply-adds of a step of one rank.
    """
    world = World.alone()
    world.size = ranks  # the plan of the first of so many
    share = Share(world, ranks, wire, exchange=exchange, parallel=parallel)
    moved = Plan(spec, batch=batch, devices=device, precision=precision, share=share).exchanged()
    whole_step = PASSES * sum(multiply_adds(spec).values()) * batch
    return moved, moved.products / ranks / whole_step


@dataclass(frozen=True)
class Point:
    """A number of ranks for which a prediction is made.

    Attributes:
        scaling: "weak" or "strong".
        ranks: Their number.
        batch: Images of each of them.
        moved: What they exchange.
        share: Of the products of factors in the multiply-adds of a step of one rank.
    """

    scaling: str
    ranks: int
    batch: int
    moved: Exchanged
    share: float

    @property
    def row(self) -> dict[str, Any]:
        """Its scaling, ranks and batch, as in rows of results."""
        return {"scaling": self.scaling, "ranks": self.ranks, "batch": self.batch}

    @property
    def exchanged(self) -> dict[str, Any]:
        """Bytes of all ranks together, and the share of the products."""
        return {
            "gradient_bytes": self.moved.gradients,
            "weight_bytes": self.moved.weights,
            "factor_bytes": self.moved.factors,
            "column_bytes": self.moved.columns,
            "product_share": self.share,
        }


# ---- the measurement -------------------------------------------------------------------------------------


def step_rows(
    spec: NetSpec, batches: Sequence[int], device: Device, precision: str, seconds: float
) -> list[dict[str, Any]]:
    """Time the steps of one rank, each batch for so many seconds."""
    rows = []
    arguments = {"device": device.name, "precision": precision}
    with Worker("cconvnet.bench.scaling:Points", arguments) as worker:
        for batch in batches:
            found = worker.ask("measure", spec=spec_to_dict(spec), batch=batch, seconds=seconds)
            rows.append({"batch": batch, **found, "images_per_second": batch / found["seconds"]})
    return rows


def rank_scaling(
    net: AnyNet,
    *,
    world: World,
    devices: list[str] | None = None,
    batch: int | None = None,
    precision: str | None = None,
    wire: str | None = None,
    exchange: str | None = None,
    parallel: str | None = None,
    link: float | Path | None = None,
    seconds: float = 60.0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Predict the speed of 1 to 64 ranks from the measured steps of one; all ranks must call this.

    Args:
        net: A network, or its name or file; see cconvnet.formats.netfiles.resolve.
        world: The ranks. Of several, the link is measured and the first measures the steps, on its cores.
        devices: Names of devices, as for training; see cconvnet.ranks.cores.own_devices.
        batch: Images for each rank of weak scaling, and for all of strong scaling; None: the network's own.
        precision: One of cconvnet.devices.PRECISIONS; None: fp32.
        wire: Type of gradients between ranks, "fp32" or "bf16"; None: fp32.
        exchange: What is exchanged of FC layers, "auto" or "gradients"; None: auto.
        parallel: The division among ranks, "data" or "hybrid"; None: data.
        link: GB/s of a link, or a file of bench exchange; None: it is measured if there are several ranks.
        seconds: Seconds for all steps, and a quarter of it for the link.
        say: Called with messages.

    Returns:
        ``steps``, a row for each batch that was measured. ``links``: ``name``, ``source`` and ``rates`` of
        each. ``rows``, all predicted, one for each link, ``scaling`` ("weak" or "strong") and number of
        ``ranks``: ``batch`` of each rank, ``sent_bytes`` of each rank, what :func:`predict` returns, and
        ``images_per_second`` and ``efficiency``, also with ``_overlapped``. ``exchanged``: the bytes of all
        ranks together by scaling and number of ranks. ``formula`` and ``assumptions`` as texts.

    Raises:
        ValueError: The text names the argument.
        DeviceUnavailable: The device cannot be used.
        WorkerError: A step could not be measured.
    """
    real("--seconds", seconds, above=0)
    way = {}
    for name, value, known in (
        ("wire", wire, WIRES),
        ("exchange", exchange, EXCHANGES),
        ("parallel", parallel, PARALLELS),
    ):
        way[name] = known[0] if value is None else value
        if way[name] not in known:
            raise ValueError(f"--{name} must be {' or '.join(known)}, not {value!r}")
    spec, _ = resolve(net).build_sized(None)
    batch = spec.recipe.batch if batch is None else whole("--batch", batch, 1)
    precision = precision or "fp32"
    links = [] if link is None else [_given_link(link)]
    divide_cores(world)
    device = devices_of(own_devices(devices, world))[0]
    require_precision(device, precision)
    result: dict[str, Any] = {
        "what": "ranks",
        "machine": machine.describe(device),
        "net": spec.name,
        "batch": batch,
        "precision": precision,
        **way,
        "device": device.name,
    }
    weak = [("weak", ranks, batch) for ranks in RANKS]
    strong = [("strong", ranks, batch // ranks) for ranks in RANKS if batch % ranks == 0]
    points = [
        Point(scaling, ranks, own, *exchanged(spec, own, ranks, device, precision, **way))
        for scaling, ranks, own in (*weak, *strong)
    ]
    if not links and world.size > 1:
        largest = max(point.moved.bytes for point in points)
        sizes = [size for size in exchanges.SIZES if size < 4 * largest]
        say(f"exchanges of up to {exchanges.size_text(sizes[-1])} are measured")
        result["link"] = exchanges.exchange(
            world, devices=[device.name], sizes=sizes, algorithms=("tree",), seconds=seconds / 4 / len(sizes)
        )
        links = [measured_link(result["link"])]
    links += [constant(name, "assumed", rate) for name, rate in ASSUMED.items()]
    batches = sorted({point.batch for point in points})
    say(f"steps of {', '.join(map(str, batches))} images are measured")
    result["steps"] = world.broadcast(
        step_rows(spec, batches, device, precision, seconds / len(batches)) if world.first else None
    )
    result["links"] = [{"name": one.name, "source": one.source, "rates": one.rates} for one in links]
    result["exchanged"] = [point.row | point.exchanged for point in points]
    steps = {row["batch"]: row["seconds"] for row in result["steps"]}
    result["rows"] = [_row(point, one, steps, batch) for point in points for one in links]
    result["formula"], result["assumptions"] = FORMULA, ASSUMPTIONS
    return result


def _row(point: Point, link: Link, steps: Mapping[int, float], batch: int) -> dict[str, Any]:
    """Return the prediction for a number of ranks over a link."""
    row: dict[str, Any] = {"link": link.name, "source": link.source, **point.row}
    row["sent_bytes"] = (point.ranks - 1) / point.ranks * point.moved.bytes
    row |= predict(steps[point.batch], point.ranks, point.moved, point.share, link)
    for kind in ("", "_overlapped"):
        rate = point.ranks * point.batch / row[f"seconds{kind}"]
        row[f"images_per_second{kind}"] = rate
        # Of both kinds of scaling it is the rate over N times that of one rank.
        row[f"efficiency{kind}"] = rate / point.ranks * steps[batch] / batch
    return row


def _given_link(link: float | Path) -> Link:
    """Return the link that a user names.

    Raises:
        ValueError: It is no bandwidth, and no result of bench exchange.
        OSError: The file cannot be read.
    """
    if not isinstance(link, Path):
        return constant(f"{link:g} GB/s", "given", 1e9 * real("--link", link, above=0))
    try:
        found = json.loads(link.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--link {link} contains no JSON: {error}") from None
    return measured_link(found if isinstance(found, dict) else {})


# ---- for people ------------------------------------------------------------------------------------------


def headline(result: Mapping[str, Any]) -> str:
    """Return a line with the network and what was measured."""
    steps = ", ".join(f"{row['batch']}: {1e3 * row['seconds']:,.1f} ms" for row in result["steps"])
    return (
        f"{result['net']}, {result['precision']}, {result['device']}: {result['machine'].get('chip', '')}; "
        f"measured steps of one rank by batch: {steps}"
    )


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table: predicted efficiencies, and the MB that a rank sends."""
    ranks = sorted({row["ranks"] for row in result["rows"]} - {1})
    header = ["link", "scaling", *(f"{count} ranks" for count in ranks)]
    lines = []
    for link in result["links"]:
        for scaling in ("weak", "strong"):
            found = _by_ranks(result, scaling, link["name"])
            cells = [_percent(found[count]) if count in found else "" for count in ranks]
            lines.append([f"{link['name']} ({link['source']})", scaling, *cells])
    for scaling in ("weak", "strong"):
        found = _by_ranks(result, scaling, result["links"][0]["name"])
        cells = [f"{found[count]['sent_bytes'] / 1e6:,.1f}" if count in found else "" for count in ranks]
        lines.append(["MB sent by a rank", scaling, *cells])
    return header, lines


def _by_ranks(result: Mapping[str, Any], scaling: str, link: str) -> dict[int, Mapping[str, Any]]:
    return {row["ranks"]: row for row in result["rows"] if (row["scaling"], row["link"]) == (scaling, link)}


def _percent(row: Mapping[str, Any]) -> str:
    both = [f"{100 * row[f'efficiency{kind}']:.0f}" for kind in ("", "_overlapped")]
    return " to ".join(dict.fromkeys(both)) + "%"


def verdict(result: Mapping[str, Any]) -> list[str]:
    """Return the meaning of the table: formula and assumptions."""
    return [
        f"predicted efficiency, without and with exchange during the backward pass; weak: {result['batch']} "
        f"images for each rank, strong: {result['batch']} for all; --wire {result['wire']}, --exchange "
        f"{result['exchange']}, --parallel {result['parallel']}",
        *(f"formula: {line}" for line in result["formula"]),
        *(f"assumed: {line}" for line in result["assumptions"]),
    ]
