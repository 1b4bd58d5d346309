"""One clock for all ranks, whose own clocks begin anywhere.

Source: Cristian 1989, "Probabilistic clock synchronization".
"""

from __future__ import annotations

import time

import numpy as np

from cconvnet.ranks.world import World

_ROUND_TRIPS = 20  # the shortest counts


def compare_clocks(world: World) -> tuple[float, float]:
    """Compare the clocks of all ranks, which call this together and leave it together.

    Returns:
        The seconds that this rank's ``time.perf_counter()`` is ahead of rank 0's, and the largest error of
        any rank's: half of the shortest trip of a message to rank 0 and back.
    """
    found = np.zeros((world.size, 2))
    for rank in range(1, world.size):
        if world.first:
            found[rank] = min((_ask(world, rank) for _ in range(_ROUND_TRIPS)), key=lambda one: one[1])
        elif world.rank == rank:
            for _ in range(_ROUND_TRIPS):
                _answer(world)
    world.broadcast_array(found)
    world.barrier()
    return float(found[world.rank, 0]), float(found[:, 1].max())


def _ask(world: World, rank: int) -> tuple[float, float]:
    """Return how far a rank's clock is ahead of this one's, and the error."""
    there = np.empty(1)
    begin = time.perf_counter()
    world.wait([world.comm.Isend(there[:0], rank), world.comm.Irecv(there, rank)])
    end = time.perf_counter()
    return float(there[0]) - (begin + end) / 2, (end - begin) / 2


def _answer(world: World) -> None:
    """Send the time of this rank's clock to rank 0, once that asks."""
    world.wait([world.comm.Irecv(np.empty(0), 0)])
    world.wait([world.comm.Isend(np.array([time.perf_counter()]), 0)])
