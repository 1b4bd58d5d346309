"""Diagnosis of processes that would train together: facts of each, links between them, findings."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cconvnet.devices import devices_of, machine
from cconvnet.doctor.diagnosis import Finding
from cconvnet.ranks.cores import divide_cores, own_devices
from cconvnet.ranks.world import World
from cconvnet.system.installation import pip_install

# Bytes of the messages that measure a link, and how many travel there and back.
SMALL, LARGE = 4096, 16 * 2**20
_SMALL_TRIPS, _LARGE_TRIPS = 21, 5

# Their versions decide neither the results nor whether ranks understand each other.
_IRRELEVANT = ("torch", "nvidia-cudnn-frontend", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")


@dataclass(frozen=True)
class RankFacts:
    """Facts about one of several processes.

    Attributes:
        rank: Its number.
        host: Its host.
        device: The device that it takes by default.
        chip: The processor or GPU.
        gpu: The bus address of the GPU; None without one.
        cores: The numbers of the cores that it may use.
        threads: The threads of OpenMP.
        versions: The version of each software that it uses, by name.
        latency: Seconds that SMALL bytes take to the next rank; None alone.
        bandwidth: Bytes a second to the next rank, for LARGE bytes at once; None alone.
    """

    rank: int = 0
    host: str = "node"
    device: str = "cpu:0"
    chip: str = "CPU"
    gpu: str | None = None
    cores: Sequence[int] = (0,)
    threads: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    latency: float | None = None
    bandwidth: float | None = None


def survey_ranks(world: World) -> list[RankFacts]:
    """Return the facts of all ranks, with the cores and devices that training gives them. All call this."""
    divide_cores(world)
    (device,) = devices_of(own_devices(None, world))
    found = machine.describe(device, clocks=False)
    cores = _cores()
    latency, bandwidth = _link(world)
    own = RankFacts(
        rank=world.rank,
        host=world.host,
        device=device.name,
        chip=found["chip"],
        gpu=device.xp.cuda.runtime.deviceGetPCIBusId(device.ordinal) if device.kind == "cuda" else None,
        cores=cores,
        threads=_threads(cores),
        versions=_versions(found) | _libraries(world),
        latency=latency,
        bandwidth=bandwidth,
    )
    return [RankFacts(**told) for told in world.share(asdict(own))]


def _cores() -> list[int]:
    known = hasattr(os, "sched_getaffinity")
    return sorted(os.sched_getaffinity(0)) if known else list(range(os.cpu_count() or 1))


def _threads(cores: Sequence[int]) -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(asked) if asked.isdecimal() else len(cores)


def _versions(found: dict[str, Any]) -> dict[str, str]:
    versions = {name: text for name, text in found["versions"].items() if name not in _IRRELEVANT}
    return versions | ({"commit": found["commit"]} if "commit" in found else {})


def _libraries(world: World) -> dict[str, str]:
    """Return the versions of the libraries between ranks."""
    versions = {}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions["mpi4py"] = importlib.metadata.version("mpi4py")
    with contextlib.suppress(ImportError, RuntimeError):
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.initialize and world.size > 1
        from mpi4py import MPI

        # "MPICH Version:      5.0.2", or "Open MPI v5.0.11, package: ..."
        first = MPI.Get_library_version().splitlines()[0].partition(",")[0].strip("\0 ")
        versions["MPI"] = " ".join(first.replace("Version:", "").split())
    with contextlib.suppress(ImportError):
        from cupy.cuda import nccl

        number = nccl.get_version()
        versions["NCCL"] = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return versions


def _link(world: World) -> tuple[float | None, float | None]:
    """Measure the messages to the next rank, one pair of ranks at a time: seconds, bytes a second."""
    found: list[float] = []
    for first in range(world.size if world.size > 1 else 0):
        second = (first + 1) % world.size
        world.barrier()
        for size, trips in ((SMALL, _SMALL_TRIPS), (LARGE, _LARGE_TRIPS)):
            if world.rank == first:
                found.append(_send_and_get_back(world, second, size, trips))
            elif world.rank == second:
                _send_back(world, first, size, trips)
    return (found[0], LARGE / found[1]) if found else (None, None)


def _send_and_get_back(world: World, peer: int, size: int, trips: int) -> float:
    """Return the seconds of a message one way; the median, without the first."""
    message, seconds = np.ones(size, np.uint8), []
    for _ in range(trips):
        began = time.perf_counter()
        world.wait([world.comm.Isend(message, peer)])
        world.wait([world.comm.Irecv(message, peer)])
        seconds.append((time.perf_counter() - began) / 2)
    return statistics.median(seconds[1:])


def _send_back(world: World, peer: int, size: int, trips: int) -> None:
    message = np.empty(size, np.uint8)
    for _ in range(trips):
        world.wait([world.comm.Irecv(message, peer)])
        world.wait([world.comm.Isend(message, peer)])


def examine_ranks(ranks: Sequence[RankFacts]) -> list[Finding]:
    """Return the findings about ranks that would train together.

    Args:
        ranks: The facts of all of them, in order.
    """
    judges = (_mpi, _same_versions, _same_chips, _own_gpus, _enough_cores)
    return [finding for judge in judges for finding in judge(ranks)]


def _mpi(ranks: Sequence[RankFacts]) -> Iterator[Finding]:
    if "MPI" not in ranks[0].versions:
        text = "mpi4py or a library of MPI is missing; needed for several processes"
        yield Finding("MPI", "note", text, pip_install("mpi4py", "mpich"))


def _same_versions(ranks: Sequence[RankFacts]) -> Iterator[Finding]:
    for name in dict.fromkeys(name for facts in ranks for name in facts.versions):
        by_version = _grouped((facts.versions.get(name, "none"), facts) for facts in ranks)
        if len(by_version) == 1:
            continue
        wanted = ranks[0].versions.get(name)
        others = ", ".join({facts.host: 0 for facts in ranks if facts.versions.get(name) != wanted})
        fix = "install the same on all hosts"
        if name not in ("cconvnet", "commit", "python", "MPI", "NCCL") and wanted is not None:
            fix = f"on {others}: {pip_install(f'{name}=={wanted}')}"
        yield Finding(name, "problem", f"differs: {_listing(by_version)}", fix)


def _same_chips(ranks: Sequence[RankFacts]) -> Iterator[Finding]:
    by_chip = _grouped((f"{facts.chip} ({facts.device.partition(':')[0]})", facts) for facts in ranks)
    if len(by_chip) > 1:
        text = (
            f"{_listing(by_chip)}: all wait for the slowest, and rounding may depend on which rank is where"
        )
        yield Finding("chips", "note", text)


def _own_gpus(ranks: Sequence[RankFacts]) -> Iterator[Finding]:
    for (host, gpu), sharing in _grouped(((facts.host, facts.gpu), facts) for facts in ranks).items():
        if gpu is None or len(sharing) == 1 or "NCCL" not in sharing[0].versions:
            continue
        count = len({facts.gpu for facts in ranks if facts.host == host})
        text = f"ranks {_numbers(sharing)} share {sharing[0].device} of {host} ({gpu}), which NCCL refuses"
        fix = f"start at most {count} on {host}: mpiexec -ppn {count}, or srun --gpus-per-task=1"
        yield Finding("GPUs", "problem", text, fix)


def _enough_cores(ranks: Sequence[RankFacts]) -> Iterator[Finding]:
    for host, here in _grouped((facts.host, facts) for facts in ranks).items():
        cores = {core for facts in here for core in facts.cores}
        threads = sum(facts.threads for facts in here)
        if threads > len(cores):
            text = f"{threads} threads of OpenMP in {len(here)} ranks on {host}, for {len(cores)} cores"
            each = len(cores) // len(here)
            fix = f"export OMP_NUM_THREADS={each}" if each else f"start at most {len(cores)} ranks on {host}"
            yield Finding("threads", "problem", text, fix)


def _grouped(pairs: Iterable[tuple[Any, RankFacts]]) -> dict[Any, list[RankFacts]]:
    groups = defaultdict(list)
    for key, facts in pairs:
        groups[key].append(facts)
    return groups


def _listing(groups: dict[str, list[RankFacts]]) -> str:
    return "; ".join(f"{what} on rank {_numbers(group)} ({group[0].host})" for what, group in groups.items())


def _numbers(group: Sequence[RankFacts]) -> str:
    return ranges([facts.rank for facts in group])


def ranges(numbers: Sequence[int]) -> str:
    """Return increasing numbers as a text such as "0-3, 8"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if part[1:] else str(part[0]) for part in parts)
