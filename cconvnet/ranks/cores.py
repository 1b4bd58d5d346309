"""The cores and devices of a host, divided among its ranks."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cconvnet.ranks.launch import RanksError
from cconvnet.ranks.world import World


def divide_cores(world: World) -> None:
    """Give this rank its part of the cores, if all ranks of the host have the same ones.

    Threads and processes that it starts from here on have them too. A launcher that gives each rank its own
    has done this already. OMP_NUM_THREADS stays if it is set.
    """
    if world.size == 1 or not hasattr(os, "sched_getaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    here = [there for host, there in world.share([world.host, cores]) if host == world.host]
    if any(there != cores for there in here):
        return
    own = part(cores, world.local_rank, world.local_size)
    os.sched_setaffinity(0, own)
    # The runtime of OpenMP may have counted the cores before.
    os.environ.setdefault("OMP_NUM_THREADS", str(len(own)))


def part(cores: Sequence[int], rank: int, ranks: int) -> list[int]:
    """Return the cores of one of several ranks; ranks share cores if there are fewer cores than ranks."""
    if len(cores) < ranks:
        return [cores[rank % len(cores)]]
    return list(cores[rank * len(cores) // ranks : (rank + 1) * len(cores) // ranks])


def own_devices(names: list[str] | None, world: World) -> list[str] | None:
    """Return the devices of this rank: one for each rank of a host.

    Args:
        names: Those that the user named; the ranks of a host take one each, in order. None: GPUs, in order.
        world: The ranks.

    Raises:
        RanksError: They cannot be given out.
    """
    if world.size == 1:
        return names
    if names is None:
        return _own_gpu(world)
    if len(names) == 1:
        return names
    if len(names) != world.local_size:
        raise RanksError(
            f"--device {','.join(names)} names {len(names)} devices for {world.local_size} ranks on "
            f"{world.host}; name one for each, or one for all"
        )
    return [names[world.local_rank]]


def _own_gpu(world: World) -> list[str] | None:
    from cconvnet.devices import DeviceUnavailable
    from cconvnet.devices.cuda import cuda_ordinals

    try:
        count = len(cuda_ordinals())
    except DeviceUnavailable:
        return None
    # A launcher may show each rank its own GPU alone.
    return [f"cuda:{world.local_rank % count}"]
