"""However and whenever a rank ends: the job ends as promised, and the command resumes to the same bits."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers import mpi

PROGRAM = Path(mpi.__file__).with_name("rank_deaths.py")
TIMEOUT = 12.0  # of the watchdog, in seconds: long enough for ranks on a busy machine

# The exit code of mpiexec for each way: 0 for an orderly stop, 75 of the watchdog.
CODES = {
    "exception": 1,
    "exit": 3,
    "kill": 9,
    "freeze": 75,
    "stand": 75,
    "term": 0,
    "usr1": 0,
    "term-all": 0,
}
PHASES = ("start", "step", "exchange", "test", "save", "end")
# Phases that may last, so that a rank that stands still is at fault only if it is silent.
PATIENT = ("start", "test", "save", "end")


def train(folder: Path, ranks: int, way: str = "none", phase: str = "none") -> CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), str(folder), way, phase, str(ranks - 1)]
    # Those of the tests, and what was there before.
    path = os.pathsep.join(filter(None, [str(PROGRAM.parents[1]), os.environ.get("PYTHONPATH")]))
    with mpi.Ranks(ranks, *command, PYTHONPATH=path, CCONVNET_RANK_TIMEOUT=str(TIMEOUT)) as job:
        done = job.finish(120)
        deadline = time.monotonic() + 10
        while job.living() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not job.living(), "processes are left"
    return done


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of the run of one rank."""
    done = train(tmp_path_factory.mktemp("undisturbed") / "run", 1)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def check(way: str, phase: str, undisturbed: str, folder: Path) -> None:
    done = train(folder, 3, way, phase)
    printed = done.stdout + done.stderr
    if way in ("term", "usr1", "term-all") and phase == "start":
        assert "Traceback" not in printed, printed
    else:
        assert done.returncode == CODES[way], printed
    if way == "exception":
        assert "rank 2 of 3" in printed and "no such luck" in printed, printed
    if way in ("freeze", "stand"):
        # A frozen rank reported last up to a second before.
        assert "rank 2 of 3 on" in printed and "in phase " in printed, printed
    if way == "stand":
        assert f"phase {phase} of step" in printed, printed
    again = train(folder, 2)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.splitlines()[-1] == undisturbed


@pytest.mark.parametrize(
    ("way", "phase"),
    [
        ("exception", "test"),
        ("kill", "save"),
        ("freeze", "step"),
        ("stand", "exchange"),
        ("term", "step"),
        ("term-all", "test"),
    ],
)
def test_a_rank_that_ends_ends_all(way: str, phase: str, undisturbed: str, tmp_path: Path) -> None:
    check(way, phase, undisturbed, tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("way", CODES)
def test_every_way_to_end_in_every_phase(way: str, phase: str, undisturbed: str, tmp_path: Path) -> None:
    if way == "stand" and phase in PATIENT:
        pytest.skip("a rank that works for long in this phase is not at fault")
    check(way, phase, undisturbed, tmp_path / "run")


def test_a_flipped_bit_is_found_and_its_rank_named(tmp_path: Path) -> None:
    done = train(tmp_path / "run", 3, "none", "flip")
    assert done.returncode == 1
    assert "the weights of rank 2 differ from those of the other ranks" in done.stderr
    assert done.stderr.count("Traceback") == 1, done.stderr
