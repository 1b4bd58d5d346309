"""The Slurm job trains, and the next job of its array resumes, with any program in place of Slurm's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import mpi

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "slurm" / "alexnet.sbatch"
RANKS = ROOT / "examples" / "slurm" / "ranks.sbatch"


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a job: an srun that runs its command on the CPU, with a small network."""
    programs = tmp_path / "venv" / "bin"
    program(
        programs / "cconvnet", f'test "$1" = doctor || exec {shlex.quote(sys.executable)} -m cconvnet "$@"'
    )
    small = "--net lenet --device cpu:0,cpu:1 --place fc2=1 --precision fp32 --steps"
    program(programs / "srun", f'echo "$@" >>"$COMMANDS"; exec "$@" {small} "$STEPS"')
    (programs / "activate").write_text(f"PATH={shlex.quote(str(programs))}:$PATH\n")
    return os.environ | {"VENV": str(tmp_path / "venv"), "COMMANDS": str(tmp_path / "commands")}


def run(
    job: dict[str, str], folder: Path, script: Path = SCRIPT, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", script],
        cwd=folder,
        env=job | variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_jobs_resume_each_other(job: dict[str, str], tmp_path: Path) -> None:
    first = run(job, tmp_path, DATA="digits", STEPS="2")
    assert first.returncode == 0, first.stdout + first.stderr
    second = run(job, tmp_path, DATA="digits", STEPS="3")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "3 steps" in second.stdout and "from step 2" in second.stdout
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["alexnet"]
    # Both ran the command as it stands, before what made it small.
    commands = Path(job["COMMANDS"]).read_text().splitlines()
    assert len(commands) == 2 and len(set(commands)) == 1
    assert "--device cuda:0,cuda:1" in commands[0] and "--resume auto" in commands[0]


def test_jobs_of_ranks_resume_each_other(job: dict[str, str], tmp_path: Path) -> None:
    """Two processes stand in for sixteen, and the second job has one."""
    small = "--net lenet --device cpu:0 --precision fp32 --warmup 0 --steps"
    started = f'{shlex.quote(mpi.mpiexec())} -n "$NUMBER" "$@"'
    arguments = f'test "$2" = doctor || set -- "$@" {small} "$STEPS"'
    program(tmp_path / "venv" / "bin" / "mpiexec", f"{arguments}\nexec {started}")
    clean = {**mpi.environment(), **{name: job[name] for name in ("VENV", "COMMANDS")}}
    first = run(clean, tmp_path, RANKS, DATA="digits", STEPS="1", NUMBER="2")
    assert first.returncode == 0, first.stdout + first.stderr
    second = run(clean, tmp_path, RANKS, DATA="digits", STEPS="2", NUMBER="1")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "2 steps" in second.stdout and "from step 1" in second.stdout
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["alexnet-ranks"]


def test_a_job_without_data_says_so(job: dict[str, str], tmp_path: Path) -> None:
    environment = {name: value for name, value in job.items() if name != "DATA"}
    done = run(environment, tmp_path, STEPS="2")
    assert done.returncode != 0 and "DATA: the folder of images" in done.stderr


def test_slurm_warns_training_before_the_end() -> None:
    """A checkpoint of AlexNet is saved within seconds; the warning comes minutes before the job is killed."""
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", SCRIPT.read_text(), re.MULTILINE))
    signal, _, seconds = options["signal"].partition("@")
    assert signal == "TERM" and int(seconds) >= 120
    assert options["gpus"] == "2" and options["open-mode"] == "append" and "requeue" in options
    assert re.fullmatch(r"1-\d+%1", options["array"]), "one job at a time may train the run"
