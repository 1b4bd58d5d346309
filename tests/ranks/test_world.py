"""Values and arrays reach all ranks; a process alone answers itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import mpi

from cconvnet.ranks import World, watchdog, world


def worlds(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return sorted(map(json.loads, done.stdout.splitlines()), key=lambda found: int(found["rank"]))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_rank_gets_what_all_gave(size: int) -> None:
    everyone = worlds(mpi.run(size, *mpi.program("everything")))
    assert len(everyone) == size
    for rank, found in enumerate(everyone):
        ahead, error = found.pop("clock")
        # Processes of a host have one clock, which this program puts forward by 100 s for each rank.
        assert abs(ahead - 100 * rank) <= error < 1
        assert found == {
            "rank": rank,
            "size": size,
            "local": rank,
            "hosts": size,
            "host": os.uname().nodename,
            "first": rank == 0,
            "broadcast": {"of": 0, "text": "ä", "none": None},
            "arrays": {name: [[7, 7]] * 3 for name in ("float32", "uint16", "int64")},
            "shared": [[other, "x" * 1000 * other] for other in range(size)],
            "numbers": [[other, 0.1] for other in range(size)],
            "highest": -1.5,
        }


def test_waiting_costs_little() -> None:
    """A rank that waits a second for another sleeps most of it."""
    everyone = worlds(mpi.run(2, *mpi.program("wait_for_the_last", "1")))
    assert everyone[0]["waited"] >= 0.9
    assert everyone[0]["computed"] <= 0.3


def test_a_short_wait_does_not_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most exchanges of small networks are done within the shortest sleep."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"it sleeps {seconds} s"))
    done = iter([False, False, True])
    own = joined(lambda requests: next(done))
    own.wait([])
    assert next(done, None) is None


def joined(test_all: Callable[[Any], bool]) -> Any:
    """Return a rank whose requests are complete when this function says so, without MPI."""
    own = object.__new__(world._Joined)
    World.__init__(own)
    own._mpi = SimpleNamespace(Request=SimpleNamespace(Testall=test_all), Exception=RuntimeError)
    return own


def test_a_rank_that_is_gone_leaves_the_end_to_the_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MPI may report a killed rank before its launcher ends the others with the signal's code."""

    def broken(requests: Any) -> bool:
        raise RuntimeError("Other MPI error")

    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    own = joined(broken)
    monkeypatch.setattr(own, "_kill", lambda code: sys.exit(code))
    with pytest.raises(SystemExit) as ended:
        own.wait([])
    assert ended.value.code == watchdog.EXIT_CODE
    assert slept == [world._SECONDS_FOR_LAUNCHER]
    assert capsys.readouterr().err == (
        "rank 0 of 1: another rank is gone, or the way to it is broken (Other MPI error): resume the run\n"
    )


def test_arrays_must_lie_in_one_piece() -> None:
    with pytest.raises(ValueError, match="array must be C-contiguous"):
        World.alone().broadcast_array(np.zeros((4, 4))[:, 1:])


@pytest.mark.parametrize("size", [1, 3])
def test_one_rank_ends_all_with_its_code(size: int) -> None:
    began = time.monotonic()
    done = mpi.run(size, *mpi.program("abort", str(size - 1), "7"))
    assert (done.returncode, done.stdout) == (7, "unflushed")
    assert time.monotonic() - began < 30


def test_ranks_that_do_not_end_are_killed() -> None:
    code = "import time; print('here', flush=True); time.sleep(600)"
    with mpi.Ranks(2, sys.executable, "-c", code) as job:
        assert job.stdout is not None
        assert [job.stdout.readline() for _ in range(2)] == ["here\n"] * 2
        assert len(job.living()) == 4  # mpiexec and its proxy
        with pytest.raises(pytest.fail.Exception, match="did not end within"):
            job.finish(0.1)
        assert job.living() == []
