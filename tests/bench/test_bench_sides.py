"""Sides of a comparison of kernels: which plans are kept, and ours on each device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.fake_gpu import LAUNCH, FakeGpu
from helpers.fake_sides import FakePeer

from cconvnet.bench import verify
from cconvnet.bench.cases import Case, cases, find
from cconvnet.bench.peers.cconvnet_kernels import Ours
from cconvnet.bench.tiles import TILE, Tiles, count_bad, tile
from cconvnet.bfloat16 import BITS, pack
from cconvnet.devices import PRECISIONS, get_device
from cconvnet.testing import compare


def test_the_fastest_right_plan_of_each_column_is_kept() -> None:
    side = FakePeer("cpu:0", "fp32")
    answer = side.prepare("cifar-quick", 2, "fc10", "fc_fprop")
    assert answer["plans"] == {
        "best": {"kernel": "2s", "seconds": 2.0},
        "strict": {"kernel": "3s", "seconds": 3.0},
    }
    assert list(answer["wrong"]) == ["1s wrong"]
    assert answer["wrong"]["1s wrong"].startswith("y is wrong")
    assert answer["failed"] == {"1s fails": "RuntimeError: no such engine"}
    assert side.time("best", 3) == [2.0] * 3
    side.release()
    assert side.prepare("cifar-quick", 2, "fc10", "fc_wgrad")["refused"] == "it has no such thing"


def test_time_for_trying_plans_is_bounded() -> None:
    side = FakePeer("cpu:0", "fp32")
    side.trial_seconds = -1.0
    answer = side.prepare("cifar-quick", 2, "fc10", "fc_fprop")
    assert {plan["kernel"] for plan in answer["plans"].values()} == {"3s"}  # the first that runs
    assert answer["failed"] == {"3 more plans": "not tried within -1 s"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", cases("cifar-quick", 2), ids=lambda case: case.name)
def test_ours_are_right(case: Case, precision: str) -> None:
    side = Ours("cpu:0", precision)
    answer = side.prepare(**case.key)
    assert (answer["wrong"], answer["failed"]) == ({}, {})
    assert len(side.time("plan", 2)) == 2
    work = side.work()
    assert (work["flops"] > 0) == case.is_gemm
    assert work["bytes"] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ours_of_the_other_operations_are_right(precision: str) -> None:
    side = Ours("cpu:0", precision)
    table = [case for case in cases("alexnet", 1) if case.operation.startswith(("lrn", "dropout"))]
    assert len(table) == 9
    for case in table:
        assert side.prepare(**case.key)["wrong"] == {}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_ours_on_the_emulator(precision: str) -> None:
    side = Ours("emulator:0", precision)
    for layer, operation in (("fc10", "fc_wgrad"), ("pool3", "avgpool_backward"), ("cost", None)):
        for case in cases("cifar-quick", 1):
            if case.layer == layer and operation in (None, case.operation):
                assert side.prepare(**case.key)["wrong"] == {}


def test_an_impl_is_forced() -> None:
    device = get_device("cpu:0")
    case = find("cifar-quick", 2, "conv2", "conv_fprop")
    last = device.module.conv_fprop_impls(case.problem)[-1]
    assert Ours("cpu:0", "fp32", impl=last).prepare(**case.key)["plans"]["plan"]["kernel"] == last
    answer = Ours("cpu:0", "fp32", impl="abacus").prepare(**case.key)
    assert "abacus does not serve it; there are " in answer["refused"]


# ---- on a GPU that is none -------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    found = FakeGpu()
    monkeypatch.setattr("cconvnet.bench.peers.cconvnet_kernels.get_device", lambda name: found)
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graphs_are_timed_and_launches_told_apart(gpu: FakeGpu, precision: str) -> None:
    side = Ours("cuda:0", precision)
    assert "4 times the L2 cache" in side.about()["caches"]
    for operation in ("fc_fprop", "fc_wgrad"):
        answer = side.prepare("cifar-quick", 1, "fc10", operation)
        assert answer["wrong"] == {}
        (plan,) = answer["plans"].values()
        assert plan["how"] == "graph" and plan["launch_seconds"] >= LAUNCH
        assert plan["called_seconds"] >= LAUNCH > min(side.time("plan", 9))
        assert side.work()["flops"] == 2 * 64 * 10
    assert gpu.captures == 2


def test_what_cannot_be_captured_says_so(gpu: FakeGpu) -> None:
    gpu.refused.add("fc_fprop")
    side = Ours("cuda:0", "fp32")
    (plan,) = side.prepare("cifar-quick", 1, "fc10", "fc_fprop")["plans"].values()
    assert plan["how"] == "not captured: fc_fprop cannot be captured"
    assert min(side.time("plan", 2)) >= LAUNCH


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "case",
    [
        case
        for case in cases("cifar-quick", 1)
        if case.layer in ("fc10", "pool3", "cost") or case.name == "fc64 relu_bias_backward"
    ],
    ids=lambda case: case.name,
)
def test_numbers_are_made_on_the_gpu(
    gpu: FakeGpu, case: Case, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn once, whatever the case, and looked at where they are."""
    monkeypatch.setattr(verify, "timed_inputs", verify.timed_inputs if case.layer == "cost" else None)
    monkeypatch.setattr(verify, "check", None)
    monkeypatch.setattr(FakeGpu, "host", None)
    side = Ours("cuda:0", "fp32")
    assert side.prepare(**case.key, precision=precision)["wrong"] == {}
    plan: Any = side._kept["plan"]
    numbers = [
        values for name, array in plan.plan._arrays.items()
        if array.dtype == row_dtype(case, name, precision) and np.std(values := compare.values(array)) > 0
    ]  # fmt: skip
    assert numbers and all(np.isfinite(values).all() for values in numbers)


def row_dtype(case: Case, name: str, precision: str) -> Any:
    return find(case.network, case.batch, case.layer, case.operation, precision).dtype(name)


def test_what_is_not_written_is_wrong_on_a_gpu(gpu: FakeGpu) -> None:
    module = gpu.module

    class Forgets:
        def __getattr__(self, name: str) -> Any:
            return getattr(module, name)

        def fc_dgrad(self, problem: Any, dy: Any, w: Any, dx: Any, *rest: Any) -> None:
            module.fc_dgrad(problem, dy, w, dx, *rest)
            dx[0, 3:5] = np.nan

    gpu.module = Forgets()
    answer = Ours("cuda:0", "fp32").prepare("cifar-quick", 1, "fc10", "fc_dgrad")
    assert answer["wrong"] == {"fc_dgrad_simt": "x"} or list(answer["wrong"].values()) == [
        "2 of 64 elements of dx are NaN, infinite or not written"
    ]
    assert answer["plans"] == {}


def test_a_tile_is_repeated_to_the_last_element() -> None:
    device = get_device("cpu:0")
    tiles = Tiles(device)
    array = tiles.array((3, TILE // 2), np.float32).reshape(-1)
    assert (array[:TILE] == tile()).all() and (array[TILE:] == tile()[: array.size - TILE]).all()
    bits = tiles.array((100,), BITS)
    assert (bits == pack(tile()[:100])).all()
    for array, bad in ((np.array([1, np.inf, np.nan], np.float32), 2), (pack([1, np.inf, np.nan]), 2)):
        assert count_bad(np, array) == bad
    assert count_bad(np, np.array([-1], np.int32)) == 0
