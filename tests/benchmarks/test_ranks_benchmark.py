"""Two ranks beside one process: what benchmarks/ranks.py concludes, and that it runs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import mpi

from cconvnet import data


@pytest.fixture(scope="module")
def ranks() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "ranks.py"
    spec = importlib.util.spec_from_file_location("ranks_benchmark", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(ranks: ModuleType, one: list[float], two: list[float], times_mpi: float) -> dict[str, Any]:
    """Return a result of as many turns, where the order of MPI is 1.25 times as fast."""
    rates = {"one": one, "ranks": two, "ranks, fast": [1.25 * rate for rate in two]}
    exchange = [
        {"algorithm": name, "bytes": 10**6, "times_mpi": times, "noisy": False}
        for name, times in (("tree", times_mpi), ("fast", 9.0), ("MPI", 1.0))
    ]
    found = {"net": "n", "batch": 1, "images_per_second": rates, "exchange": exchange}
    return found | ranks.conclusions(found)


def test_ratios_are_those_of_each_turn(ranks: ModuleType) -> None:
    """The machine is twice as slow in the second turn, for both."""
    found = result(ranks, [1000.0, 500.0, 1000.0], [900.0, 450.0, 950.0], 1.1)
    assert (found["times_one"], found["times_fast"]) == (pytest.approx(0.9), pytest.approx(0.8))
    assert found["times_mpi"] == {"1000000": 1.1}
    assert found["noisy"]


@pytest.mark.parametrize(
    ("rate", "times_mpi", "met"), [(905.0, 1.14, True), (890.0, 1.14, False), (905.0, 1.16, False)]
)
def test_goals(ranks: ModuleType, rate: float, times_mpi: float, met: bool) -> None:
    lines, found = ranks.report(result(ranks, [1000.0], [rate], times_mpi))
    assert found == met
    assert sum("MISSED" in line for line in lines) == (not met)
    assert not any("warning" in line for line in lines)


def test_random_images_are_cifar10_s_format(ranks: ModuleType, tmp_path: Path) -> None:
    ranks.random_images(tmp_path, 20)
    source = data.open_source(str(tmp_path), None)
    assert (len(source.train), len(source.test), len(source.classes)) == (50_000, 20, 10)


@pytest.mark.long
def test_all_sides_run(ranks: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mpi.mpiexec()  # or the test is skipped
    file = tmp_path / "ranks.json"
    small = ["--steps", "20", "--turns", "1", "--batch", "8", "--seconds", "0.05", "--large", "4096"]
    assert ranks.main([*small, "--json", str(file)]) in (0, 1)
    found = json.loads(file.read_text())
    assert {side: len(rates) for side, rates in found["images_per_second"].items()} == dict.fromkeys(
        ranks.SIDES, 1
    )
    assert set(found["times_mpi"]) == {"4096", "582400"}
    assert "mpi" in found["machine"]
    assert "goal at least 0.9" in capsys.readouterr().out
