"""One side on its own, line by line; the results that are made of the lines; our step's forms."""

from __future__ import annotations

import json
import sys
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fake_gpu import LAUNCH, FakeGpu, Pinned

from cconvnet.bench import lines, merging, step_forms
from cconvnet.bench.cases import Case, cases
from cconvnet.bench.kernels import Table
from cconvnet.bench.peers.cconvnet_kernels import Ours
from cconvnet.bench.peers.side import Plan, Side
from cconvnet.bench.processes import PeerMissing
from cconvnet.devices import get_device

TABLES = [("cifar-quick", 1)]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    found = FakeGpu()
    for module in ("peers.cconvnet_kernels", "step_forms"):
        monkeypatch.setattr(f"cconvnet.bench.{module}.get_device", lambda name: found)
    monkeypatch.setattr("cconvnet.devices.machine._gpu", lambda device: {"chip": "none"})
    monkeypatch.setattr("cconvnet.devices.machine._gpu_clocks", lambda device: {})
    monkeypatch.setattr(Ours, "ceilings", lambda self: {"bytes_per_second": 1e9, "flops_per_second": 1e9})
    return found


def run(path: Path, *more: str, side: str = "ours") -> tuple[int, list[dict[str, Any]]]:
    before = len(list(lines.read(path)))
    arguments = ["--device", "cuda:0", "--tables", "cifar-quick:1", "--calls", "2", "--json", str(path)]
    status = lines.main([side, *arguments, *more])
    return status, list(lines.read(path))[before:]


def test_a_side_lives_for_all_rows_and_precisions(
    gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(lines, "cases", lambda *arguments: _few(*arguments))
    monkeypatch.setattr(Ours, "__init__", _counted(Ours.__init__, made))
    status, found = run(tmp_path / "k.jsonl")
    assert (status, len(made)) == (0, 1)
    begin, *ceilings, end = [line for line in found if "event" in line]
    assert (begin["event"], end["event"]) == ("begin", "end")
    assert [line["precision"] for line in ceilings] == ["bf16", "fp32", "tf32"]
    names = [(line["precision"], line["operation"]) for line in found if "event" not in line]
    products, others = names[:9], names[9:]
    assert [name for name, _ in products] == ["bf16"] * 3 + ["fp32"] * 3 + ["tf32"] * 3
    # What is no sum of products is the same in tf32 as in fp32.
    assert others == [(p, "softmax_cross_entropy") for p in ("bf16", "fp32")]
    for line in found:
        if "event" not in line:
            assert line["plans"]["plan"]["how"] == "graph" and line["plans"]["plan"]["calls"] == 2
            assert (line["flops"] > 0) == line["products"] and line["bytes"] > 0


def _few(network: str, batch: int, precision: str, blocks: bool) -> list[Case]:
    return [case for case in cases(network, batch, precision, blocks) if case.layer in ("fc10", "cost")]


def _counted(make: Any, made: list[Any]) -> Any:
    def init(self: Any, *arguments: Any, **more: Any) -> None:
        made.append(self)
        make(self, *arguments, **more)

    return init


def test_it_goes_on_where_it_was_ended(gpu: FakeGpu, tmp_path: Path) -> None:
    path, only = tmp_path / "k.jsonl", ("--only", "fc10", "--precisions", "fp32")
    clock = iter([0.0, *[1.0] * 3, *[99.0] * 99])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines.time, "monotonic", clock.__next__)
        _, first = run(path, *only)
    assert [line["operation"] for line in first if "plans" in line] == ["fc_fprop", "fc_dgrad"]
    (cut,) = [line for line in first if line.get("event") == "cut"]
    assert cut["operation"] == "fc_wgrad"
    with path.open("a") as file:
        file.write('{"side": "ours", "net": "cifar-quick", "ba')  # killed while it wrote
    path.write_text(path.read_text() + "\n")
    _, second = run(path, *only)
    assert [line["operation"] for line in second if "plans" in line] == ["fc_wgrad"]
    assert not [line for line in second if line.get("event") == "ceilings"]


@pytest.mark.parametrize("how", ["--stop", "--until", "--seconds"])
def test_a_file_or_the_time_stops_it(gpu: FakeGpu, tmp_path: Path, how: str) -> None:
    (tmp_path / "stop").touch()
    value = {"--stop": str(tmp_path / "stop"), "--until": str(time.monotonic()), "--seconds": "0"}[how]
    _, found = run(tmp_path / "k.jsonl", "--only", "fc10", how, value)
    assert [line["event"] for line in found] == ["begin", "cut", "end"]


class Breaks(Side):
    """Side that fails in a case and, if asked, loses its device there."""

    loses = False

    def plans(self, case: Case) -> Sequence[Plan]:
        if case.operation == "fc_dgrad":
            raise RuntimeError("an illegal memory access")
        return [_Nothing()]

    def seconds(self, plan: Plan, count: int) -> list[float]:
        return [2.0] * count

    def synchronize(self) -> None:
        if self.loses:
            raise RuntimeError("the context is lost")


class _Nothing(Plan):
    name = "nothing"

    def load(self, inputs: dict[str, Any]) -> None: ...

    def call(self) -> None: ...

    def bad(self) -> dict[str, tuple[int, int]]:
        return {}

    def results(self) -> dict[str, Any]:
        raise NotImplementedError


@pytest.mark.parametrize("loses", [False, True])
def test_a_row_that_fails_stops_none_and_a_lost_device_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loses: bool
) -> None:
    module: Any = types.ModuleType("broken_side")
    module.Breaks = Breaks
    monkeypatch.setitem(sys.modules, "broken_side", module)
    monkeypatch.setitem(lines.SIDES, "cudnn", "broken_side:Breaks")
    monkeypatch.setattr(Breaks, "loses", loses)
    only = ("--only", "fc10", "--precisions", "fp32")
    status, found = run(tmp_path / "k.jsonl", *only, side="cudnn")
    measured = [line["operation"] for line in found if line.get("plans")]
    (failed,) = [line for line in found if "failed" in line]
    assert failed["failed"] == "RuntimeError: an illegal memory access"
    if not loses:
        assert (status, measured) == (0, ["fc_fprop", "fc_wgrad"])
        return
    assert (status, measured) == (lines.LOST, ["fc_fprop"])
    assert [line["why"] for line in found if line.get("event") == "lost"] == ["the context is lost"]
    # Started again it leaves out what lost the device.
    monkeypatch.setattr(Breaks, "loses", False)
    status, found = run(tmp_path / "k.jsonl", *only, side="cudnn")
    assert (status, [line["operation"] for line in found if "plans" in line]) == (0, ["fc_wgrad"])


def test_a_peer_that_is_missing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gpu(name: str) -> None:
        raise PeerMissing("there is no GPU")

    monkeypatch.setattr("cconvnet.bench.peers.cudnn.gpu", gpu)
    status, found = run(tmp_path / "k.jsonl", side="cudnn")
    assert status == 0 and [line["event"] for line in found] == ["begin"]
    assert found[0]["missing"] == "cuDNN: there is no GPU"


# ---- results -----------------------------------------------------------------------------------------------


def line(side: str, layer: str, seconds: float, **more: Any) -> dict[str, Any]:
    column = more.pop("column", "plan")
    about = {"net": "alexnet", "batch": 128, "precision": "bf16", "operation": "conv_fprop", "products": True}
    plan = {"kernel": f"{side} {layer}", "seconds": seconds, "seconds_min": seconds, "seconds_max": seconds}
    plan |= {"calls": 15, "how": "graph", "launch_seconds": 1e-5, "called_seconds": 2 * seconds}
    own = {"flops": 4_000_000_000, "bytes": 1000} if side == "ours" else {}
    return {"side": side, "layer": layer, **about, **own, "plans": {column: plan}, **more}


def some() -> Iterator[dict[str, Any]]:
    yield {"event": "begin", "side": "cudnn", "about": {"columns": ["best", "strict"], "frontend": "1.32"}}
    yield line("cudnn", "conv1", 6e-5, column="best")
    yield line("cudnn", "conv1_blocks", 3e-5, column="best")
    yield line("cudnn", "conv2", 4e-5, column="best")
    yield {"event": "begin", "side": "pytorch", "missing": "not here"}
    yield {
        "event": "begin", "side": "ours", "about": {"columns": ["plan"], "caches": "cold"},
        "machine": {"device": "cuda:0", "chip": "H200", "module": "m"},
    }  # fmt: skip
    rates = {"bytes_per_second": 1e12, "flops_per_second": 8e14}
    yield {"event": "ceilings", "precision": "bf16", **rates}
    yield line("ours", "conv1", 5e-5, trained=False)
    yield line("ours", "conv1_blocks", 1e-5)
    yield line("ours", "conv2", 2e-5)
    yield line("ours", "conv3", 2e-5) | {"plans": {}, "wrong": {"a": "y is wrong"}}
    yield line("ours", "conv4", 2e-5) | {"plans": {}, "failed": "RuntimeError: it broke"}
    yield {"event": "cut", "side": "ours", "net": "alexnet", "batch": 128, "precision": "bf16"}


def test_lines_become_a_result() -> None:
    (result,) = merging.results(some())
    assert json.loads(json.dumps(result)) == result
    assert (result["net"], result["batch"], result["precision"]) == ("alexnet", 128, "bf16")
    assert result["machine"]["chip"] == "H200" and result["caches"] == "cold"
    assert result["peers"]["pytorch"] == {"missing": "not here"}
    found = {row["layer"]: row for row in result["rows"]}
    assert found["conv2"]["peers"]["cudnn best"]["ratio"] == pytest.approx(2)
    assert found["conv2"]["share"] == pytest.approx(4e9 / 8e14 / 2e-5)
    assert found["conv2"]["flops_per_second"] == pytest.approx(2e14)
    assert found["conv2"]["how"] == "graph" and found["conv2"]["launch_seconds"] == 1e-5
    # Of a first convolution a peer's better form counts, whichever form is ours.
    assert found["conv1"]["peers"]["cudnn best"]["ratio"] == pytest.approx(0.6)
    assert found["conv1"]["peers"]["cudnn best"]["form"] == "conv1_blocks"
    assert found["conv1_blocks"]["peers"]["cudnn best"]["ratio"] == pytest.approx(3)
    assert found["conv3"]["wrong"] == "y is wrong"
    assert found["conv4"]["wrong"] == "RuntimeError: it broke"
    # conv1 as it is given is not what training computes.
    mean = result["summary"]["products"]["cudnn best"]
    assert (mean["rows"], mean["ratio"]) == (2, pytest.approx(6**0.5))


def test_a_result_of_lines_can_be_shown_as_a_table() -> None:
    (result,) = merging.results(some())
    table = Table(result, ["conv1_blocks"])
    text = "\n".join([*table.head(), *(t for row in result["rows"] for t in table.row(row)), *table.foot()])
    assert "launch us" in text and "pytorch is not compared: not here" in text
    assert "2 of our results are wrong" in text


@pytest.mark.parametrize(("precision", "kept"), [("fp32", "cudnn strict"), ("tf32", "cudnn best")])
def test_the_best_peer_keeps_to_the_precision(precision: str, kept: str) -> None:
    peers = {"cudnn best": 1.0, "cudnn strict": 3.0, "pytorch": 4.0}
    row = {
        "peers": {name: {"seconds": s, "ratio": s} for name, s in peers.items()} | {"other": {"refused": ""}}
    }
    best = merging.best_peer(row, precision)
    assert best is not None and best[0] == kept
    assert merging.best_peer({}, precision) is None


# ---- our step ----------------------------------------------------------------------------------------------


def test_a_step_in_every_form(gpu: FakeGpu, tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    arguments = ["--net", "tiny", "--batch", "2", "--steps", "2", "--device", "cuda:0", "--json", str(path)]
    assert step_forms.main([*arguments, "--precisions", "fp32,bf16"]) == 0
    found = list(lines.read(path))
    last = {line["precision"]: line for line in found}
    assert set(last) == {"fp32", "bf16"} and len(found) == 2 * 5
    for line in last.values():
        assert list(line["forms"]) == ["pinned", "pageable", "pipelined", "replay"]
        for form in line["forms"].values():
            assert form["images_per_second"] == pytest.approx(2 / form["seconds"])
        assert line["forms"]["pinned"]["seconds_min"] >= LAUNCH  # of the images' transform
        assert len(set(line["losses"])) == 4 and line["machine"]["chip"] == "none"
    assert gpu.captures == 2  # a network captures its step once, and replays it from then on
    assert gpu.replays == 2 * (step_forms.WARMUP - 1 + 2 * (1 + 2) + (3 + 2) + 2)
    pageable = 2 * (1 + 2)
    assert gpu.fed.count(np.ndarray) == pageable and gpu.fed.count(Pinned) == len(gpu.fed) - pageable > 0


def test_steps_without_time_and_steps_that_fail_say_so(
    gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.jsonl"
    arguments = ["--net", "tiny", "--device", "cuda:0", "--json", str(path), "--precisions"]
    assert step_forms.main([*arguments, "fp32", "--seconds", "0"]) == 0
    monkeypatch.setattr(step_forms, "step_forms", lambda *arguments: 1 / 0)
    assert step_forms.main([*arguments, "bf16"]) == 1
    texts = [line["failed"] for line in lines.read(path)]
    assert texts == ["no time was left", "ZeroDivisionError: division by zero"]


def test_forms_off_the_gpu() -> None:
    line = step_forms.step_forms(step_forms.tiny(), get_device("cpu:0"), 2, "fp32", 1)
    assert set(line["forms"]) == {"pinned", "pageable", "pipelined", "replay"}
    assert LAUNCH > 0 and line["loss"] > 0
