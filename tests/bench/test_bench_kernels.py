"""``cconvnet bench kernels``: its rows, its sides, what it does with what is wrong, slow or missing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.fake_gpu import LAUNCH, FakeGpu

from cconvnet import cli, nets
from cconvnet._problem import ConvProblem
from cconvnet.bench import kernels as bench
from cconvnet.bench import verify
from cconvnet.bench.cases import NETWORKS, Row, _trained_over_blocks, find, over_blocks, rows, select
from cconvnet.bench.kernels import Peer, Table, kernels, peers_for
from cconvnet.bench.peers.cconvnet_kernels import Ours
from cconvnet.bench.peers.side import Plan, Refused, Side
from cconvnet.bench.processes import PeerMissing
from cconvnet.bench.tiles import TILE, Tiles, count_bad, tile
from cconvnet.bfloat16 import BITS, pack
from cconvnet.devices import PRECISIONS, get_device
from cconvnet.network import Network
from cconvnet.plots import PlotError
from cconvnet.testing import compare, reference
from cconvnet.testing.check import OPERATIONS

Array = np.ndarray[Any, Any]

# Its limits are measured in no time.
DEVICE = "emulator:0"

# ---- rows ------------------------------------------------------------------------------------------------


def test_rows_of_alexnet() -> None:
    names = [row.name for row in rows("alexnet", 2)]
    assert names[:4] == [
        "conv1 conv_fprop",
        "conv1 conv_wgrad",
        "conv1 relu_bias_backward",
        "lrn1 lrn_forward",
    ]
    for operation in ("lrn_maxpool_forward", "lrn_maxpool_backward"):
        layers = [name.partition(" ")[0] for name in names if name.endswith(operation)]
        assert layers == ["lrn1+pool1", "lrn2+pool2"]
    assert len(names) == len(set(names))
    problem = find("alexnet", 2, "conv2", "conv_fprop", "bf16").problem
    assert (problem.precision, problem.groups, problem.y_shape) == ("bf16", 2, (2, 27, 27, 256))
    for layer in ("conv2", "conv5"):
        assert [f"{layer} conv_{p}" in names for p in ("fprop", "dgrad", "wgrad")] == [True] * 3
    assert [name for name in names if "dropout" in name] == ["fc6 dropout", "fc7 dropout"]
    assert "fc8 relu_bias_backward" not in names
    assert names[-2:] == ["loss softmax_cross_entropy", "update sgd_update"]
    update = find("alexnet", 2, "update", "sgd_update").problem
    # 60,965,224 parameters less 10,568 biases.
    assert update.count == 60_954_656


@pytest.mark.parametrize("network", NETWORKS)
def test_rows_of_every_network_can_be_found_again(network: str) -> None:
    table = rows(network, 3)
    assert {row.operation for row in table} <= set(OPERATIONS)
    assert "conv_dgrad" not in [row.operation for row in table if row.layer == "conv1"]
    for row in table[:: max(len(table) // 20, 1)]:
        again = find(**json.loads(json.dumps(row.key)))
        assert (again.name, repr(again.problem)) == (row.name, repr(row.problem))


def test_selecting_rows() -> None:
    table = rows("alexnet", 1)
    assert {row.layer for row in select(table, "conv2")} == {"conv2"}
    assert {row.operation for row in select(table, "wgrad")} == {"conv_wgrad", "fc_wgrad"}
    assert {row.operation for row in select(table, "conv_wgrad")} == {"conv_wgrad"}
    assert {row.layer for row in select(table, "lrn*, pool5")} == {
        "lrn1",
        "lrn2",
        "lrn2_map",
        "pool5",
        "lrn1+pool1",
        "lrn2+pool2",
    }
    assert [row.name for row in select(table, "conv3 conv_dgrad")] == ["conv3 conv_dgrad"]
    assert select(table, None) == table
    with pytest.raises(ValueError, match="'conv9' names none of conv1, "):
        select(table, "conv2,conv9")


# ---- sides -----------------------------------------------------------------------------------------------


class FakePlan(Plan):
    """Computes with the reference, and is wrong or slow if its name says so."""

    def __init__(self, row: Row, name: str, columns: tuple[str, ...] = ("plan",)) -> None:
        self.row, self.name, self.columns = row, name, columns

    def load(self, inputs: dict[str, Any]) -> None:
        if "fails" in self.name:
            raise RuntimeError("no such engine")
        self.inputs = dict(inputs)
        self.done: dict[str, Array] = {}

    def call(self) -> None:
        spec = OPERATIONS[self.row.operation]
        arguments = ([self.row.problem] if spec.has_problem else []) + list(self.inputs.values())
        result = np.asarray(getattr(reference, self.row.operation)(*arguments), np.float32)
        if "wrong" in self.name:
            result.flat[-1] += 1
        self.done = {next(iter(spec.outputs(self.row.problem))): result}

    def results(self) -> dict[str, Array]:
        return self.done


class FakePeer(Side):
    """Two columns; each plan takes the time that its name says."""

    columns = ("best", "strict")

    def plans(self, row: Row) -> Sequence[Plan]:
        if row.operation == "fc_wgrad":
            raise Refused("it has no such thing")
        return [
            FakePlan(row, "3s", self.columns),
            FakePlan(row, "1s wrong", self.columns),
            FakePlan(row, "2s", ("best",)),
            FakePlan(row, "1s fails", self.columns),
        ]

    def seconds(self, plan: Plan, count: int) -> list[float]:
        plan.call()
        return [float(plan.name.partition("s")[0])] * count

    def about(self) -> dict[str, Any]:
        return {"version": "1.0"}


class MissingPeer(Side):
    def __init__(self, device: str, precision: str) -> None:
        raise PeerMissing("it is missing: pip install it")

    def plans(self, row: Row) -> Sequence[Plan]:
        raise NotImplementedError

    seconds = plans  # type: ignore[assignment]


class FailingPeer(FakePeer):
    """Its process ends in the middle of a row, once."""

    columns = ("plan",)

    def plans(self, row: Row) -> Sequence[Plan]:
        return [FakePlan(row, "2s")]

    def time(self, column: str, calls: int) -> list[float]:
        sys.exit(3)


def peer(kind: type[Side]) -> Peer:
    folder = Path(__file__).parent
    path = f"{Path(cli.__file__).parents[2]}:{folder}:{folder.parent}"
    return Peer(kind.__name__, f"test_bench_kernels:{kind.__name__}", environment={"PYTHONPATH": path})


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
@pytest.mark.parametrize("row", rows("cifar-quick", 2), ids=lambda row: row.name)
def test_ours_are_right(row: Row, precision: str) -> None:
    side = Ours("cpu:0", precision)
    answer = side.prepare(**row.key)
    assert (answer["wrong"], answer["failed"]) == ({}, {})
    assert len(side.time("plan", 2)) == 2
    work = side.work()
    assert (work["flops"] > 0) == row.is_gemm
    assert work["bytes"] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ours_of_the_other_operations_are_right(precision: str) -> None:
    side = Ours("cpu:0", precision)
    table = [row for row in rows("alexnet", 1) if row.operation.startswith(("lrn", "dropout"))]
    assert len(table) == 12
    for row in table:
        assert side.prepare(**row.key)["wrong"] == {}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_ours_on_the_emulator(precision: str) -> None:
    side = Ours("emulator:0", precision)
    for layer, operation in (("fc10", "fc_wgrad"), ("pool3", "avgpool_backward"), ("loss", None)):
        for row in rows("cifar-quick", 1):
            if row.layer == layer and operation in (None, row.operation):
                assert side.prepare(**row.key)["wrong"] == {}


def test_an_impl_is_forced() -> None:
    device = get_device("cpu:0")
    row = find("cifar-quick", 2, "conv2", "conv_fprop")
    last = device.module.conv_fprop_impls(row.problem)[-1]
    assert Ours("cpu:0", "fp32", impl=last).prepare(**row.key)["plans"]["plan"]["kernel"] == last
    answer = Ours("cpu:0", "fp32", impl="abacus").prepare(**row.key)
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
    "row",
    [
        row
        for row in rows("cifar-quick", 1)
        if row.layer in ("fc10", "pool3", "loss") or row.name == "fc64 relu_bias_backward"
    ],
    ids=lambda row: row.name,
)
def test_numbers_are_made_on_the_gpu(
    gpu: FakeGpu, row: Row, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn once, whatever the row, and looked at where they are."""
    monkeypatch.setattr(verify, "timed_inputs", verify.timed_inputs if row.layer == "loss" else None)
    monkeypatch.setattr(verify, "check", None)
    monkeypatch.setattr(FakeGpu, "host", None)
    side = Ours("cuda:0", "fp32")
    assert side.prepare(**row.key, precision=precision)["wrong"] == {}
    plan: Any = side._kept["plan"]
    numbers = [
        values for name, array in plan.plan._arrays.items()
        if array.dtype == row_dtype(row, name, precision) and np.std(values := compare.values(array)) > 0
    ]  # fmt: skip
    assert numbers and all(np.isfinite(values).all() for values in numbers)


def row_dtype(row: Row, name: str, precision: str) -> Any:
    return find(row.network, row.batch, row.layer, row.operation, precision).dtype(name)


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


# ---- the first convolution -------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("network", ["alexnet", "resnet50", "googlenet"])
def test_the_first_convolution_stands_there_as_training_computes_it(network: str, precision: str) -> None:
    given = find(network, 2, "conv1", "conv_fprop", precision)
    blocks = find(network, 2, "conv1_blocks", "conv_fprop", precision)
    assert blocks.problem.precision == precision and blocks.problem.stride_h == 1
    assert (blocks.problem.p, blocks.problem.q) == (given.problem.p, given.problem.q)
    assert blocks.problem.flops * blocks.asked == pytest.approx(given.problem.flops)
    table = rows(network, 2, precision, blocks=True)
    wanted = ["conv1 conv_fprop", "conv1_blocks conv_fprop", "conv1 conv_wgrad", "conv1_blocks conv_wgrad"]
    assert [row.name for row in table[:4]] == wanted
    assert [row.name for row in table if "_blocks" not in row.name] == [r.name for r in rows(network, 2)]
    # One of the two forms is the one that training computes.
    assert [row.trained for row in table[:2]] in ([True, False], [False, True])
    assert all(row.trained for row in (*table[4:], *rows(network, 2)))


@pytest.mark.parametrize(("size", "over"), [(67, True), (74, False)])
def test_training_computes_that_very_convolution(size: int, over: bool) -> None:
    spec = nets.alexnet.build((size, size, 3), 10, width=1 / 24)
    network = Network(spec, batch=2, devices=["emulator:0"])
    (own,) = (layer.branches[0].problem for layer in network.layers if "conv1" in layer.names)
    image, conv = spec.input, spec.layers[0].for_input(0)
    sizes = (2, image.height, image.width, 3, own.k, *conv.window)
    given = ConvProblem(*sizes, conv.stride, conv.padding, 1, conv.rounding)
    assert repr(own) == repr(over_blocks(given) if over else given)
    assert _trained_over_blocks(given) == over


@pytest.mark.parametrize("network", ["vgg16", "cifar-quick"])
def test_a_convolution_without_stride_stands_there_once(network: str) -> None:
    assert [r.name for r in rows(network, 1, blocks=True)] == [r.name for r in rows(network, 1)]


def test_a_layer_counts_once_among_the_means() -> None:
    def line(layer: str, ratio: float) -> dict[str, Any]:
        return {"layer": layer, "products": True, "peers": {"cudnn best": {"ratio": ratio}}}

    untrained = line("conv1", 8.0) | {"trained": False}
    found = bench.summarize([untrained, line("conv1_blocks", 2.0), line("conv2", 2.0)])
    assert found["products"] == {"cudnn best": {"ratio": pytest.approx(2.0), "rows": 2}}


def test_the_table_shows_launches_on_a_gpu() -> None:
    row = {
        "layer": "fc", "operation": "fc_fprop", "products": True, "kernel": "k", "seconds": 1e-5,
        "seconds_min": 1e-5, "flops_per_second": 1e12, "bytes_per_second": 1e9, "share": 0.5,
        "how": "not captured: no", "launch_seconds": 4e-5,
        "peers": {"cudnn": {"ratio": 1.5, "how": "not captured: neither"}},
    }  # fmt: skip
    result = {"machine": {"device": "cuda:0"}, "peers": {"cudnn": {"columns": ["plan"]}}, "summary": {}}
    lines = list(Table(result, ["fc"]).row(row))
    assert lines[0].split()[-3:] == ["40.0", "1.50", "k"]
    assert lines[1:] == ["    not captured: no", "    cudnn: not captured: neither"]


# Only operations that PyTorch computes otherwise than the rows of cifar-quick show.
_HARD = [
    ("alexnet", "conv1", "conv_fprop"),
    ("alexnet", "conv1", "conv_wgrad"),
    ("alexnet", "conv4", "conv_dgrad"),
    ("alexnet", "lrn2", "lrn_forward"),
    ("alexnet", "lrn2", "lrn_backward"),
    ("alexnet", "lrn2_map", "lrn_forward"),
    ("alexnet", "lrn2_map", "lrn_backward"),
    ("alexnet", "lrn1+pool1", "lrn_maxpool_forward"),
    ("alexnet", "lrn1+pool1", "lrn_maxpool_backward"),
    ("alexnet", "fc7", "dropout"),
    ("resnet50", "conv3_1_3x3", "conv_dgrad"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "row",
    [*rows("cifar-quick", 2), *(find(network, 1, *rest) for network, *rest in _HARD)],
    ids=lambda row: f"{row.network} {row.name}",
)
def test_pytorch_is_right(row: Row, precision: str) -> None:
    pytest.importorskip("torch")
    from cconvnet.bench.peers.pytorch_kernels import PyTorch

    side = PyTorch("cpu:0", precision)
    answer = side.prepare(**row.key)
    assert (answer["wrong"], answer["failed"]) == ({}, {})
    assert len(side.time("plan", 2)) == 2


@pytest.fixture
def torch_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """PyTorch on a GPU that is none: its CPU, and as much of torch.cuda as the side uses; its notes."""
    torch = pytest.importorskip("torch")
    from cconvnet.bench.peers import pytorch_kernels

    notes: list[str] = []

    class Graph:
        def replay(self) -> None:
            notes.append("replay")

    @contextlib.contextmanager
    def graph(captured: Graph, stream: Any) -> Iterator[None]:
        assert stream == "stream" and isinstance(captured, Graph)
        notes.append("capture")
        yield

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = time.perf_counter()

        def elapsed_time(self, end: Event) -> float:
            return 1e3 * (end.at - self.at)

    properties = SimpleNamespace(L2_cache_size=1 << 10)
    fakes = {"CUDAGraph": Graph, "graph": graph, "Event": Event, "Stream": lambda device: "stream"}
    fakes |= {"set_stream": notes.append, "synchronize": lambda: None}
    fakes |= {"get_device_properties": lambda device: properties}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(pytorch_kernels, "gpu", lambda name: SimpleNamespace(ordinal=0))
    monkeypatch.setattr(pytorch_kernels, "set_up", lambda ordinal, precision: torch.device("cpu"))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    return notes


def test_pytorch_times_graphs_on_a_gpu(torch_gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from cconvnet.bench.peers import pytorch_kernels

    side = pytorch_kernels.PyTorch("cuda:0", "fp32")
    assert side.verify == "finite" and torch_gpu == ["stream"]
    for layer, operation in (("conv3", "conv_wgrad"), ("fc10", "fc_dgrad"), ("pool3", "avgpool_backward")):
        del torch_gpu[:]
        answer = side.prepare("cifar-quick", 1, layer, operation)
        assert answer["wrong"] == answer["failed"] == {}
        (plan,) = answer["plans"].values()
        assert plan["how"] == "graph" and plan["launch_seconds"] > 0 and plan["called_seconds"] > 0
        assert torch_gpu == ["capture", *["replay"] * 3]  # once to try it, twice for a first time
        side.time("plan", 4)
        assert torch_gpu.count("replay") == 7

    @contextlib.contextmanager
    def refused(graph: Any, stream: Any) -> Iterator[None]:
        yield
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr("torch.cuda.graph", refused)
    (plan,) = side.prepare("cifar-quick", 1, "fc10", "fc_fprop")["plans"].values()
    assert plan["how"] == "not captured: operation not permitted when stream is capturing"


# ---- the measurement -------------------------------------------------------------------------------------


def test_side_by_side() -> None:
    seen: list[int] = []
    result = kernels(
        "cifar-quick",
        device=DEVICE,
        batch=2,
        only="fc10",
        seconds=1e-3,
        peers=[peer(FakePeer), peer(MissingPeer)],
        measured=lambda result, row: seen.append(len(result["rows"])),
    )
    assert seen == [1, 2, 3]
    assert json.loads(json.dumps(result)) == result
    assert (result["what"], result["net"], result["batch"]) == ("kernels", "cifar-quick", 2)
    assert result["machine"]["device"] == DEVICE
    assert result["peers"]["MissingPeer"] == {"missing": "it is missing: pip install it"}
    assert result["peers"]["FakePeer"]["version"] == "1.0"
    fprop, dgrad, wgrad = result["rows"]
    for row in (fprop, dgrad):
        assert row["seconds_min"] <= row["seconds"]
        assert row["flops_per_second"] == pytest.approx(2 * 2 * 64 * 10 / row["seconds"])
        assert row["bytes_per_second"] == pytest.approx(4 * (2 * 64 + 64 * 10 + 2 * 10) / row["seconds"])
        best, strict = row["peers"]["FakePeer best"], row["peers"]["FakePeer strict"]
        assert (best["seconds"], best["kernel"]) == (2.0, "2s")
        assert best["ratio"] == pytest.approx(2 / row["seconds"])
        assert strict["ratio"] == pytest.approx(3 / row["seconds"])
        assert list(best["wrong"]) == ["1s wrong"]
    assert wgrad["peers"] == {"FakePeer": {"refused": "it has no such thing", "wrong": {}, "unusable": {}}}
    mean = result["summary"]["products"]["FakePeer best"]
    assert mean["rows"] == 2
    assert mean["ratio"] == pytest.approx(2 / np.sqrt(fprop["seconds"] * dgrad["seconds"]))
    assert result["summary"]["others"] == {}
    assert not bench.failed(result)

    table = Table(result, ["fc10"])
    head = list(table.head())
    assert "MissingPeer is not compared: it is missing: pip install it" in head
    lines = [line for row in result["rows"] for line in table.row(row)]
    assert lines[0].startswith("fc10   fprop ")
    assert "    FakePeer best: 1s wrong is left out: y is wrong" in "\n".join(lines)
    (foot,) = [line for line in table.foot() if "FakePeer strict" in line]
    assert foot.startswith("geometric mean, convolutions and fully connected layers: ")
    assert foot.endswith(" x FakePeer strict (2 rows)")


def test_a_peer_that_breaks_down_is_started_again() -> None:
    result = kernels(
        "cifar-quick", device=DEVICE, batch=2, only="fc10", seconds=1e-3, peers=[peer(FailingPeer)]
    )
    assert len(result["rows"]) == 3
    for row in result["rows"]:
        assert row["seconds"] > 0
        assert "FailingPeer ended with status 3" in row["peers"]["FailingPeer"]["failed"]


def _altered(folder: Path, operation: str, what: str) -> None:
    """The emulator's module with one operation altered, to be named by CCONVNET_MODULE_PATH."""
    real = get_device(DEVICE).module.__file__
    (folder / "_emulator.py").write_text(
        textwrap.dedent(f"""
            import importlib.util, time
            spec = importlib.util.spec_from_file_location("cconvnet._emulator", {real!r})
            real = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(real)
            globals().update({{n: getattr(real, n) for n in dir(real) if not n.startswith("__")}})

            def {operation}(*arguments):
                real.{operation}(*arguments)
                {what}
        """)
    )


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "cconvnet", "bench", "kernels", "--net", "cifar-quick", "--batch", "2", "--no-peer"]
    return subprocess.run(
        [sys.executable, *command, "--device", DEVICE, "--seconds", "0.002", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=os.environ | {"CCONVNET_MODULE_PATH": str(folder)},
    )


def test_a_planted_error_stops_its_row_alone(tmp_path: Path) -> None:
    # One element of the result: fc_dgrad's arguments end with dx, workspace, stream, impl.
    _altered(tmp_path, "fc_dgrad", "arguments[3][-1, -1] += 1")
    done = _run(tmp_path, "--only", "fc10", "--json", str(tmp_path / "result.json"))
    assert done.returncode == 1, done.stderr
    assert "fc10   dgrad                wrong: dx is wrong: " in done.stdout
    assert done.stdout.rstrip().endswith("1 of our results is wrong")
    result = json.loads((tmp_path / "result.json").read_text())
    assert ["wrong" in row for row in result["rows"]] == [False, True, False]
    assert ["seconds" in row for row in result["rows"]] == [True, False, True]


def test_a_planted_delay_is_seen(tmp_path: Path) -> None:
    _altered(tmp_path, "fc_dgrad", "time.sleep(0.02)")
    done = _run(tmp_path, "--only", "fc10", "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    times = {row["operation"]: row["seconds_min"] for row in result["rows"]}
    # A sleep is never shorter.
    assert times["fc_dgrad"] >= 0.02
    slow = next(row for row in result["rows"] if row["operation"] == "fc_dgrad")
    assert slow["share"] == pytest.approx(slow["floor_seconds"] / slow["seconds"])
    assert "geometric" not in done.stderr


def test_an_exception_of_ours_stops_its_row_alone(tmp_path: Path) -> None:
    _altered(tmp_path, "fc_dgrad", "raise RuntimeError('it broke')")
    done = _run(tmp_path, "--only", "fc10")
    assert done.returncode == 1
    assert "wrong: RuntimeError: it broke" in done.stdout
    assert "fc10   wgrad" in done.stdout


def test_results_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured before an interruption is in the file."""
    from cconvnet.cli.bench import bench_kernels

    def interrupted(*arguments: Any) -> dict[str, Any]:
        line = measure(*arguments)
        if line["operation"] == "fc_wgrad":
            raise KeyboardInterrupt
        return line

    measure = bench._measure
    monkeypatch.setattr(bench, "_measure", interrupted)
    file = tmp_path / "result.json"
    with pytest.raises(KeyboardInterrupt):
        bench_kernels(
            net="cifar-quick", device=DEVICE, batch=1, only="fc10", no_peer=True, seconds=1e-3,
            to_json=str(file),
        )  # fmt: skip
    result = json.loads(file.read_text())
    assert [row["operation"] for row in result["rows"]] == ["fc_fprop", "fc_dgrad"]
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_peers_of_a_device() -> None:
    gpu = {peer.name: peer for peer in peers_for("cuda")}
    fprop, lrn = find("alexnet", 1, "conv2", "conv_fprop"), find("alexnet", 1, "lrn1", "lrn_forward")
    assert [gpu["cudnn"].takes(row) for row in (fprop, lrn)] == [True, False]
    assert [gpu["pytorch"].takes(row) for row in (fprop, lrn)] == [False, True]
    (cpu,) = peers_for("cpu")
    assert cpu.takes(fprop) and cpu.takes(lrn)
    assert "MALLOC_TRIM_THRESHOLD_" in cpu.environment
    assert peers_for("cpu", []) == []
    with pytest.raises(ValueError, match="--peers must be of pytorch on a cpu device, not 'cudnn'"):
        peers_for("cpu", ["cudnn"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"net": "lenet-5"}, "--net must be one of alexnet, "),
        ({"batch": 0}, "--batch must be at least 1, not 0"),
        ({"seconds": 0.0}, "--seconds must be above 0, not 0.0"),
        ({"verify": "half"}, "--verify must be full or finite, not 'half'"),
        ({"precision": "fp8"}, "--precision must be one of fp32, tf32, bf16, not 'fp8'"),
        ({"precision": "tf32"}, "precision tf32 is not for cpu:0"),
        ({"only": "conv77"}, "--only must name layers or passes"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        kernels(**{"net": "cifar-quick", "device": "cpu:0", **arguments})


# ---- the picture -----------------------------------------------------------------------------------------


def _result(count: int, peers: dict[str, float]) -> dict[str, Any]:
    ratios = {name: {"ratio": ratio} for name, ratio in peers.items()}
    row = {"layer": "conv", "operation": "conv_fprop", "seconds": 1e-3, "share": 0.5, "peers": ratios}
    lines = [row | {"layer": f"conv{i}"} for i in range(count)] + [{"layer": "fc", "wrong": "all of it"}]
    return {"net": "n", "batch": 1, "precision": "fp32", "machine": {"device": "cpu:0"}, "rows": lines}


@pytest.mark.parametrize("count", [1, 130])
def test_a_picture_shows_every_row(tmp_path: Path, count: int) -> None:
    pytest.importorskip("matplotlib")
    from cconvnet.bench.charts import kernel_bars

    kernel_bars(_result(count, {"cudnn best": 1.25, "cudnn strict": 0.5}), tmp_path / "bars.svg")
    # Matplotlib names each text that it draws.
    texts = re.findall("<!-- (.*) -->", (tmp_path / "bars.svg").read_text())
    assert [text for text in texts if "fprop" in text] == [f"conv{i} fprop" for i in range(count)]
    assert texts.count("1.25") == count
    assert "cudnn strict" in texts
    assert not any("fc" in text for text in texts)


def test_a_picture_without_peers_and_without_rows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from cconvnet.bench.charts import kernel_bars

    kernel_bars(_result(3, {}), tmp_path / "bars.svg")
    assert "share of the limit" in (tmp_path / "bars.svg").read_text()
    with pytest.raises(PlotError, match="nothing to draw"):
        kernel_bars(_result(0, {}), tmp_path / "bars.svg")
