"""Growing batches and images, their fits, and the budget of `cconvnet bench scaling`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cconvnet.bench import charts
from cconvnet.bench.processes import WorkerError
from cconvnet.bench.scaling import (
    FACTORS,
    Budget,
    Points,
    fit,
    power,
    scaling,
    size_batch,
    straight,
    table,
    verdict,
)
from cconvnet.nets import build, spec_to_dict

GB = 10**9


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """Stand-in for all workers: a network's needs are known, and the clock is a fake.

    Attributes
        asked: (batch, side) of each point that was measured, in order.
    """

    def __init__(
        self,
        step: Callable[[int, int], float] = lambda batch, side: 1e-3 * batch,
        memory: Callable[[int, int], float] = lambda batch, side: 1e6 + 1e5 * batch,
        fails: dict[tuple[int, int], str] | None = None,
        start: float = 0.1,
        available: float | None = 100 * GB,
    ) -> None:
        self.time = Time()
        self.step, self.memory, self.fails = step, memory, fails or {}
        self.start, self.available = start, available
        self.asked: list[tuple[int, int]] = []
        self.open = self.started = 0

    def __call__(self, target: str, arguments: dict[str, Any]) -> Machine:
        assert target == "cconvnet.bench.scaling:Points" and arguments["precision"] == "fp32"
        self.started += 1
        return self

    def __enter__(self) -> Machine:
        self.open += 1
        assert self.open == 1  # so that no two networks share the memory
        return self

    def __exit__(self, *_: object) -> None:
        self.open -= 1

    def ask(self, method: str, spec: dict[str, Any], batch: int, seconds: float) -> dict[str, Any]:
        assert method == "measure"
        side = spec["stored"][0]
        self.time.now += self.start
        self.asked.append((batch, side))
        if why := self.fails.get((batch, side)):
            raise WorkerError(why)
        step, memory = self.step(batch, side), int(self.memory(batch, side))
        self.time.now += 3 * step
        return {
            "seconds": step,
            "seconds_min": step,
            "seconds_max": step,
            "calls": 2,
            "memory_bytes": memory,
            "peak_rss_bytes": memory + 10**6,
            "available_bytes": self.available,
        }

    def run(self, net: str = "lenet", **arguments: Any) -> dict[str, Any]:
        return scaling(net, device="cpu:0", clock=self.time, worker=self, **arguments)


def series(result: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["series"] == name]


# ---- fits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("exponent", "factor"), [(1.0, 3.0), (2.0, 0.25), (0.5, 7.0), (0.0, 2.0)])
def test_powers_come_out_exactly(exponent: float, factor: float) -> None:
    xs = [1, 2, 4, 8, 64]
    found = power(xs, [factor * x**exponent for x in xs])
    assert found == pytest.approx((exponent, factor), abs=1e-12)


@pytest.mark.parametrize(("fixed", "each"), [(100.0, 0.5), (0.0, 3.0), (7.0, 0.0)])
def test_lines_come_out_exactly(fixed: float, each: float) -> None:
    xs = [1, 2, 4, 8, 1024]
    assert straight(xs, [fixed + each * x for x in xs]) == pytest.approx((fixed, each), abs=1e-9)


def test_fits_of_a_series() -> None:
    rows = [{"batch": n, "size": 8, "seconds": 0.01 * n, "memory_bytes": 1000 + 10 * n} for n in (1, 2, 4, 8)]
    found = fit(rows, "batch")
    assert found is not None
    assert found["over"] == [1, 2, 4, 8]
    assert found["seconds"]["exponent"] == pytest.approx(1)
    assert found["seconds"]["per_image"] == pytest.approx(0.01)
    assert (found["memory_bytes"]["fixed"], found["memory_bytes"]["per_image"]) == pytest.approx((1000, 10))
    assert 0 < found["memory_bytes"]["exponent"] < 0.1
    assert "peak_rss_bytes" not in found
    assert fit(rows[:1], "batch") is None


def test_images_are_fitted_by_their_pixels() -> None:
    rows = [{"size": s, "seconds": 2e-6 * s * s, "memory_bytes": 500 + 3 * s * s} for s in (8, 16, 32)]
    found = fit(rows, "size")
    assert found is not None
    assert found["seconds"]["exponent"] == pytest.approx(2)
    assert (found["memory_bytes"]["fixed"], found["memory_bytes"]["per_pixel"]) == pytest.approx((500, 3))


# ---- the course of a measurement -------------------------------------------------------------------------


def test_batches_double_to_the_largest_asked_for_and_sizes_follow() -> None:
    machine = Machine()
    result = machine.run(batch_max=12)
    assert [row["batch"] for row in series(result, "batch")] == [1, 2, 4, 8, 12]
    sizes = series(result, "size")
    assert [row["size"] for row in sizes] == [round(8 * factor) for factor in FACTORS]
    assert {row["batch"] for row in sizes} == {12}
    assert result["left_out"] == []
    assert machine.started == len(result["rows"])  # a process for each
    assert result["fits"]["batch"]["seconds"]["exponent"] == pytest.approx(1)
    for before, row in zip(series(result, "batch"), series(result, "batch")[1:], strict=False):
        ratio = row["memory_bytes"] / before["memory_bytes"]
        exponent = math.log(ratio) / math.log(row["batch"] / before["batch"])
        assert row["local_exponents"]["memory_bytes"] == pytest.approx(exponent)
        assert row["images_per_second"] == pytest.approx(1000)


def test_what_would_take_too_long_is_left_out_and_named() -> None:
    machine = Machine(step=lambda batch, side: 0.01 * batch * (side / 8) ** 2)
    result = machine.run(seconds=10, sizes=[8, 16, 4096])
    assert machine.time.now < 10
    first, last = result["left_out"][0], result["left_out"][-1]
    assert first["series"] == "batch" and first["batch"] == 2 * series(result, "batch")[-1]["batch"]
    assert "it would take about" in first["why"]
    assert (last["size"], [row["size"] for row in series(result, "size")]) == (4096, [8, 16])
    assert (first["batch"], 8) not in machine.asked


def test_what_would_not_fit_is_left_out() -> None:
    machine = Machine(memory=lambda batch, side: 0.2 * GB + 0.1 * GB * batch, available=2 * GB)
    result = machine.run(sizes=[8])
    # 0.85 of 2 GB hold 8 images (1 GB), but not 16 (1.8 GB).
    assert [row["batch"] for row in series(result, "batch")] == [1, 2, 4, 8]
    assert result["left_out"][0]["batch"] == 16
    assert "1.80 GB" in result["left_out"][0]["why"]


def test_memory_that_runs_out_all_the_same_ends_the_batches() -> None:
    machine = Machine(fails={(8, 8): "MemoryError: Unable to allocate"})
    result = machine.run(sizes=[8])
    assert [row["batch"] for row in series(result, "batch")] == [1, 2, 4]
    assert result["left_out"] == [{"series": "batch", "batch": 8, "why": "MemoryError: Unable to allocate"}]
    assert [row["batch"] for row in series(result, "size")] == [4]


def test_a_size_the_network_cannot_take_is_skipped() -> None:
    machine = Machine(fails={(4, 6): "ValueError: layer pool9: no window fits"})
    result = machine.run(batch_max=4, sizes=[4, 6, 8])
    assert [row["size"] for row in series(result, "size")] == [4, 8]
    assert result["left_out"] == [
        {"series": "size", "size": 6, "why": "ValueError: layer pool9: no window fits"}
    ]


def test_nothing_at_all_can_be_measured() -> None:
    with pytest.raises(WorkerError, match=r"lenet could not be measured: .*broken"):
        Machine(fails={(1, 8): "broken"}).run()


def test_a_budget_without_time_or_memory_to_tell() -> None:
    time = Time()
    budget = Budget(10, time)
    row = {"seconds": 1.0, "calls": 2, "whole_seconds": 5.0, "memory_bytes": 100, "available_bytes": None}
    assert budget.refuses([], 1, 1) is None
    # 1 s to make the network, and four steps of 2 s or 3.1 s.
    assert budget.refuses([row], 2, 1) is None
    assert budget.refuses([row], 3.1, 1) == "it would take about 13.4 s and 10.0 s are left"
    time.now = 10
    assert budget.refuses([], 1, 1) == "no time is left"


def test_the_batch_of_the_sizes_leaves_time_for_all() -> None:
    rows = [{"batch": n, "seconds": 0.1 * n, "calls": 2, "whole_seconds": 0.4 * n} for n in (1, 2, 4, 8, 16)]
    need = sum(0.4 * max(factor, 1) ** 2 for factor in FACTORS)  # for each image
    assert size_batch(rows, 4 * need + 0.01, own=64) == 4
    assert size_batch(rows, 1e9, own=8) == 8
    assert size_batch(rows, 0, own=8) == 1


def test_each_point_leaves_a_whole_result() -> None:
    texts = []
    Machine().run(batch_max=2, sizes=[8], measured=lambda result, what: texts.append(json.dumps(result)))
    assert [len(json.loads(text)["rows"]) for text in texts] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_max": 0}, "--batch-max must be at least 1, not 0"),
        ({"seconds": 0}, "--seconds must be above 0, not 0"),
        ({"sizes": [8, 0]}, "--sizes must be at least 1, not 0"),
        ({"precision": "fp8"}, "--precision must be one of fp32, fp32x3, tf32, bf16, not 'fp8'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Machine().run(**arguments)


def test_tables_and_words() -> None:
    result = Machine().run(batch_max=4, sizes=[8, 16])
    for name in ("batch", "size"):
        header, lines = table(result, name)
        assert len(lines) == len(series(result, name)) + 1  # and the fit
        assert all(len(line) == len(header) for line in lines)
        assert verdict(result, name)
    assert "0.00 ms and 1.000 ms for each image" in verdict(result, "batch")[1]
    assert "1.0 MB and 0.100 MB for each image" in verdict(result, "batch")[1]


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = json.loads(json.dumps(Machine().run(batch_max=4)))
    charts.scaling(result, tmp_path / "picture.svg")
    assert "for each image" in (tmp_path / "picture.svg").read_text()
    with pytest.raises(ValueError, match="nothing to draw"):
        charts.scaling({**result, "rows": []}, tmp_path / "none.svg")


# ---- what is measured ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["cpu:0", "emulator:0"])
def test_a_point(where: str) -> None:
    points = Points(where, "fp32")
    spec = spec_to_dict(build("lenet"))
    small, large = (points.measure(spec, batch, seconds=0) for batch in (1, 3))
    assert 0 < small["seconds_min"] <= small["seconds"]
    # Images and activations grow, weights do not.
    assert small["memory_bytes"] < large["memory_bytes"] < 3 * small["memory_bytes"]
    assert large["peak_rss_bytes"] >= large["memory_bytes"]


def test_a_process_for_each_point(tmp_path: Path) -> None:
    result = scaling("lenet", device="cpu:0", batch_max=2, sizes=[8])
    assert [(row["series"], row["batch"]) for row in result["rows"]] == [
        ("batch", 1),
        ("batch", 2),
        ("size", 2),
    ]
    assert all(row["peak_rss_bytes"] > row["memory_bytes"] for row in result["rows"])
