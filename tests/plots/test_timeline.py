"""A traced step: each layer and pass once, in order and complete; the same weights; its picture and files."""

from __future__ import annotations

import collections
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import commands
from PIL import Image

from cconvnet import devices, nets
from cconvnet.console import Silent
from cconvnet.nets import alexnet
from cconvnet.network import Network, tracing
from cconvnet.network.synthetic import Training
from cconvnet.network.tracing import Record, Span, Tracer, record
from cconvnet.plots import timeline as draw
from cconvnet.training.options import Options
from cconvnet.training.session import train

pytest.importorskip("matplotlib")
module: Any = sys.modules["cconvnet.plots.timeline"]  # its name is the function's too


def lenet(devices: str = "cpu:0") -> Network:
    return Network(nets.build("lenet"), batch=4, devices=devices)


def two_towers() -> Network:
    spec = alexnet.build(width=1 / 16, image_shape=(67, 67, 3), classes=10)
    return Network(spec, batch=2, devices=["cpu:0", "cpu:1"])


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by a second at each reading."""
    now = iter(range(10**9))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)))


def order(spans: list[Span], what: str) -> list[str]:
    return [span.layer for span in spans if span.what == what]


# ---- what is traced --------------------------------------------------------------------------------------


def test_every_layer_and_pass_once_and_in_order() -> None:
    network = lenet()
    spans, _ = Tracer(network).trace(Training(network).step)
    layers = ["conv1", "pool1", "conv2", "pool2", "fc1", "fc2", "cost"]
    assert order(spans, "load") == ["data"]
    assert order(spans, "forward") == ["data", *layers]
    assert order(spans, "check") == ["cost"]
    assert order(spans, "backward") == layers[::-1]
    assert order(spans, "update") == ["conv1"]  # of all biases
    assert order(spans, "copy") == []
    assert [span.what for span in spans] == sorted((s.what for s in spans), key=tracing.PASSES.index)
    assert {span.lane for span in spans} == {"cpu:0"}


def test_layers_computed_together_are_one() -> None:
    network = Network(
        alexnet.build(width=1 / 16, image_shape=(67, 67, 3), classes=10), batch=2, devices="cpu:0"
    )
    spans, _ = Tracer(network).trace(Training(network).step)
    assert "lrn1+pool1" in order(spans, "forward")
    assert "fc6+dropout6" in order(spans, "backward")


def test_the_copies_of_two_devices() -> None:
    network = two_towers()
    spans, _ = Tracer(network).trace(Training(network).step)
    copies = collections.Counter((span.layer, span.lane) for span in spans if span.what == "copy")
    expected: collections.Counter[tuple[str, str]] = collections.Counter()
    names = {name: "+".join(layer.names) for layer in network.layers for name in layer.names}
    for copy in network.describe()["copies"]:
        expected[names[copy["source"]], f"{copy['from']} to {copy['to']}"] += 1
        if copy["gradient_bytes"]:
            expected[names[copy["source"]], f"{copy['to']} to {copy['from']}"] += 1
    assert copies == expected
    assert copies
    found = record(network, steps=1, warmup=0)
    assert found.lanes == ["cpu:0", "cpu:1", "cpu:0 to cpu:1", "cpu:1 to cpu:0"]
    for lane in ("cpu:0", "cpu:1"):
        passes = [(span.layer, span.what) for span in spans if span.lane == lane and span.what != "update"]
        assert len(set(passes)) == len(passes)
        assert ("conv2", "forward") in passes
        assert ("conv2", "backward") in passes
    pieces = sum(len(parameter.pieces) for parameter in network.parameters.values())
    assert len(order(spans, "update")) == pieces


def test_spans_follow_each_other_and_add_up(ticks: None) -> None:
    """With a clock that only moves when it is read, the time in no layer is that between two spans."""
    network = two_towers()
    found = record(network, steps=1, warmup=0)
    for one, other in zip(found.spans, found.spans[1:], strict=False):
        assert one.end <= other.begin
    assert all(span.seconds >= 1 for span in found.spans)
    busy = sum(span.seconds for span in found.spans)
    assert found.unaccounted == pytest.approx(found.seconds - busy)
    assert 0 < found.unaccounted < found.seconds
    assert found.spans[0].begin >= 0
    assert found.spans[-1].end <= found.seconds


def test_overlapping_spans_are_counted_once() -> None:
    spans = [
        Span("a", "forward", "cuda:0", 1.0, 4.0),
        Span("a", "copy", "cuda:0 to cuda:1", 2.0, 3.0),
        Span("b", "forward", "cuda:1", 3.5, 5.0),
        Span("c", "forward", "cuda:1", 7.0, 8.0),
    ]
    made = Record("n", 1, "fp32", ["cuda:0", "cuda:1"], [], spans, 10.0, 9.0, 1)
    assert made.unaccounted == pytest.approx(1.0 + 2.0 + 2.0)
    assert made.totals()[0]["forward"] == 3.0
    assert made.totals()[0]["copy"] == 1.0


def test_the_median_step_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5.0, 1.0, 9.0, 2.0, 3.0])
    monkeypatch.setattr(Tracer, "trace", lambda self, step: ([], next(times)))
    assert record(lenet(), steps=5, warmup=0).seconds == 3.0


@pytest.mark.parametrize("network", [lenet, two_towers])
def test_tracing_changes_no_bit(network: Any) -> None:
    plain, traced = network(), network()
    one, other = Training(plain), Training(traced)
    one.lr = other.lr = 0.01
    for _ in range(3):
        one.step()
        Tracer(traced).trace(other.step)
    assert traced.runner.observer is None
    for name, tensor in plain.state().items():
        np.testing.assert_array_equal(tensor, traced.state()[name], err_msg=name)


def test_a_step_that_fails_leaves_the_network_as_it_was() -> None:
    network = lenet()

    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        Tracer(network).trace(fail)
    assert network.runner.observer is None


def test_a_traced_step_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    network = lenet("emulator:0")
    captured = []
    monkeypatch.setattr(devices.Device, "captured", lambda self, work: captured.append(work) or work)
    training = Training(network)
    for _ in range(3):
        Tracer(network).trace(training.step)
    assert not captured
    training.step()
    training.step()
    assert len(captured) == 1


# ---- files -----------------------------------------------------------------------------------------------


def test_trace_events_say_what_the_record_says() -> None:
    found = record(two_towers(), steps=1, warmup=0)
    events = json.loads(json.dumps(found.chrome_trace()))["traceEvents"]
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert list(lanes.values()) == found.lanes
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == len(found.spans)
    for event, span in zip(complete, found.spans, strict=True):
        assert event["name"] == f"{span.layer} {span.what}"
        assert lanes[event["tid"]] == span.lane
        assert event["ts"] == pytest.approx(1e6 * span.begin)
        assert event["dur"] == pytest.approx(1e6 * span.seconds)


def test_the_picture(tmp_path: Path) -> None:
    draw(record(two_towers(), steps=1, warmup=0), tmp_path / "step.png")
    pixels = np.asarray(Image.open(tmp_path / "step.png").convert("RGB"))
    for what in ("forward", "backward", "update", "copy"):
        color = np.array([int(module.PASS_COLORS[what][i : i + 2], 16) for i in (1, 3, 5)])
        assert (np.abs(pixels.astype(int) - color).sum(axis=2) < 12).any(), what


def test_the_costliest_come_first_and_nothing_is_left_out() -> None:
    spans = [Span(f"l{i}", "forward", "cpu:0", i, i + 0.01 * (i % 7 + 1)) for i in range(30)]
    made = Record("n", 1, "fp32", ["cpu:0"], ["cpu:0"], spans, 30.0, 30.0, 1)
    rows = module.costliest(made)
    assert len(rows) == module._MAX_LAYERS + 2
    assert rows[-2]["layer"] == "14 others"
    assert sum(map(module.total, rows)) == pytest.approx(30.0)
    costs = [module.total(row) for row in rows[:-2]]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.4512, "2.45 s"), (12.34, "12.3 s"), (123.4, "123 s"), (0.0512, "51.2 ms"), (3e-6, "3.00 µs")],
)
def test_times(seconds: float, text: str) -> None:
    assert module.in_time(seconds) == text


# ---- the command -----------------------------------------------------------------------------------------


def test_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(Options(devices=["cpu:0"], batch=8, steps=2, out=run), Silent(io.StringIO()))
    before = {file.name for file in run.iterdir()}
    done = commands.run(
        "plot", "timeline", run, "--steps", 1, "--json", "-", "--trace", tmp_path / "trace.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["net"], found["batch"], found["devices"]) == ("lenet", 8, ["cpu:0"])
    assert found["layers"][0]["layer"] == "data"
    assert {file.name for file in run.iterdir()} == before | {"timeline.png"}
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_of_a_network(tmp_path: Path) -> None:
    done = commands.run(
        "plot",
        "timeline",
        "--net",
        "lenet",
        "--batch",
        4,
        "--device",
        "cpu:0,cpu:1",
        "--place",
        "fc1=1",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    about, where = done.stdout.splitlines()
    assert about.startswith("batch 4, fp32, cpu:0, cpu:1: ")
    assert where == "timeline.png"
    assert (tmp_path / where).exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "one of the two is needed: a run's folder, or --net"),
        (["nowhere", "--net", "lenet"], "one of the two is needed"),
        (["--net", "lenet", "--steps", "0"], "--steps must be at least 1, not 0"),
        (["--net", "lenet", "--out", "a.txt"], "a.txt must end with a kind of picture"),
        (["--net", "lenet", "--trace", "no/a.json"], "no/a.json cannot be written"),
        (["--net", "lenet", "--batch", "5", "--shards", "2"], "--batch 5 must be a multiple of --shards 2"),
        (["--net", "lenet", "--wire", "fp8"], "--wire must be fp32 or bf16, not 'fp8'"),
        (["nowhere"], "nowhere is not a run"),
    ],
)
def test_refused(tmp_path: Path, arguments: list[str], text: str) -> None:
    done = commands.run("plot", "timeline", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {text}")
