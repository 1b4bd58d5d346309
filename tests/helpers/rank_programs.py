"""Programs that tests run as several ranks: `python rank_programs.py FUNCTION ARGUMENTS`."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from cconvnet.errors import DataError
from cconvnet.ranks import World, clocks, join, watchdog
from cconvnet.training.stopping import StoppedTogether


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
    vars(clocks)["time"] = SimpleNamespace(perf_counter=lambda: time.perf_counter() + 100 * world.rank)
    found["clock"] = clocks.compare_clocks(world)
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


def train(rank: str, phase: str, how: str) -> None:
    """Go through all phases of a training, in one of which a rank comes to its end."""
    with join() as world:
        dog = world.watchdog

        def be_in(here: str) -> None:
            if (here, world.rank) == (phase, int(rank)):
                ENDS[how]()
            world.barrier()

        be_in("start")
        for number in range(3):
            dog.step(number)
            if number == 2:
                be_in("step")
            with dog.phase("exchange", bucket=4):
                be_in("exchange" if number == 2 else "")
        for late in ("test", "save", "end"):
            with dog.phase(late):
                be_in(late)
        if world.first:
            print("complete", flush=True)


def train_through_rank_0(rank: str, phase: str, how: str) -> None:
    """Do the same with reports to rank 0 alone, as of many ranks."""
    vars(watchdog)["_MAX_ALL_TO_ALL"] = 1
    train(rank, phase, how)


def circle() -> None:
    """Wait for each other: rank 0 in the first step, the others for a message from it."""
    with join() as world:
        world.watchdog.step(0)
        if world.first:
            world.barrier()
        else:
            world.wait([world.comm.Irecv(np.empty(1), 0)])


def hang_in_abort(lock: str) -> None:
    """End all by a library that hangs in it, and may hold the interpreter's lock meanwhile."""
    with join() as world:
        library = ctypes.PyDLL(None) if lock == "held" else ctypes.CDLL(None)
        hanging = SimpleNamespace(Abort=lambda code: library.sleep(600))
        vars(world)["_mpi"] = SimpleNamespace(COMM_WORLD=hanging)
        world.abort(75)


def command(rank: str, joins: str, how: str) -> None:
    """Run `cconvnet train` with a program in its place that ends a rank, or all, before it joins or after."""
    from cconvnet.cli import commands  # takes half a second

    def app(**options: object) -> None:
        mine = rank in ("all", os.environ["PMI_RANK"])
        if mine and joins == "before":
            ENDS[how]()
        world = join()
        if mine:
            ENDS[how]()
        else:
            world.barrier()

    vars(commands)["app"] = app
    sys.argv = ["cconvnet", "train"]
    commands.main()


def terminate(rank: str) -> None:
    """Run `cconvnet train` with a signal to a rank, or to all, before the first step."""
    from cconvnet.cli import commands
    from cconvnet.training import session

    def train(*arguments: object, world: World) -> None:
        if rank in ("all", str(world.rank)):
            os.kill(os.getpid(), signal.SIGTERM)
        world.barrier()

    vars(session)["train"] = train
    sys.argv = ["cconvnet", "train"]
    commands.main()


def kill(process: int, number: signal.Signals) -> None:
    # So long that other ranks hear of the phase.
    time.sleep(0.6)
    os.kill(process, number)


def fail() -> None:
    raise RuntimeError("no such luck")


def err() -> None:
    raise DataError("there is no /data")


def stop() -> None:
    raise StoppedTogether("the loss is nan")


def interrupt() -> None:
    raise KeyboardInterrupt


def cut() -> None:
    subprocess.run(["ip", "link", "set", "eth0", "down"], check=True, timeout=20)
    time.sleep(0.1)


ENDS: dict[str, Callable[[], object]] = {
    "none": lambda: None,
    "short": lambda: time.sleep(1.5),
    "slow": lambda: time.sleep(3),
    "standing": lambda: time.sleep(600),
    "frozen": lambda: kill(os.getpid(), signal.SIGSTOP),
    "killed": lambda: kill(os.getpid(), signal.SIGKILL),
    "orphaned": lambda: kill(os.getppid(), signal.SIGKILL),
    "vanished": lambda: os._exit(0),
    "exit": lambda: sys.exit(3),
    "words": lambda: sys.exit("enough"),
    "cut": cut,
    "failed": fail,
    "mistaken": err,
    "stopped": stop,
    "interrupted": interrupt,
}


def exchanges(count: str) -> None:
    """Sum numbers by each algorithm of `bench exchange`; rank 0 prints the sums of each that differ."""
    from cconvnet.bench.exchange import ALGORITHMS, exchange_of
    from cconvnet.devices import get_device
    from cconvnet.network import shards

    shards.BUCKET = 500  # several, that cut the slices
    with join() as world:
        # bfloat16 has all of these numbers.
        of_ranks = [np.random.default_rng(rank).integers(-128, 129, int(count)) for rank in range(world.size)]
        differences = {}
        for name in ALGORITHMS:
            one = exchange_of(name, world, get_device("cpu:0"), int(count))
            one.load(of_ranks[world.rank].astype(np.float32))
            one.run()
            found = one.sums()
            wrong = np.flatnonzero(np.rint(found) != sum(of_ranks)).tolist()
            for _ in range(2):
                one.run()  # later ones change no sums of training
            differences[name] = world.share([wrong, found.size])
        if world.first:
            print(json.dumps(differences))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
