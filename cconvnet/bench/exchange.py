"""Time of the exchange of gradients between ranks by its size: that of training, beside MPI's own.

The algorithms take turns, so that a drift of the machine's speed affects all of them. The sums of each are
checked before it is timed.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from cconvnet.bench.processes import WorkerError
from cconvnet.bench.timing import calls_for, summary
from cconvnet.checks import real, whole
from cconvnet.devices import Device, devices_of, machine
from cconvnet.nets import image
from cconvnet.network import Network
from cconvnet.plots.timeline import in_time
from cconvnet.ranks import RanksError
from cconvnet.ranks.cores import divide_cores, own_devices
from cconvnet.ranks.shares import Share
from cconvnet.ranks.world import World
from cconvnet.system.installation import pip_install

Array = np.ndarray[Any, Any]

SIZES = tuple(4096 * 4**power for power in range(9))  # bytes, to 256 MiB
# Medians of turns, so an odd number. Each may have many calls, so that the ranks' start does not matter.
TURNS, MAX_CALLS = 7, 10_000
# A slowest turn of so many times the fastest is noise of the machine.
NOISY = 1.5

MPI = "MPI"
ALGORITHMS = {
    "tree": "as training: slices are sent, added in the fixed order, and gathered",
    "tree bf16": "as training with --wire bf16",
    "fast": "as training with --reduce fast",
    MPI: "MPI's Iallreduce, waited for as training waits, which leaves the core to others",
    "MPI blocking": "MPI's Allreduce, which keeps the core busy",
}
# Numbers of gradients are multiples of it.
_OUTPUTS = 64


# ---- one exchange ----------------------------------------------------------------------------------------


class Exchange(Protocol):
    """Gradients that are summed over all ranks."""

    def load(self, values: Array) -> None:
        """Set this rank's gradients, float32[count]."""

    def run(self) -> None:
        """Bring the sums over all ranks to each of them; return when that is done."""

    def sums(self) -> Array:
        """Return the sums of the run after `load`, float32[count]."""


class TrainingExchange:
    """The exchange of a training whose network is one layer, without the update of its weights.

    Args:
        world: The ranks, all of which make this together.
        device: This rank's device.
        count: The number of weights, a multiple of 64.
        reduction: "tree" or "fast".
        wire: "fp32" or "bf16".
    """

    def __init__(
        self, world: World, device: Device, count: int, reduction: str = "tree", wire: str = "fp32"
    ) -> None:
        share = Share(world, world.size, wire, reduction, exchange="gradients")
        spec = image(1, 1, count // _OUTPUTS).fc(_OUTPUTS, bias=None).softmax(name="exchange")
        self._network = Network(spec, batch=1, devices=device, share=share)
        self._network.connect()
        shards = self._network.graph.shards
        assert shards is not None
        self._shards, self._device, self._ranks = shards, device, world.size
        self._here = slice(0, count)  # the rest fills the slices of the ranks

    def load(self, values: Array) -> None:
        """Set the gradients, and let the next run move the weights from 0 to minus the mean."""
        shards, device = self._shards, self._device
        device.fill(shards.gradient[self._here], values)
        device.fill(shards.value, np.zeros(shards.count, np.float32))
        shards.set_rates(1.0, 0.0)

    def run(self) -> None:
        """Do what follows the backward pass of the layer, and what ends a step."""
        self._shards.begin_pass(0)
        for layer in self._network.graph.backward:
            self._shards.begin_exchange(layer, 0)
        self._shards.finish()
        self._device.synchronize()

    def sums(self) -> Array:
        """Return minus the weights, times the number of ranks; later runs leave them alone."""
        self._shards.set_rates(0.0, 0.0)
        sums: Array = -self._ranks * self._device.host(self._shards.value[self._here])
        return sums


class MpiExchange:
    """MPI's own sum, of arrays in the host's memory.

    Args:
        world: The ranks.
        count: The number of floats.
        blocking: True for the call that returns when all is done.
    """

    def __init__(self, world: World, count: int, blocking: bool) -> None:
        from mpi4py import MPI

        self._world, self._add, self._blocking = world, MPI.SUM, blocking
        self._own, self._sums = (np.zeros(count, np.float32) for _ in range(2))

    def load(self, values: Array) -> None:
        """Set the gradients."""
        self._own[...] = values

    def run(self) -> None:
        """Sum over all ranks."""
        world = self._world
        if self._blocking:
            world.comm.Allreduce(self._own, self._sums, self._add)
        else:
            world.wait([world.comm.Iallreduce(self._own, self._sums, self._add)])

    def sums(self) -> Array:
        """Return the sums."""
        return self._sums


def exchange_of(algorithm: str, world: World, device: Device, count: int) -> Exchange:
    """Return the exchange of one of ALGORITHMS; all ranks must call this."""
    if algorithm.startswith(MPI):
        return MpiExchange(world, count, blocking=algorithm != MPI)
    reduction, _, wire = algorithm.partition(" ")
    return TrainingExchange(world, device, count, reduction, wire or "fp32")


def check(exchange: Exchange, world: World, count: int, name: str) -> None:
    """Run an exchange of known numbers, and check all sums.

    Raises:
        WorkerError: A sum is wrong; the text names it.
    """

    def numbers(rank: int) -> Array:
        # Small whole numbers, whose sums are exact in every type and order.
        return np.resize(((np.arange(9) + 3 * rank) % 9 - 4).astype(np.float32), count)

    exchange.load(numbers(world.rank))
    exchange.run()
    found, expected = exchange.sums(), sum(map(numbers, range(world.size)), np.zeros(count, np.float32))
    # A mean is rounded, and no difference that is not a number passes.
    if (wrong := np.flatnonzero(~(np.abs(found - expected) <= 1e-5 * world.size))).size:
        first = int(wrong[0])
        raise WorkerError(
            f"{name} of {count:,} numbers is wrong: the sum of number {first} is {found[first]:g}, not "
            f"{expected[first]:g}"
        )


# ---- the measurement -------------------------------------------------------------------------------------


def exchange(
    world: World,
    *,
    devices: list[str] | None = None,
    sizes: Sequence[int] = SIZES,
    algorithms: Sequence[str] = tuple(ALGORITHMS),
    seconds: float = 1.0,
    measured: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Time exchanges of growing sizes between ranks, all of which must call this.

    Args:
        world: The ranks.
        devices: Names of devices, as for training; see cconvnet.ranks.cores.own_devices.
        sizes: Bytes of float32 gradients.
        algorithms: Of ALGORITHMS.
        seconds: Seconds for each algorithm and size.
        measured: Called after each size with the result so far.

    Returns:
        ``rows``, one for each size and algorithm: ``bytes`` of the float32 gradients, ``algorithm``, median
        and extremes of the ``seconds`` of a call, each turn's mean, and the ``calls`` of a turn.
        ``bus_bytes_per_second`` is 2 (N-1)/N times the bytes, by the median. ``times_mpi`` is the time over
        that of MPI's Iallreduce, the median of the ratios of all turns. ``noisy`` is True if turns differ
        much. Beside them ``ranks``, ``hosts``, ``mpi``, ``cores`` of each rank and the machine. It is the
        same on all ranks, but for the machine's description.

    Raises:
        RanksError: There is one rank, or devices cannot be given out.
        ValueError: The text names the argument.
        WorkerError: A sum is wrong.
    """
    real("--seconds", seconds, above=0)
    if not sizes:
        raise ValueError("--sizes must be numbers of bytes, not none")
    for size in sizes:
        whole("--sizes", size, 1)
    if world.size == 1:
        raise RanksError(
            "an exchange needs at least two processes: mpiexec -n 2 cconvnet bench exchange; mpiexec comes "
            f"with {pip_install('mpi4py', 'mpich')}"
        )
    divide_cores(world)
    (device,) = devices_of(own_devices(devices, world))[:1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    result: dict[str, Any] = {
        "what": "exchange",
        "machine": machine.describe(device) | {"mpi": _mpi_library()},
        "precision": "fp32",
        "device": device.name,
        "ranks": world.size,
        "hosts": world.share(world.host),
        "cores": world.share(cores),
        "rows": [],
    }
    for size in sorted(set(sizes)):
        count = -(-size // (4 * _OUTPUTS)) * _OUTPUTS
        exchanges = {name: exchange_of(name, world, device, count) for name in algorithms}
        for name, one in exchanges.items():
            check(one, world, count, name)
        result["rows"] += _rows(world, exchanges, 4 * count, seconds)
        measured(result)
        del exchanges, one
        gc.collect()  # networks are circles, and the next ones are larger
    return result


def _mpi_library() -> str:
    from mpi4py import MPI

    return " ".join(MPI.Get_library_version().splitlines()[0].strip("\0 ").split())


def _rows(world: World, exchanges: Mapping[str, Exchange], size: int, seconds: float) -> list[dict[str, Any]]:
    """Time exchanges of one size in turns."""
    calls = {}
    for name, one in exchanges.items():
        _turn(world, one, 1)  # the first call after the check
        calls[name] = calls_for(seconds / TURNS, _turn(world, one, 2), 1, MAX_CALLS)
    times: dict[str, list[float]] = {name: [] for name in exchanges}
    for _ in range(TURNS):
        for name, one in exchanges.items():
            times[name].append(_turn(world, one, calls[name]))
    rows = []
    for name, own in times.items():
        row: dict[str, Any] = {"bytes": size, "algorithm": name, **summary(own), "calls": calls[name]}
        sent = 2 * (world.size - 1) / world.size * size
        row["bus_bytes_per_second"] = sent / row["seconds"]
        if MPI in times:
            row["times_mpi"] = statistics.median(a / b for a, b in zip(own, times[MPI], strict=True))
        row["noisy"] = max(own) > NOISY * min(own)
        rows.append(row)
    return rows


def _turn(world: World, one: Exchange, calls: int) -> float:
    """Return the mean seconds of calls, on the rank that needs the most; the same on all ranks."""
    world.barrier()
    begin = time.perf_counter()
    for _ in range(calls):
        one.run()
    return world.highest((time.perf_counter() - begin) / calls)


# ---- for people ------------------------------------------------------------------------------------------


def size_text(size: int) -> str:
    """Format bytes: 4 KiB, 1 MiB, 243.9 MB."""
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size % one == 0:
            return f"{size // one} {unit}"
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size:,} B"


def headline(result: Mapping[str, Any]) -> str:
    """Return a line with the ranks and the library."""
    hosts, about = len(set(result["hosts"])), result["machine"]
    where = "one host" if hosts == 1 else f"{hosts} hosts"
    cores = sorted(set(result["cores"]))
    each = " to ".join(map(str, dict.fromkeys((cores[0], cores[-1]))))
    return (
        f"{result['ranks']} ranks on {where}, cores of each: {each}; {result['device']}: "
        f"{about.get('chip', '')}; {about['mpi']}"
    )


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table: time, bus bandwidth and the time over MPI's of each size."""
    names = list(dict.fromkeys(row["algorithm"] for row in result["rows"]))
    rows = []
    for size in dict.fromkeys(row["bytes"] for row in result["rows"]):
        of = {row["algorithm"]: row for row in result["rows"] if row["bytes"] == size}
        cells = [
            f"{in_time(row['seconds'])}, {row['bus_bytes_per_second'] / 1e9:.3g} GB/s"
            + (f", {row['times_mpi']:.2f}x" if name != MPI and "times_mpi" in row else "")
            for name, row in ((name, of[name]) for name in names)
        ]
        rows.append([size_text(size), *cells])
    return ["gradients", *names], rows


def verdict(result: Mapping[str, Any]) -> list[str]:
    """Return the meaning of the columns, and warnings."""
    lines = [
        f"{name}: {ALGORITHMS[name]}" for name in dict.fromkeys(row["algorithm"] for row in result["rows"])
    ]
    lines.append("columns: time of a call; bus bandwidth, 2 (N-1)/N bytes / time; time over that of MPI")
    if noisy := sum(row["noisy"] for row in result["rows"]):
        lines.append(
            f"warning: in {noisy} of {len(result['rows'])} rows the slowest turn took more than {NOISY:g} "
            "times the fastest, so other programs use this machine; measure again, with more --seconds"
        )
    return lines
