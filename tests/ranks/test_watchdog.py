"""Ranks that cannot go on end within the limit, all of them, and a line names the one at fault.

The quick tests try each end in one phase, the long ones each end in each phase.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import mpi

from cconvnet.ranks import RanksError
from cconvnet.ranks.verdict import PHASES
from cconvnet.ranks.watchdog import Watchdog, timeout

LIMIT = "2"
HOST = os.uname().nodename


def train(
    size: int, rank: int, phase: str, how: str, launcher: Sequence[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Return how ranks end, of which one comes to an end in a phase. None may be left."""
    command = mpi.program("train", str(rank), phase, how)
    with mpi.Ranks(size, *command, launcher=launcher, CCONVNET_RANK_TIMEOUT=LIMIT) as job:
        done = job.finish()
        until = time.monotonic() + 10
        while job.living() and time.monotonic() < until:
            time.sleep(0.05)
        assert job.living() == []
    assert ("complete" in done.stdout) == (how in ("none", "slow"))
    return done


# Of each end: the exit codes, and what the ranks print. %r is the rank, %h its host, %p the place.
ENDS = {
    "frozen": (
        {75},
        r"rank \d of 3 ends all: frozen or cut off, silent for \d+ s: rank %r of 3 on %h, in phase %p",
    ),
    "standing": (
        {75},
        r"rank %r of 3 ends all: no progress for \d+ s: rank %r of 3 on %h, in phase %p, at rank_progr",
    ),
    "killed": ({9}, r"EXIT CODE: 9"),  # MPICH says so
    "vanished": ({0, 9}, "$"),  # MPICH kills the others without a word, and returns the code of any
    "exit": ({3}, "rank %r of 3: it ended before the others\n$"),
    "words": ({1}, "rank %r of 3: enough\n$"),
    "failed": ({1}, "rank %r of 3: Traceback [^$]*RuntimeError: no such luck\n$"),
    "orphaned": ({255}, "mpiexec"),  # what ranks print went through the process that is gone
}
PLACES = {"step": "step of step 3", "exchange": "exchange of step 3, bucket 5"}


def check(rank: int, phase: str, how: str) -> None:
    codes, text = ENDS[how]
    done = train(3, rank, phase, how)
    for mark, word in (("%r", str(rank)), ("%h", re.escape(HOST)), ("%p", PLACES.get(phase, phase))):
        text = text.replace(mark, word)
    assert re.search(text, done.stdout + done.stderr), done.stderr
    assert done.returncode in codes, done.stderr
    if codes == {75}:
        assert len(done.stderr.splitlines()) == 1, done.stderr


QUICK = [
    (1, "step", "frozen"),
    (0, "exchange", "standing"),
    (2, "save", "killed"),
    (1, "exchange", "exit"),
    (0, "test", "failed"),
    (2, "start", "orphaned"),
]


@pytest.mark.parametrize(("rank", "phase", "how"), QUICK)
def test_ranks_that_lose_one_end(rank: int, phase: str, how: str) -> None:
    check(rank, phase, how)


@pytest.mark.long
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("rank", [0, 2])
def test_ranks_that_lose_one_end_in_every_phase(rank: int, phase: str, how: str) -> None:
    if how == "standing" and phase not in PLACES:
        pytest.skip("this phase may take as long as it likes")
    check(rank, phase, how)


@pytest.mark.long
def test_ranks_on_hosts_that_lose_each_other_end(tmp_path: Path) -> None:
    with mpi.two_hosts(tmp_path) as launcher:
        done = train(4, 3, "none", "none", launcher)
        assert (done.returncode, done.stderr) == (0, "")
        done = train(4, 3, "exchange", "cut", launcher)
    assert done.returncode == 75
    names = "; ".join(rf"rank {rank} of 4 on node2, in phase [a-z0-9 ,]*" for rank in (2, 3))
    assert re.search(rf"rank 0 of 4 ends all: frozen or cut off, silent for \d s: {names}\n", done.stderr)


@pytest.mark.parametrize(("rank", "speaker"), [(0, 1), pytest.param(2, 0, marks=pytest.mark.long)])
def test_one_rank_may_hear_for_many(rank: int, speaker: int) -> None:
    command = mpi.program("train_through_rank_0", str(rank), "step", "frozen")
    done = mpi.run(3, *command, CCONVNET_RANK_TIMEOUT=LIMIT)
    assert done.returncode == 75
    silent = rf"frozen or cut off, silent for \d s: rank {rank} of 3 on {HOST}, .*\n"
    assert re.fullmatch(f"error: rank {speaker} of 3 ends all: {silent}", done.stderr)


def test_ranks_that_wait_for_each_other_end() -> None:
    done = mpi.run(2, *mpi.program("circle"), CCONVNET_RANK_TIMEOUT=LIMIT)
    assert done.returncode == 75
    assert re.fullmatch(
        rf"error: rank 0 of 2 ends all: all ranks have waited for each other for \d s: "
        rf"rank 0 of 2 on {HOST}, in phase step of step 1; rank 1 of 2 on {HOST}, in phase step of step 1\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    "phase", [pytest.param(phase, marks=pytest.mark.long) for phase in ("start", "save", "end")] + ["test"]
)
def test_a_phase_may_take_longer_than_the_limit(phase: str) -> None:
    done = train(2, 1, phase, "slow")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
def test_time_in_which_all_were_suspended_is_not_counted() -> None:
    with mpi.Ranks(3, *mpi.program("train", "1", "step", "short"), CCONVNET_RANK_TIMEOUT=LIMIT) as job:
        time.sleep(1)
        ranks = job.living()
        for number, pause in ((signal.SIGSTOP, 5), (signal.SIGCONT, 0)):
            for process in ranks:
                os.kill(process, number)
            time.sleep(pause)
        done = job.finish()
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "complete\n")


@pytest.mark.long
@pytest.mark.parametrize(("lock", "codes"), [("free", {75}), ("held", {14})])
def test_ranks_end_although_mpi_hangs(lock: str, codes: set[int]) -> None:
    done = mpi.run(2, *mpi.program("hang_in_abort", lock))
    assert done.returncode in codes, done.stdout


def test_unknown_phases_are_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"name must be one of start, step, .*, not 'testing'"),
        Watchdog().phase("testing"),
    ):
        pass


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "a minute", ""])
def test_a_limit_must_be_positive(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCONVNET_RANK_TIMEOUT", text)
    with pytest.raises(RanksError, match="CCONVNET_RANK_TIMEOUT must be a positive number"):
        timeout()
