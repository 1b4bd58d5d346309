"""Programs that tests run as several ranks: `python rank_programs.py FUNCTION ARGUMENTS`."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from cconvnet.ranks import join


def everything() -> None:
    """Use all of a world; each rank prints what it got."""
    world = join()
    assert join() is world
    found: dict[str, object] = {"rank": world.rank, "size": world.size, "local": world.local_rank}
    found["first"] = world.first
    found["broadcast"] = world.broadcast({"of": world.rank, "text": "ä" * (world.rank + 1), "none": None})
    arrays = [np.full((3, 2), world.rank + 7, dtype) for dtype in (np.float32, np.uint16, np.int64)]
    for array in arrays:
        world.broadcast_array(array)
    found["arrays"] = {str(array.dtype): array.tolist() for array in arrays}
    found["shared"] = world.share([world.rank, "x" * 1000 * world.rank])
    world.barrier()
    found["numbers"] = world.share_numbers(np.array([world.rank, 0.1])).tolist()
    found["highest"] = world.highest(-1.5 - world.rank)
    found["host"] = world.host
    found["hosts"] = world.local_size
    print(json.dumps(found), flush=True)
    world.close()
    assert world.closed


def wait_for_the_last(seconds: str) -> None:
    """Wait in a barrier for the last rank, which sleeps before it."""
    world = join()
    world.barrier()
    began, computed = time.monotonic(), time.process_time()
    if world.rank == world.size - 1:
        time.sleep(float(seconds))
    world.barrier()
    waited, computed = time.monotonic() - began, time.process_time() - computed
    print(json.dumps({"rank": world.rank, "waited": waited, "computed": computed}), flush=True)
    world.close()


def abort(rank: str, code: str) -> None:
    """End all from one rank, while the others wait."""
    world = join()
    if world.rank == int(rank):
        print("unflushed", end="")
        world.abort(int(code))
    world.barrier()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
