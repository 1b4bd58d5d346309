"""Recorder of a step's operations, their floors, and results of `cconvnet bench roofline`."""

from __future__ import annotations

import collections
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cconvnet import nets
from cconvnet._problem import ConvProblem
from cconvnet.bench import charts
from cconvnet.bench.cost import Work
from cconvnet.bench.peaks import Peaks
from cconvnet.bench.roofline import Call, Recorder, label_of, roofline, rows, table, totals, verdict
from cconvnet.devices import Device, get_device, registry
from cconvnet.nets import alexnet
from cconvnet.network import Network
from cconvnet.network.synthetic import Training

PEAKS = Peaks(bytes_per_second=1e10, flops_per_second=1e11)
FLOAT = 4
TOWERS = alexnet.build(image_shape=(64, 64, 3), classes=10, width=1 / 16)


class Time:
    """A clock that is moved on by whoever works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def measured(net: str = "lenet", device: str = "cpu:0", batch: int = 3, **more: Any) -> dict[str, Any]:
    return roofline(net, devices=device.split(","), batch=batch, steps=2, warmup=0, peaks=PEAKS, **more)


def one(result: dict[str, Any], layer: str, operation: str) -> dict[str, Any]:
    (row,) = (r for r in result["rows"] if (r["layer"], r["operation"]) == (layer, operation))
    found: dict[str, Any] = row
    return found


@pytest.fixture(scope="module")
def lenet() -> dict[str, Any]:
    return measured()


def test_every_layer_has_its_passes(lenet: dict[str, Any]) -> None:
    passes = collections.defaultdict(list)
    for row in lenet["rows"]:
        passes[row["layer"]].append((row["pass"], row["operation"]))
    pool = [("forward", "maxpool_forward"), ("backward", "maxpool_backward")]

    def product(kind: str, *between: tuple[str, str]) -> list[tuple[str, str]]:
        return [("fprop", f"{kind}_fprop"), *between, ("wgrad+update", f"{kind}_wgrad")]

    assert passes == {
        "data": [("forward", "input_transform")],
        "conv1": [*product("conv"), ("update", "sgd_update")],
        "pool1": pool,
        "conv2": product("conv", ("dgrad", "conv_dgrad")),
        "pool2": pool,
        "fc1": product("fc", ("dgrad", "fc_dgrad")),
        "fc2": product("fc", ("backward", "bias_grad"), ("dgrad", "fc_dgrad")),
        "cost": [("forward", "softmax_cross_entropy"), ("update", "watch_losses")],
    }


def test_rows_stand_in_the_order_of_a_step(lenet: dict[str, Any]) -> None:
    order = [row["layer"] for row in lenet["rows"]]
    forward = ["data", "conv1", "pool1", "conv2", "pool2", "fc1", "fc2", "cost"]
    assert order[: len(forward)] == forward
    backward = ["fc2", "fc1", "pool2", "conv2", "pool1", "conv1"]
    assert list(dict.fromkeys(order[len(forward) :])) == ["cost", *backward]


def test_operations_of_the_products_add_up(lenet: dict[str, Any]) -> None:
    n = 3
    # Multiply-adds of lenet on 8x8x1: 5x5 convolutions that keep 8x8 and 4x4, then 200 -> 500 -> 10.
    first, others = n * 64 * 20 * 25, n * (16 * 50 * 25 * 20 + 2 * 2 * 50 * 500 + 500 * 10)
    # The first layer's images need no gradient.
    assert sum(row["flops"] for row in lenet["rows"]) == 2 * (3 * (first + others) - first)


def test_bytes_by_hand(lenet: dict[str, Any]) -> None:
    n = 3
    x, y = n * 8 * 8 * 1, n * 8 * 8 * 20
    weights, bias = 20 * 25, 20
    assert one(lenet, "conv1", "conv_fprop")["bytes"] == FLOAT * (x + weights + bias + y)
    # The velocity and the weights are read and written, the gradient never is.
    assert one(lenet, "conv1", "conv_wgrad")["bytes"] == FLOAT * (x + y + 4 * weights)
    pooled = n * 4 * 4 * 20
    assert one(lenet, "pool1", "maxpool_forward")["bytes"] == FLOAT * (y + pooled)
    # With the gradient of conv1's bias.
    assert one(lenet, "pool1", "maxpool_backward")["bytes"] == FLOAT * (y + pooled + pooled + y + bias)
    # fc1's output masks its gradient.
    dy, weights, x = n * 10, 500 * 10, n * 500
    assert one(lenet, "fc2", "fc_dgrad")["bytes"] == FLOAT * (dy + weights + x + x + 500)
    # The gradients are read, the velocities and all biases are read and written. 50 and 10 are padded.
    update = one(lenet, "conv1", "sgd_update")
    assert (update["bytes"], update["calls"]) == (FLOAT * 5 * (20 + 52 + 500 + 12), 1)


def test_bytes_in_bfloat16() -> None:
    result = measured(precision="bf16")
    n = 3
    x, y, weights, bias = n * 8 * 8 * 1, n * 8 * 8 * 20, 20 * 25, 20
    assert one(result, "conv1", "conv_fprop")["bytes"] == 2 * (x + weights + y) + FLOAT * bias
    # Velocity and weights stay floats; the rounded weights are written beside them.
    wgrad = one(result, "conv1", "conv_wgrad")
    assert (wgrad["pass"], wgrad["bytes"]) == ("wgrad+update", 2 * (x + y + weights) + FLOAT * 4 * weights)


def test_layers_that_are_computed_together_share_a_row() -> None:
    result = measured(TOWERS, batch=2)
    operations = collections.defaultdict(list)
    for row in result["rows"]:
        operations[row["layer"]].append(row["operation"])
    (pooled,) = (name for name, found in operations.items() if "lrn_maxpool_forward" in found and "1" in name)
    assert "+" in pooled and "lrn_maxpool_backward" in operations[pooled]
    (dropped,) = (name for name in operations if name.startswith("fc6+"))
    assert {"fc_fprop", "fc_wgrad"} <= set(operations[dropped])
    assert "relu_bias_backward" not in operations[dropped]


def test_products_with_zeros_are_not_asked_for() -> None:
    """The emulator, as a GPU, takes images in blocks, whose filters are padded with zeros."""
    flops = [
        one(measured(TOWERS, device=device, batch=1), "conv1", "conv_fprop")["flops"]
        for device in ("cpu:0", "emulator:0")
    ]
    assert flops[0] == flops[1]


def test_bytes_of_an_lrn_by_hand() -> None:
    spec = nets.build("cifar-18pct")
    recorder, network = recorded(spec, 2, "cpu:0")
    recorder.recording = True
    network.forward(train=True)
    network.backward()
    calls = [call for call in recorder.take() if call.operation.startswith("lrn")]
    shapes = {layer.name: layer.output.shape for layer in network.layers}
    forward, backward = calls[0], calls[-1]
    assert (forward.operation, backward.operation) == ("lrn_forward", "lrn_backward")
    assert forward.layer == backward.layer
    size = FLOAT * int(np.prod(shapes[forward.layer]))
    assert (forward.work, backward.work) == (Work(0, 2 * size), Work(0, 3 * size))


def recorded(spec: Any, batch: int, *devices: str) -> tuple[Recorder, Network]:
    recorder = Recorder()
    network = Network(spec, batch=batch, devices=[recorder.device(get_device(name)) for name in devices])
    recorder.watch(network)
    training = Training(network)
    training.step()
    assert recorder.take() == []  # nothing is noted unasked
    return recorder, network


def test_the_floor_is_the_longer_of_arithmetic_and_traffic(lenet: dict[str, Any]) -> None:
    for row in lenet["rows"]:
        calls = row["calls"]
        least = max(row["flops"] / 1e11, row["bytes"] / 1e10)
        assert row["floor_seconds"] == pytest.approx(least) or calls > 1
        assert row["share"] == pytest.approx(row["floor_seconds"] / row["seconds"])
        assert row["lost_seconds"] == pytest.approx(row["seconds"] - row["floor_seconds"])


class Slow:
    """A module in which every call takes a time of the fake clock, one operation far more."""

    def __init__(self, module: Any, time: Time, slow: str) -> None:
        self._module, self._time, self._slow = module, time, slow

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if name.endswith(("_workspace", "_impls")):
            return value

        def call(*arguments: Any, **rest: Any) -> Any:
            self._time.now += 0.5 if name == self._slow else 0.001
            return value(*arguments, **rest)

        return call


def slow_device(monkeypatch: pytest.MonkeyPatch, time: Time, operation: str) -> None:
    original = get_device("cpu:0")
    device = copy.copy(original)
    device.module = Slow(original.module, time, operation)

    def make(kind: str, index: int) -> Device:
        return device

    monkeypatch.setattr(registry, "_make", make)


@pytest.mark.parametrize("operation", ["maxpool_backward", "fc_dgrad", "sgd_update", "watch_losses"])
def test_a_planted_slow_down_is_seen(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    time = Time()
    slow_device(monkeypatch, time, operation)
    result = measured(clock=time)
    worst = max(result["rows"], key=lambda row: row["lost_seconds"])
    assert worst["operation"] == operation
    assert worst["seconds"] == pytest.approx(0.5 * worst["calls"])
    assert result["furthest"][0]["layer"] in {
        row["layer"] for row in result["rows"] if row["operation"] == operation
    }
    others = [row for row in result["rows"] if row["operation"] != operation]
    assert all(row["seconds"] == pytest.approx(0.001 * row["calls"]) for row in others)
    # All time went by in operations.
    step = result["step"]
    assert step["seconds"] == pytest.approx(step["recorded_seconds"])
    assert step["rest_seconds"] == pytest.approx(0, abs=1e-9)
    assert result["furthest"][0]["layer"] in verdict(result)[-1].split(",")[0]


def test_recording_changes_nothing() -> None:
    spec = nets.build("lenet")
    plain = Network(spec, batch=2, devices="cpu:0")
    recorder = Recorder()
    watched = Network(spec, batch=2, devices=recorder.device(get_device("cpu:0")))
    recorder.watch(watched)
    recorder.recording = True
    losses = [[training.step() for _ in range(2)] for training in map(Training, (plain, watched))]
    assert losses[0] == losses[1]
    for name, value in plain.state().items():
        np.testing.assert_array_equal(value, watched.state()[name])
    assert not isinstance(get_device("cpu:0").module, type(watched.devices[0].module))


def test_towers_on_two_devices() -> None:
    recorder, network = recorded(TOWERS, 2, "cpu:0", "cpu:1")
    recorder.recording = True
    Training(network).step()
    calls = recorder.take()
    first, second = ({call.layer for call in calls if call.device == name} for name in ("cpu:0", "cpu:1"))
    assert first - second == {"fc8", "cost"}
    assert second - first == set()


def test_a_gradient_from_several_readers_belongs_to_its_layer() -> None:
    recorder, network = recorded(TOWERS, 2, "cpu:0", "cpu:1")
    recorder.recording, recorder.phase = True, "backward"
    network.backward()
    adds = [call for call in recorder.take() if call.operation == "add"]
    shared = {label_of(layer) for layer in network.layers if layer.output.more_gradients}
    assert shared and {call.layer for call in adds} == shared
    assert {call.part for call in adds} == {"backward"}


def test_a_network_on_devices_that_are_not_recorded() -> None:
    network = Network(nets.build("lenet"), batch=1, devices="cpu:0")
    with pytest.raises(ValueError, match="cpu:0 is not recorded"):
        Recorder().watch(network)


def test_layers_placed_by_a_device_name_are_recorded_too() -> None:
    result = measured(device="cpu:0,cpu:1", places={"fc1": "cpu:1"})
    where = {row["layer"]: row["device"] for row in result["rows"]}
    assert (where["conv2"], where["fc1"], where["fc2"]) == ("cpu:0", "cpu:1", "cpu:1")
    assert "device" in table(result)[0]


def test_the_emulator() -> None:
    result = measured(device="emulator:0", batch=1)
    assert {row["layer"] for row in result["rows"]} >= {"data", "conv1", "fc2", "cost"}
    assert all(row["seconds"] > 0 for row in result["rows"])
    module, row = get_device("emulator:0").module, one(result, "conv2", "conv_fprop")
    assert row["kernel"] == module.conv_fprop_impls(ConvProblem(1, 4, 4, 20, 50, 5, 5, (1, 1), (2, 2)))[0]


class FakeEvent:
    """Event like CuPy's, which records when the stream reached it."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self.at = -1.0
        self.waited = False

    def record(self, stream: Any) -> None:
        self.at = self._time.now

    def synchronize(self) -> None:
        self.waited = True


def test_gpu_calls_stand_between_two_events() -> None:
    """No GPU is needed: the device only seems to be one."""
    time = Time()
    events: list[FakeEvent] = []

    class Cuda:
        @staticmethod
        def Event() -> FakeEvent:
            events.append(FakeEvent(time))
            return events[-1]

        @staticmethod
        def ExternalStream(pointer: int) -> int:
            return pointer

        @staticmethod
        def get_elapsed_time(begin: FakeEvent, end: FakeEvent) -> float:
            assert end.waited
            return 1e3 * (end.at - begin.at)

    class Module:
        @staticmethod
        def relu_forward(x: Any, y: Any, stream: int) -> None:
            time.now += 0.25

    device = copy.copy(get_device("cpu:0"))
    device.kind, device.stream = "cuda", 7
    device.module, device.xp = Module(), type("Xp", (), {"cuda": Cuda})
    recorder = Recorder()
    watched = recorder.device(device)
    recorder.recording = True
    x = np.zeros(8, np.float32)
    for _ in range(3):
        watched.module.relu_forward(x, x, 7)
    assert [call.seconds for call in recorder.calls] == [None] * 3
    assert [call.seconds for call in recorder.take()] == [0.25] * 3
    assert recorder.take() == []


def test_rows_take_the_median_of_the_steps() -> None:
    def call(layer: str, seconds: float) -> Call:
        return Call(layer, "cpu:0", "update", "sgd_update", "sgd_update", Work(0, 10**9), seconds)

    steps = [[call("a", t), call("b", 1.0), call("a", t)] for t in (5.0, 1.0, 2.0)]
    first, second = rows(steps, PEAKS, {"a": "fc", "b": "fc"})
    assert (first["layer"], first["seconds"], first["calls"], first["bytes"]) == ("a", 4.0, 2, 2 * 10**9)
    assert first["floor_seconds"] == pytest.approx(0.2)
    assert second["seconds"] == 1.0
    found = totals([first, second], [6.0])
    assert found["step"]["rest_seconds"] == pytest.approx(1.0)
    assert found["step"]["share"] == pytest.approx(0.3 / 6)
    assert [own["layer"] for own in found["furthest"]] == ["a", "b"]


def test_each_pair_of_steps_leaves_a_whole_result() -> None:
    seen: list[str] = []
    measured(found=lambda result: seen.append(json.dumps(result)))
    assert len(seen) == 2
    for text in seen:
        result = json.loads(text)
        assert result["what"] == "roofline" and result["rows"] and result["step"] and result["furthest"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"steps": 0}, "--steps"), ({"batch": 0}, "--batch"), ({"precision": "tf32"}, "cpu:0")],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        roofline("lenet", devices=["cpu:0"], peaks=PEAKS, **arguments)


def test_the_table_tells_all_rows(lenet: dict[str, Any]) -> None:
    header, lines = table(lenet)
    assert len(lines) == len(lenet["rows"])
    assert all(len(line) == len(header) for line in lines)
    assert "device" not in header


def test_pictures(lenet: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = json.loads(json.dumps(lenet))  # they can be drawn from files
    for draw, words in (
        (charts.roofline, ["GFLOP/s", "conv2", "update"]),
        (charts.step_stack, ["pool2", "floor"]),
    ):
        draw(result, tmp_path / "picture.svg")
        text = (tmp_path / "picture.svg").read_text()
        assert all(f"<!-- {word}" in text or word in text for word in words)
        with pytest.raises(ValueError, match="nothing to draw"):
            draw({**result, "rows": []}, tmp_path / "none.svg")
