"""The launcher is found from the environment, and what cannot work is refused with the way that does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import mpi

from cconvnet.ranks import Launch, RanksError, launched

SBATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"PMI_SIZE": "1", "PMI_RANK": "0"},
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0"},
        SBATCH,
        SBATCH | {"SLURM_STEP_NUM_TASKS": "8"},  # of no step
        SBATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        SBATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "0"},
        SBATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "PMI_SIZE": "1"},
        {"WORLD_SIZE": "1", "RANK": "0"},
    ],
)
def test_one_process_is_alone(environ: dict[str, str]) -> None:
    assert launched(environ) == Launch() and launched(environ).alone


@pytest.mark.parametrize(
    ("environ", "words", "rank", "size"),
    [
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, "mpiexec", 3, 4),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1"}, "Open MPI", 1, 2),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}, "srun", 5, 8),
        (
            {"SLURM_STEPID": "0", "SLURM_STEP_NUM_TASKS": "8", "PMIX_RANK": "5", "SLURM_PROCID": "5"},
            "srun",
            5,
            8,
        ),
        ({"PMIX_RANK": "2"}, "PMIx", 2, None),
        ({"PMI_SIZE": "4", "PMI_RANK": "3", "WORLD_SIZE": "4"}, "mpiexec", 3, 4),
    ],
)
def test_several_are_found(environ: dict[str, str], words: str, rank: int, size: int | None) -> None:
    found = launched(environ)
    assert (found.rank, found.size, found.alone) == (rank, size, False)
    assert words in found.launcher


@pytest.mark.parametrize("around", [{}, {"PMI_SIZE": "1"}, SBATCH | {"SLURM_STEP_ID": "0"}])
def test_torchrun_is_refused(around: dict[str, str]) -> None:
    with pytest.raises(RanksError, match=r"torchrun.*mpiexec -n 4 cconvnet"):
        launched(around | {"WORLD_SIZE": "4", "RANK": "1"}).check()


@pytest.mark.parametrize("name", ["PMI_SIZE", "PMI_RANK"])
def test_a_variable_that_is_no_number_is_named(name: str) -> None:
    with pytest.raises(RanksError, match=f"{name} must be a number"):
        launched({"PMI_SIZE": "4", "PMI_RANK": "3"} | {name: "-1"})


def join(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Join in a process that no launcher started, and print the modules of MPI that it loaded."""
    code = (
        "import sys, cconvnet.ranks; cconvnet.ranks.join(); print([m for m in sys.modules if 'mpi4py' in m])"
    )
    return mpi.alone(tmp_path, sys.executable, "-c", code, **variables)


def test_a_process_alone_does_not_load_mpi(tmp_path: Path) -> None:
    for variables in ({}, {"PMI_SIZE": "1", "PMI_RANK": "0"}):
        done = join(tmp_path, **variables)
        assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_ranks_without_mpi4py_name_the_command_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "mpi4py.py").write_text("raise ImportError('No module')")
    done = join(tmp_path, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="1", PYTHONPATH=str(tmp_path))
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cconvnet.ranks.launch.RanksError: mpiexec of Open MPI started 2 processes")
    assert last.endswith("install mpi4py mpich")


def test_a_launcher_of_another_mpi_is_refused(tmp_path: Path) -> None:
    mpi.mpiexec()
    done = join(tmp_path, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="1")
    last = done.stderr.splitlines()[-1]
    assert (
        "started 2 processes, but MPI sees 1: mpiexec is of another MPI than mpi4py's, which is MPI" in last
    )
    assert last.endswith(f"use {mpi.mpiexec()}")
