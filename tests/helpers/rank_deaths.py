"""A training as several ranks, one of which comes to its end: `rank_deaths.py FOLDER WAY PHASE RANK`.

At the end the first rank prints the digest of the weights. A run that is in the folder is resumed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from helpers.rank_trainings import digest

from cconvnet.console import reporter
from cconvnet.network import Network
from cconvnet.ranks import World, join
from cconvnet.training import session, start, team
from cconvnet.training.options import Options

# In this step the phases "step" and "exchange" end.
STEP = 30


def fail() -> None:
    raise OSError("no such luck")


def kill(process: int, number: int) -> None:
    os.kill(process, number)
    time.sleep(0.2)  # a signal that stops training is seen before the next step


WAYS: dict[str, Callable[[], object]] = {
    "none": lambda: None,
    "exception": fail,
    "exit": lambda: sys.exit(3),
    "vanish": lambda: os._exit(0),
    "kill": lambda: kill(os.getpid(), signal.SIGKILL),
    "freeze": lambda: kill(os.getpid(), signal.SIGSTOP),
    "stand": lambda: time.sleep(600),
    "term": lambda: kill(os.getpid(), signal.SIGTERM),
    "usr1": lambda: kill(os.getpid(), signal.SIGUSR1),
    # mpiexec sends its signal to all ranks; its child is the proxy that started them.
    "term-all": lambda: kill(os.getppid(), signal.SIGTERM),
}


def arrange(world: World, way: str, phase: str) -> None:
    """Let this rank end in a phase."""
    left = [WAYS[way]]

    def end() -> None:
        if left:
            left.pop()()

    watchdog: Any = world.watchdog
    enter, step = watchdog.phase, watchdog.step

    @contextlib.contextmanager
    def entered(name: str, bucket: int = -1) -> Iterator[None]:
        with enter(name, bucket):
            if name == phase and (name != "exchange" or world.watchdog_step >= STEP):  # type: ignore[attr-defined]
                end()
            yield

    def stepped(number: int) -> None:
        step(number)
        world.watchdog_step = number  # type: ignore[attr-defined]
        if phase == "step" and number >= STEP:
            end()

    world.watchdog_step = -1  # type: ignore[attr-defined]
    watchdog.phase, watchdog.step = entered, stepped
    if phase == "start":
        begin = start.begin
        start.begin = lambda *arguments: (end(), begin(*arguments))[1]
    if phase == "flip":
        check = team.digest

        def flipped(network: Network) -> str:
            assert network.graph.shards is not None
            network.graph.shards.value.view(np.uint32)[5] ^= 1 << 10
            return check(network)

        team.digest = flipped


def main(folder: Path, way: str, phase: str, rank: int) -> None:
    with join() as world:
        if world.rank == rank:
            arrange(world, way, phase)
        options = Options(
            net="lenet",
            devices=["cpu:0"],
            batch=32,
            shards=4,
            epochs=2,
            seed=5,
            checkpoint_every=20,
            out=folder,
            resume=Path("auto"),
        )
        with reporter(quiet=not world.first) as report:
            session.train(options, report, world=world)
        if world.first:
            print(digest(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
