"""Commands in several processes: one may run, the others are refused once, and a failure ends all."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from helpers import mpi

from cconvnet.training.stopping import Interrupts

CCONVNET = [sys.executable, "-P", "-m", "cconvnet"]


def test_other_commands_are_refused_once() -> None:
    done = mpi.run(2, *CCONVNET, "evaluate", "--run", "train")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        "error: mpiexec of MPICH or Intel MPI started 2 processes, "
        "but only these commands may run in several: cconvnet train, .*\n",
        done.stderr,
    )


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("3", False)])
def test_torchrun_is_refused_once(rank: str, shown: bool, tmp_path: Path) -> None:
    done = mpi.alone(tmp_path, *CCONVNET, "train", WORLD_SIZE="4", RANK=rank)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: WORLD_SIZE=4: torchrun cannot start ranks; use mpiexec") == shown
    assert len(done.stderr.splitlines()) == shown


def test_a_user_s_mistake_is_printed_once() -> None:
    done = mpi.run(2, *CCONVNET, "train", "--lr", "-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --lr must be above 0, not -1.0\n"


def test_help_is_printed_once() -> None:
    done = mpi.run(2, *CCONVNET, "train", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("--batch ") == 1


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_ranks_without_mpi4py_print_their_mistake_once(rank: str, shown: bool, tmp_path: Path) -> None:
    (tmp_path / "mpi4py.py").write_text("raise ImportError('No module')")
    variables = {"PMI_SIZE": "2", "PMI_RANK": rank, "PYTHONPATH": str(tmp_path)}
    done = mpi.alone(tmp_path, *CCONVNET, "train", "--lr", "-1", **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --lr must be above 0, not -1.0\n" * shown


# Of a rank's end in a command: the exit code, and what is printed.
ENDS = {
    ("0", "after", "mistaken"): (2, r"error: there is no /data\n"),
    ("1", "after", "mistaken"): (2, r"rank 1 of 2: error: there is no /data\n"),
    ("1", "before", "mistaken"): (2, r"rank 1 of 2: error: there is no /data\n"),
    ("all", "after", "mistaken"): (2, r"error: there is no /data\n"),
    ("1", "after", "failed"): (1, r"rank 1 of 2: Traceback [^$]*\nRuntimeError: no such luck\n"),
    ("0", "before", "failed"): (1, r"rank 0 of 2: Traceback [^$]*\nRuntimeError: no such luck\n"),
    ("1", "before", "exit"): (3, r"rank 1 of 2: it ended before the others\n"),
    ("0", "after", "none"): (1, r"rank 0 of 2: it ended before the others\n"),
    ("all", "after", "stopped"): (1, r"error: the loss is nan\n"),
    ("all", "after", "interrupted"): (130, ""),
}
LONG = [key for key in ENDS if key[2] in ("exit", "none", "interrupted") or key[:2] == ("0", "after")]


@pytest.mark.parametrize(
    ("rank", "joins", "how"),
    [pytest.param(*key, marks=pytest.mark.long if key in LONG else ()) for key in ENDS],
)
def test_a_rank_that_ends_ends_all(rank: str, joins: str, how: str) -> None:
    done = mpi.run(2, *mpi.program("command", rank, joins, how))
    code, text = ENDS[rank, joins, how]
    assert re.fullmatch(text, done.stderr), done.stderr
    assert (done.returncode, done.stdout) == (code, "")


@pytest.mark.parametrize("rank", [pytest.param("0", marks=pytest.mark.long), "1", "all"])
def test_a_signal_before_the_first_step_ends_all(rank: str) -> None:
    done = mpi.run(2, *mpi.program("terminate", rank))
    number = "rank 1 of 2: " if rank == "1" else ""
    assert done.stderr == f"{number}stopped before the first step\n"
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("size", ["1", "2"])
def test_one_of_several_ranks_stops_by_sigusr1(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", size)
    monkeypatch.setenv("PMI_RANK", "0")
    before = signal.getsignal(signal.SIGUSR1)
    with Interrupts() as stop:
        stop.patient = True
        if size == "1":
            assert signal.getsignal(signal.SIGUSR1) is before
        else:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop and stop.signal == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) is before
