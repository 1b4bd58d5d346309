"""Growth of the time and the memory of a training step with the batch and with the images."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cconvnet.bench.processes import Worker, WorkerError, peak_bytes
from cconvnet.bench.timing import calls_for, summary, wall_seconds
from cconvnet.checks import MAX_SIDE, real, whole
from cconvnet.devices import Device, check_precision, get_device, machine, memory
from cconvnet.formats.netfiles import AnyNet, resolve
from cconvnet.nets import spec_from_dict, spec_to_dict
from cconvnet.network import Network
from cconvnet.network.synthetic import Training

FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # of the height of a network's own images
LARGEST_BATCH = 1 << 16
# On a GPU the second step is slower, since it is captured.
WARMUP, LEAST_STEPS, MOST_STEPS = 2, 2, 20
# Usable share of the free memory: other processes need some of it.
USED_SHARE = 0.85
BATCH_SHARE = 0.6  # of the time; the rest is for the sizes of images


# ---- one network after the other, in another process -----------------------------------------------------


class Points:
    """Measure networks, one after the other; each is freed before the next is made."""

    def __init__(self, device: str, precision: str) -> None:
        self._device = get_device(device)
        self._precision = precision

    def measure(self, spec: dict[str, Any], batch: int, seconds: float) -> dict[str, Any]:
        """Time steps of one network for roughly `seconds`.

        Returns:
            The statistics of the steps' ``seconds``. ``memory_bytes`` is planned for the network;
            ``available_bytes`` was free before it was made. On a CPU also ``peak_rss_bytes`` of this process
            so far.
        """
        self._free()
        available = available_bytes(self._device)
        found = self._measured(spec, batch, seconds)
        if self._device.kind != "cuda":
            found["peak_rss_bytes"] = peak_bytes()
        return found | {"available_bytes": available}

    def _free(self) -> None:
        """Free the memory of the previous network, also after a failure."""
        gc.collect()
        if self._device.kind == "cuda":
            with self._device:
                self._device.xp.get_default_memory_pool().free_all_blocks()
                self._device.xp.get_default_pinned_memory_pool().free_all_blocks()

    def _measured(self, spec: dict[str, Any], batch: int, seconds: float) -> dict[str, Any]:
        network = Network(spec_from_dict(spec), batch=batch, devices=self._device, precision=self._precision)
        training = Training(network)

        first = wall_seconds(training.step, WARMUP)
        count = calls_for(seconds, first[-1], LEAST_STEPS, MOST_STEPS)
        times = summary(wall_seconds(training.step, count))
        return times | {"memory_bytes": network.describe()["memory_bytes"]}


def available_bytes(device: Device) -> int | None:
    """Return the memory that is free for a network on this device; None if the system does not report it."""
    found = memory.available(device)
    return None if found is None else found.fast


# ---- the measurement -------------------------------------------------------------------------------------


@dataclass
class Budget:
    """Time that a series of points may take, and the forecast of the next point from those so far.

    Args:
        seconds: Seconds for the series.
        clock: Returns seconds that only grow.
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    _begin: float = field(init=False)

    def __post_init__(self) -> None:
        self._begin = self.clock()

    @property
    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - (self.clock() - self._begin)

    def refuses(self, points: Sequence[Mapping[str, Any]], growth: float, again: float) -> str | None:
        """Return the reason to leave the next point out; None if there is none.

        Args:
            points: The points before it, in their order: rows of a result.
            growth: Growth of the work from the last of them to the next.
            again: Growth of the work from the last but one to the last.
        """
        if self.left <= 0:
            return "no time is left"
        if not points:
            return None
        last = points[-1]
        fixed, moving = _least(last)
        need = fixed + moving * growth
        if need > self.left:
            return f"it would take about {need:,.1f} s and {self.left:,.1f} s are left"
        available = last["available_bytes"]
        memory = _memory_after(points, growth, again)
        if available is not None and memory > USED_SHARE * available:
            return (
                f"it would need about {memory / 1e9:,.2f} GB, and of the {available / 1e9:,.2f} GB that are "
                f"free {USED_SHARE:.0%} may be used"
            )
        return None


def _least(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the least seconds of a point: for making the network and for each of the fewest steps."""
    fixed = row["whole_seconds"] - (WARMUP + row["calls"]) * row["seconds"]
    return max(fixed, 0.0), (WARMUP + LEAST_STEPS) * row["seconds"]


def _memory_after(points: Sequence[Mapping[str, Any]], growth: float, again: float) -> float:
    """Return the memory of the next point: a fixed part and one that grows with the work."""
    last = memory_of(points[-1])
    if len(points) == 1 or again <= 1:
        return last * growth
    before = memory_of(points[-2])
    moving = (last - before) / (1 - 1 / again)  # the growing part of the last point
    return last + max(moving, 0.0) * (growth - 1)


def memory_of(row: Mapping[str, Any]) -> float:
    """Return a point's memory: of the whole process, or on a GPU of the network."""
    return float(row.get("peak_rss_bytes", row["memory_bytes"]))


def scaling(
    net: AnyNet,
    *,
    device: str | None = None,
    precision: str | None = None,
    batch_max: int | None = None,
    sizes: Sequence[int] | None = None,
    seconds: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
    worker: Callable[..., Any] = Worker,
    measured: Callable[[dict[str, Any], str], None] = lambda result, what: None,
) -> dict[str, Any]:
    """Time training steps at growing batches, then at growing image sizes, and fit their growth.

    On a CPU every point has a process of its own, whose peak memory is its own. On a GPU they share one.

    Args:
        net: A network, or its name or file; see cconvnet.formats.netfiles.resolve.
        device: The name of the device; None: the default device.
        precision: One of cconvnet.devices.PRECISIONS; None: fp32.
        batch_max: The largest batch; None: the largest that fits into memory and time.
        sizes: Heights of the stored images; None: half to twice the network's own.
        seconds: Seconds for all points. Points that would take longer than is left are left out.
        clock: Returns seconds that only grow.
        worker: Makes the process that measures, as Worker does.
        measured: Called after each point with the result so far and the point that was measured or left out.

    Returns:
        ``rows``, one for each point: its ``series`` ("batch" or "size"), ``batch``, ``size``, ``seconds``,
        ``seconds_min`` and ``images_per_second``. ``memory_bytes`` is the network's; on a CPU
        ``peak_rss_bytes`` is the whole process's. ``local_exponents`` compare a row with the one before it.
        ``left_out`` contains the points that were not measured and ``why``. ``fits`` contains the fits of
        each series; see fit().

    Raises:
        ValueError: The text names the argument.
    """
    check_precision(precision)
    real("--seconds", seconds, above=0)
    if batch_max is not None:
        whole("--batch-max", batch_max, 1)
    if sizes is not None and not sizes:
        raise ValueError("--sizes must be numbers of pixels, not none")
    for one in sizes or ():
        whole("--sizes", one, 1, MAX_SIDE)
    used = get_device(device)
    wanted_net = resolve(net)
    spec, _ = wanted_net.build_sized(None)
    own = spec.stored[0]
    precision = precision or "fp32"
    result: dict[str, Any] = {
        "what": "scaling",
        "machine": machine.describe(used),
        "net": spec.name,
        "precision": precision,
        "image": list(spec.stored_shape),
        "device": used.name,
        "memory_key": "memory_bytes" if used.kind == "cuda" else "peak_rss_bytes",
        "rows": [],
        "left_out": [],
        "fits": {},
    }
    in_all = Budget(seconds, clock)
    target, arguments = "cconvnet.bench.scaling:Points", {"device": used.name, "precision": precision}
    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(worker(target, arguments)) if used.kind == "cuda" else None

        def point(series: str, batch: int, size: int, budget: Budget) -> str | None:
            """Add a row, or return the reason why there is none."""
            begin = clock()
            # This leaves time for later points.
            wanted: dict[str, Any] = {"batch": batch, "seconds": budget.left / 30}
            try:
                sized = spec if size == own else wanted_net.build_sized(size)[0]
                wanted["spec"] = spec_to_dict(sized)
                with contextlib.ExitStack() as single:
                    asked = shared or single.enter_context(worker(target, arguments))
                    told = asked.ask("measure", **wanted)
            except (ValueError, WorkerError) as error:
                return str(error)
            row = {"series": series, "batch": batch, "size": size, **told}
            row["images_per_second"] = batch / row["seconds"]
            row["whole_seconds"] = clock() - begin
            rows = [other for other in result["rows"] if other["series"] == series]
            if rows:
                row["local_exponents"] = _local(rows[-1], row)
            result["rows"].append(row)
            result["fits"][series] = fit([*rows, row], series)
            measured(result, f"batch {batch}, {size} pixels")
            return None

        def leave_out(series: str, value: int, why: str) -> None:
            result["left_out"].append({"series": series, series: value, "why": why})
            measured(result, f"{series} {value} is left out: {why}")

        budget = Budget(BATCH_SHARE * in_all.left, clock)
        batches: list[dict[str, Any]] = []
        for batch in _batches(batch_max):
            growth = batch / batches[-1]["batch"] if batches else 1.0
            again = batches[-1]["batch"] / batches[-2]["batch"] if len(batches) > 1 else 1.0
            why = budget.refuses(batches, growth, again) or point("batch", batch, own, budget)
            if why is not None:
                leave_out("batch", batch, why)
                break
            batches = [row for row in result["rows"] if row["series"] == "batch"]
        if not batches:
            raise WorkerError(f"{net} could not be measured: {result['left_out'][-1]['why']}")

        budget = Budget(in_all.left, clock)
        batch = size_batch(batches, budget.left, spec.recipe.batch)
        done: list[dict[str, Any]] = []
        for size in sorted(set(sizes or [max(1, round(own * factor)) for factor in FACTORS])):
            # The network's own size was measured at this batch, which predicts the first point.
            before = done or [row for row in batches if row["batch"] == batch]
            growth = (size / before[-1]["size"]) ** 2
            again = (done[-1]["size"] / done[-2]["size"]) ** 2 if len(done) > 1 else 1.0
            # A smaller image needs no more than the measured one.
            why = budget.refuses(before, max(growth, 1.0), again) or point("size", batch, size, budget)
            if why is not None:
                leave_out("size", size, why)
            done = [row for row in result["rows"] if row["series"] == "size"]
    return result


def _batches(most: int | None) -> list[int]:
    """Return 1, 2, 4, ... up to and including `most`."""
    last = most or LARGEST_BATCH
    powers = list(itertools.takewhile(lambda batch: batch <= last, (1 << index for index in range(31))))
    return powers if powers[-1] == last else [*powers, last]


def size_batch(batches: Sequence[Mapping[str, Any]], seconds: float, own: int) -> int:
    """Return the batch at which images grow: the largest up to `own` that leaves time for all sizes."""

    def need(row: Mapping[str, Any]) -> float:
        fixed, moving = _least(row)
        return sum(fixed + moving * max(factor, 1.0) ** 2 for factor in FACTORS)

    fitting = [row for row in batches if row["batch"] <= own and need(row) <= seconds]
    return int(max((row["batch"] for row in fitting), default=batches[0]["batch"]))


# ---- fits ------------------------------------------------------------------------------------------------


def power(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Fit y = factor * x^exponent: least squares of log y over log x. Return the exponent and the factor."""
    exponent, logarithm = np.polyfit(np.log(xs), np.log(ys), 1)
    return float(exponent), math.exp(logarithm)


def straight(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Fit y = fixed + each * x: least squares of relative errors. Return both parts."""
    each, fixed = np.polyfit(xs, ys, 1, w=1 / np.asarray(ys, float))
    return float(fixed), float(each)


def fit(rows: Sequence[Mapping[str, Any]], series: str) -> dict[str, Any] | None:
    """Fit the growth of the time and the memory of these points; None for fewer than two.

    Returns:
        ``over``, the batches or sizes of the points, and the fits of ``seconds``, ``memory_bytes`` and
        ``peak_rss_bytes``. Each contains the ``exponent`` and ``factor`` of factor * x^exponent, where x is
        the batch or the height of the images. It also contains the ``fixed`` part and the part for each image
        (``per_image``) or pixel of an image (``per_pixel``).
    """
    if len(rows) < 2:
        return None
    xs = [float(row[series]) for row in rows]
    found: dict[str, Any] = {"over": [row[series] for row in rows]}
    for key in ("seconds", "memory_bytes", "peak_rss_bytes"):
        if key in rows[0]:
            ys = [float(row[key]) for row in rows]
            exponent, factor = power(xs, ys)
            fixed, each = straight(xs if series == "batch" else [x * x for x in xs], ys)
            per = "per_image" if series == "batch" else "per_pixel"
            found[key] = {"exponent": exponent, "factor": factor, "fixed": fixed, per: each}
    return found


def _local(before: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, float]:
    """Return the exponents of the growth from one row of a series to the next."""
    series = row["series"]
    step = math.log(row[series] / before[series])
    keys = [key for key in ("seconds", "memory_bytes", "peak_rss_bytes") if key in row]
    return {key: math.log(row[key] / before[key]) / step for key in keys}


# ---- for people ------------------------------------------------------------------------------------------


def table(result: Mapping[str, Any], series: str) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of one series of the result of :func:`scaling`."""
    rss = result["memory_key"] == "peak_rss_bytes"
    header = [series, "step ms", "images/s", "memory MB", *(["process MB"] if rss else [])]
    header += ["time ^", "memory ^", *(["process ^"] if rss else [])]
    keys = ["memory_bytes", *(["peak_rss_bytes"] if rss else [])]
    lines = []
    for row in (row for row in result["rows"] if row["series"] == series):
        local = row.get("local_exponents", {})
        lines.append(
            [
                str(row[series]),
                f"{1e3 * row['seconds']:,.2f}",
                f"{row['images_per_second']:,.1f}",
                *(f"{row[key] / 1e6:,.1f}" for key in keys),
                *(f"{local[key]:.2f}" if local else "" for key in ("seconds", *keys)),
            ]
        )
    if fitted := result["fits"].get(series):
        blanks = [""] * (2 + len(keys))
        lines.append(["all", *blanks, *(f"{fitted[key]['exponent']:.2f}" for key in ("seconds", *keys))])
    return header, lines


def verdict(result: Mapping[str, Any], series: str) -> list[str]:
    """Return the conclusions of a table: fits, expected growth, and the points that were left out."""
    lines = []
    if fitted := result["fits"].get(series):
        over = f"{fitted['over'][0]} to {fitted['over'][-1]}"
        what, expected = ("batch", 1) if series == "batch" else ("side", 2)
        seconds, memory = fitted["seconds"], fitted["memory_bytes"]
        lines.append(
            f"time ~ {what}^{seconds['exponent']:.2f}, memory ~ {what}^{memory['exponent']:.2f} over {over}; "
            f"expected {expected} where nothing is fixed"
        )
        if series == "batch":
            lines.append(
                f"a step takes {1e3 * seconds['fixed']:,.2f} ms and {1e3 * seconds['per_image']:,.3f} ms for "
                f"each image; the network {memory['fixed'] / 1e6:,.1f} MB and "
                f"{memory['per_image'] / 1e6:,.3f} MB for each image"
            )
        else:
            lines.append(
                f"a step takes {1e3 * seconds['fixed']:,.2f} ms and {1e6 * seconds['per_pixel']:,.3f} us for "
                f"each pixel of an image; the network {memory['fixed'] / 1e6:,.1f} MB and "
                f"{memory['per_pixel'] / 1e3:,.3f} kB for each pixel"
            )
    return lines + [
        f"{series} {left[series]} is left out: {left['why']}"
        for left in result["left_out"]
        if left["series"] == series
    ]
