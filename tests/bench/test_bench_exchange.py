"""Exchanges between ranks: their sums, their figures, and what `cconvnet bench exchange` writes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import mpi
from helpers.commands import refuse

from cconvnet.bench import exchange as bench
from cconvnet.bench.processes import WorkerError
from cconvnet.ranks.world import World

Array = np.ndarray[Any, Any]
CCONVNET = [sys.executable, "-P", "-m", "cconvnet"]
PAGE = Path(__file__).parents[2] / "docs" / "ranks.md"


@pytest.mark.parametrize(("ranks", "count"), [(2, 64), (2, 6400), (3, 6400)])
def test_every_algorithm_sums_over_all_ranks(ranks: int, count: int) -> None:
    done = mpi.run(ranks, *mpi.program("exchanges", str(count)))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == dict.fromkeys(bench.ALGORITHMS, [[[], count]] * ranks)


class Fake:
    """An exchange of two ranks that counts its calls, and may be wrong in one number."""

    def __init__(self, wrong: float = 0.0) -> None:
        self.wrong, self.calls = wrong, 0

    def load(self, values: Array) -> None:
        self.own = values

    def run(self) -> None:
        self.calls += 1

    def sums(self) -> Array:
        others = ((np.arange(self.own.size) + 3) % 9 - 4).astype(np.float32)
        sums: Array = self.own + others
        sums[7] += self.wrong
        return sums


def two() -> World:
    world = World.alone()
    world.size = 2
    return world


@pytest.mark.parametrize("wrong", [1.0, -1e-2, np.nan])
def test_a_wrong_sum_is_named(wrong: float) -> None:
    bench.check(Fake(), two(), 20, "tree")
    with pytest.raises(WorkerError, match=r"tree of 20 numbers is wrong: the sum of number 7 is .*, not 0"):
        bench.check(Fake(wrong), two(), 20, "tree")


def test_rows_are_medians_of_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of 2 ms and, of MPI, 1 ms; the fourth of either is ten times as slow."""
    turns: dict[int, int] = {}

    def turn(world: World, one: Any, calls: int) -> float:
        turns[id(one)] = turns.get(id(one), -2) + 1  # two are before the first that counts
        slow = 10 if turns[id(one)] == 4 else 1
        return slow * (2e-3 if one is tree else 1e-3)

    monkeypatch.setattr(bench, "_turn", turn)
    tree = Fake()
    rows = bench._rows(two(), {"tree": tree, "MPI": Fake()}, 4000, 0.14)
    first, second = rows
    assert (first["algorithm"], first["bytes"], first["calls"]) == ("tree", 4000, 10)
    assert (first["seconds"], first["seconds_min"], first["seconds_max"]) == (2e-3, 2e-3, 2e-2)
    assert first["bus_bytes_per_second"] == pytest.approx(4000 / 2e-3)  # 2 (N-1)/N is 1
    assert (first["times_mpi"], second["times_mpi"]) == (2.0, 1.0)
    assert first["noisy"]


def documented() -> set[str]:
    """Return the keys of rows that the page names."""
    part = PAGE.read_text(encoding="utf-8").partition("| key of a row |")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE))


def test_the_command_writes_what_it_measured(tmp_path: Path) -> None:
    file, picture = tmp_path / "exchange.json", tmp_path / "exchange.png"
    done = mpi.run(
        *(2, *CCONVNET, "bench", "exchange", "--sizes", "16K,4096,1000", "--seconds", "0.005"),
        *("--device", "cpu:0", "--json", str(file), "--plot", str(picture)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("2 ranks on one host") == 1
    assert "16 KiB" in done.stdout
    assert "tree: as training" in done.stdout
    result = json.loads(file.read_text())
    assert (result["what"], result["ranks"], len(result["hosts"])) == ("exchange", 2, 2)
    assert {"commit", "versions", "date", "mpi"} <= set(result["machine"])
    assert "mpi4py" in result["machine"]["versions"]
    assert [row["bytes"] for row in result["rows"]] == [
        *([1024] * len(bench.ALGORITHMS)),
        *([4096] * len(bench.ALGORITHMS)),
        *([16384] * len(bench.ALGORITHMS)),
    ]
    for row in result["rows"]:
        assert set(row) == documented()
        assert row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
        assert row["bus_bytes_per_second"] == pytest.approx(row["bytes"] / row["seconds"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_process_is_refused(tmp_path: Path) -> None:
    assert "at least two processes: mpiexec -n 2 cconvnet bench exchange" in refuse("bench", "exchange")
    for sizes in ("4X", "K", "4K,,1M", "-1"):
        assert "--sizes must be whole numbers" in refuse("bench", "exchange", "--sizes", sizes)
    assert "--sizes must be at least 1, not 0" in refuse("bench", "exchange", "--sizes", "0")


def row(algorithm: str, noisy: bool) -> dict[str, Any]:
    times = {"seconds": 2e-3, "seconds_min": 1e-3, "seconds_max": 3e-3, "calls": 1, "times_mpi": 1.25}
    rate = {"bus_bytes_per_second": 1.5e9, "noisy": noisy}
    return {"bytes": 3_000_000, "algorithm": algorithm, **times, **rate}


@pytest.mark.parametrize("noisy", [True, False])
def test_the_table_and_its_warning(noisy: bool) -> None:
    result = {"rows": [row("tree", noisy), row("MPI", False)]}
    assert bench.table(result) == (
        ["gradients", "tree", "MPI"],
        [["3.0 MB", "2.00 ms, 1.5 GB/s, 1.25x", "2.00 ms, 1.5 GB/s"]],
    )
    assert any("warning: in 1 of 2 rows" in line for line in bench.verdict(result)) == noisy


@pytest.mark.parametrize(
    ("size", "text"), [(4096, "4 KiB"), (2**28, "256 MiB"), (243_900_000, "243.9 MB"), (1000, "1,000 B")]
)
def test_sizes(size: int, text: str) -> None:
    assert bench.size_text(size) == text
