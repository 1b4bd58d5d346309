"""Fused layers, images in blocks, and the captured training step, each against the unfused way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import (
    ALEXNET,
    CHAINS,
    assert_equal,
    batch_of,
    conv,
    gradients,
    net_of,
    step_by_step,
    train,
    two_devices,
)

from cconvnet import nets
from cconvnet.devices import Device, get_device
from cconvnet.nets import (
    RELU,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    LayerSpec,
    LrnSpec,
    NetSpec,
    Neuron,
    NeuronSpec,
    PoolSpec,
    SumSpec,
    alexnet_2012,
)
from cconvnet.network import Network


@pytest.fixture
def plain_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use images without blocks, which change the order of conv1's sums."""
    monkeypatch.setattr(Device, "prefers_blocks", lambda self, precision: False)


def assert_gradients_equal(plain: Network, fused: Network) -> None:
    found = gradients(fused)
    for name, gradient in gradients(plain).items():
        assert np.array_equal(found[name], gradient), name


# ---- fused layers ----------------------------------------------------------------------------------------


def test_what_is_fused() -> None:
    network = Network(CHAINS, batch=2, devices="cpu:0")
    fused = [layer.names for layer in network.layers if len(layer.names) > 1]
    assert fused == [["norm", "pool"], ["b", "drop-b"], ["plain", "drop-plain"], ["relu", "drop-relu"]]
    plain = Network(CHAINS, batch=2, devices="cpu:0", fuse=False)
    assert [layer.names for layer in plain.layers] == [[layer.name] for layer in CHAINS.layers]
    assert network.describe()["layers"] == plain.describe()["layers"]


# Residual sums of two and of three, with coefficients; one is read twice, so that its ReLU is a layer alone.
SUMS = net_of(
    conv("trunk", 6, neuron=RELU),
    conv("left", 6),
    SumSpec(name="first", inputs=("left", "trunk")),
    NeuronSpec(name="first-relu"),
    conv("right", 6),
    SumSpec(name="second", inputs=("right", "first-relu", "trunk"), coeffs=(1, -0.5, 2)),
    NeuronSpec(name="second-relu"),
    SumSpec(name="third", inputs=("second-relu", "left")),
    NeuronSpec(name="third-relu"),
    SumSpec(name="fourth", inputs=("third", "third-relu")),
)


def test_a_sum_takes_its_relu_along() -> None:
    network = Network(SUMS, batch=2, devices="cpu:0")
    fused = [layer.names for layer in network.layers if len(layer.names) > 1]
    assert fused == [["first", "first-relu"], ["second", "second-relu"]]


@pytest.mark.parametrize("spec", [CHAINS, ALEXNET, SUMS], ids=["chains", "alexnet", "sums"])
@pytest.mark.usefixtures("plain_images")
def test_fused_layers_are_bitwise_the_plain_ones(device: Device, spec: NetSpec, element: str) -> None:
    plain, fused = (
        Network(spec, batch=3, devices=device, seed=2, precision=element, fuse=fuse) for fuse in (False, True)
    )
    for network in (plain, fused):
        network.load(**batch_of(spec, 3))
        network.forward(train=True, step=3)
        network.backward()
    for layer in spec.layers:
        assert np.array_equal(plain.outputs(layer.name), fused.outputs(layer.name)), layer.name
    assert_gradients_equal(plain, fused)
    assert train(plain, 2) == train(fused, 2)
    assert_equal(plain.state(), fused.state())


@pytest.mark.usefixtures("plain_images")
def test_towers_are_fused_bitwise_too(device: Device) -> None:
    spec = alexnet_2012.build((67, 67, 3), 10, width=1 / 24)
    plain, fused = (Network(spec, batch=2, devices=device, towers=2, fuse=fuse) for fuse in (False, True))
    assert any(len(layer.names) > 1 for layer in fused.layers)
    train(plain, 2), train(fused, 2)
    assert_gradients_equal(plain, fused)


def gradients_of(*layers: LayerSpec) -> Any:
    return Network(net_of(*layers), batch=2, devices="cpu:0").describe()["fused_gradients"]


POOLED = PoolSpec(name="pool", window=(2, 2), stride=(2, 2))


@pytest.mark.parametrize(
    ("layers", "fused"),
    [
        ([conv("a", neuron=RELU), conv("b")], {"a": "b", "b": None}),
        ([conv("a", neuron=RELU), POOLED, conv("b", neuron=RELU)], {"a": "pool", "b": None}),
        ([conv("a"), PoolSpec(name="pool", pool="avg", window=(2, 2))], {"a": "pool"}),
        ([conv("a", neuron=RELU, bias=None), conv("b")], {"a": None}),
        ([conv("a", neuron=Neuron("tanh")), POOLED], {"a": None}),
        ([conv("a", neuron=RELU), DropoutSpec(name="drop", keep=0.7), POOLED], {"a": "pool"}),
        ([conv("a"), DropoutSpec(name="drop", keep=0.7), POOLED], {"a": None}),
        ([FcSpec(name="a", outputs=8, neuron=RELU), FcSpec(name="b", outputs=8)], {"a": "b", "b": "last"}),
        ([conv("a", neuron=RELU), LrnSpec(name="norm", size=3, alpha=0.3), POOLED], {"a": "pool"}),
        ([conv("a", neuron=RELU), LrnSpec(name="norm", size=3, alpha=0.3)], {"a": None}),
        ([conv("a", neuron=RELU), conv("b"), SumSpec(name="sum", inputs=("a", "b"))], {"a": None, "b": None}),
        (
            [
                conv("a", neuron=RELU),
                conv("b", inputs=("data",), neuron=RELU),
                FcSpec(name="both", inputs=("a", "b"), outputs=8),
            ],
            {"a": None, "b": None},
        ),
        (
            [
                FcSpec(name="a", outputs=8, neuron=RELU),
                FcSpec(name="b", inputs=("data",), outputs=6, neuron=RELU),
                FcSpec(name="both", inputs=("a", "b"), outputs=8),
            ],
            {"a": "both", "b": "both"},
        ),
    ],
    ids=lambda value: "-".join(layer.name for layer in value) if isinstance(value, list) else None,
)
def test_which_gradients_are_fused(layers: list[LayerSpec], fused: dict[str, str | None]) -> None:
    """A layer's only reader computes them, if a bias of the layer serves a channel of the reader."""
    found = gradients_of(*layers)
    assert {name: found.get(name) for name in fused} == fused


def test_gradients_are_not_fused_across_devices_or_without_fusion(device: Device) -> None:
    assert Network(ALEXNET, batch=2, devices=device, fuse=False).describe()["fused_gradients"] == {}
    devices = two_devices(device)
    spec = net_of(conv("a", neuron=RELU, device=0), conv("b", neuron=RELU, device=1), conv("c", device=1))
    found = Network(spec, batch=2, devices=devices).describe()["fused_gradients"]
    assert found == {"b": "c"}


def test_a_layer_with_a_second_reader_is_not_fused() -> None:
    norm = LrnSpec(name="norm", size=3, alpha=0.3)
    spec = net_of(
        conv("a", neuron=RELU),
        norm,
        PoolSpec(name="pool", window=(3, 3), stride=(2, 2)),
        FcSpec(name="fc", inputs=("pool", "norm"), outputs=8, neuron=RELU),
    )
    network = Network(spec, batch=2, devices="cpu:0")
    assert all(len(layer.names) == 1 for layer in network.layers)


# ---- images in blocks ------------------------------------------------------------------------------------


def strided(window: tuple[int, int], stride: tuple[int, int], **values: Any) -> ConvSpec:
    return ConvSpec(name="first", filters=5, window=window, stride=stride, neuron=RELU, **values)


@pytest.mark.parametrize(
    ("first", "image", "in_blocks"),
    [
        (strided((11, 11), (4, 4)), (35, 35), True),
        (strided((7, 5), (3, 3), padding=(2, 2)), (19, 22), True),
        (strided((2, 2), (2, 2), padding=(1, 1)), (8, 10), True),
        (strided((3, 3), (2, 2), rounding="ceil"), (9, 11), True),
        (strided((3, 3), (2, 2), rounding="ceil"), (9, 12), True),
        (strided((11, 11), (4, 4), rounding="ceil"), (32, 33), True),
        (strided((5, 5), (4, 4), padding=(1, 1), rounding="ceil"), (14, 15), True),
        (strided((5, 5), (1, 1)), (9, 9), False),
        (strided((5, 5), (2, 3)), (9, 9), False),
        (strided((2, 2), (3, 3)), (9, 9), False),
        (strided((5, 5), (2, 2), padding=(2, 1)), (9, 9), False),
    ],
    ids=lambda value: f"{value.window}/{value.stride}" if isinstance(value, ConvSpec) else None,
)
def test_a_convolution_over_blocks_is_the_convolution(
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    first: ConvSpec,
    image: tuple[int, int],
    in_blocks: bool,
    element: str,
) -> None:
    """Weights and images whose sums have no rounding give exactly the same."""
    spec = net_of(first, image=(*image, 3), stored=(image[0] + 2, image[1] + 3))
    found = []
    for blocks in (True, False):
        monkeypatch.setattr(Device, "prefers_blocks", lambda self, precision, blocks=blocks: blocks)
        network = Network(spec, batch=3, devices=device, precision=element)
        (images,) = network.graph.inputs.values()
        assert (images.problem.block > 1) == (in_blocks and blocks)
        state = network.state()
        draws = np.random.default_rng(1)
        weights = state["first.weight"]
        state["first.weight"] = draws.integers(-2, 3, weights.shape).astype(np.float32)
        network.load_state(state)
        network.load(**{**batch_of(spec, 3), "shift": None})
        network.forward(train=True)
        network.backward()
        gradient = network.parameters["first.weight"].host("gradient")
        found.append((network.outputs("data"), network.outputs("first"), gradient))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5 if element == "fp32" else 1e-2, atol=1e-6)
    assert np.array_equal(found[0][0], found[1][0])


def test_images_with_another_reader_are_not_cut() -> None:
    spec = net_of(
        strided((4, 4), (2, 2)),
        FcSpec(name="other", inputs=("first", "data"), outputs=8),
        image=(8, 8, 3),
        stored=(8, 8),
    )
    network = Network(spec, batch=2, devices="emulator:0")
    assert network.outputs("data").shape == (2, 8, 8, 3)
    (images,) = network.graph.inputs.values()
    assert images.problem.block == 1


# ---- the training step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alexnet", "cifar-11pct", "chains"])
def test_a_training_step_is_bitwise_its_parts(device: Device, name: str, element: str) -> None:
    spec = {"alexnet": ALEXNET, "chains": CHAINS}.get(name) or nets.build(name)
    batch = 2 if device.kind == "emulator" else 4
    parts, whole = (Network(spec, batch=batch, devices=device, precision=element) for _ in range(2))
    assert train(parts, 3) == step_by_step(whole, 3)
    assert_equal(parts.state(), whole.state())


def test_two_devices_take_the_same_step(device: Device) -> None:
    second = get_device(f"{device.kind}:{device.index + 1}")
    spec = alexnet_2012.build((67, 67, 3), 10, width=1 / 24)
    parts, whole = (Network(spec, batch=2, devices=[device, second]) for _ in range(2))
    assert train(parts, 2) == step_by_step(whole, 2)
    assert_equal(parts.state(), whole.state())


@pytest.mark.parametrize("devices", [1, 2])
def test_a_bad_loss_moves_no_weight(device: Device, devices: int, element: str) -> None:
    spec = alexnet_2012.build((67, 67, 3), 10, width=1 / 24)
    names = [device, get_device(f"{device.kind}:{device.index + 1}")][:devices]
    network = Network(spec, batch=2, devices=names, towers=2, precision=element)
    step_by_step(network, 2)
    state = network.state()
    state["conv4.bias"][3] = np.inf
    network.load_state(state)
    (loss,) = step_by_step(network, 1)
    assert not np.isfinite(loss)
    assert_equal(network.state(), state)
    bad = network.find_bad()
    assert bad is not None and bad.layer == "conv4"
    # A step that went wrong leaves nothing behind.
    state["conv4.bias"][3] = 0
    network.load_state(state)
    (loss,) = step_by_step(network, 1)
    assert np.isfinite(loss)
    moved = network.state()
    assert all(not np.array_equal(moved[name], state[name]) for name in network.parameters)


def test_frozen_layers_stay(device: Device) -> None:
    network = Network(CHAINS, batch=4, devices=device)
    before = network.state()
    rates = {name: 0.0 if name.startswith("b.") else 0.02 for name in network.parameters}
    for step in range(3):
        network.load(**batch_of(CHAINS, 4, step))
        network.train_step(step, rates, 0.9)
    after = network.state()
    assert all(
        np.array_equal(before[name], after[name]) == name.startswith("b.") for name in network.parameters
    )


class Graphs:
    """A device that captures as a GPU does.

    Work given to it meanwhile is recorded, not done; a replay does it again with the same arguments.
    """

    def __init__(self, device: Device) -> None:
        self.device = copy.copy(device)
        self._calls: list[Callable[[], Any]] | None = None
        self.replays = 0
        self.device.module = self._Module(device.module, self)
        self.device.captured = self._captured  # type: ignore[method-assign]

    class _Module:
        def __init__(self, module: Any, graphs: Graphs) -> None:
            self._module, self._graphs = module, graphs

        def __getattr__(self, name: str) -> Any:
            function = getattr(self._module, name)

            def call(*arguments: Any, **rest: Any) -> Any:
                calls = self._graphs._calls
                if calls is None:
                    return function(*arguments, **rest)
                calls.append(lambda: function(*arguments, **rest))
                return None

            return call

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        calls = self._calls = []
        work()
        self._calls = None

        def replay() -> None:
            self.replays += 1
            for call in calls:
                call()

        return replay


def test_a_captured_step_goes_on_with_new_images_masks_and_rates(device: Device, element: str) -> None:
    if device.kind == "cuda":
        pytest.skip("the GPU captures by itself in every test of a training step")
    graphs = Graphs(device)
    plain, captured = (
        Network(ALEXNET, batch=3, devices=on, precision=element) for on in (device, graphs.device)
    )
    for network in (plain, captured):
        for step in range(7):
            images = batch_of(ALEXNET, 2 if step == 4 else 3, step)
            network.load(**{**images, "shift": images["shift"] if step < 5 else None})
            network.train_step(step, 0.05 / (1 + step), 0.9 - 0.1 * step)
    assert graphs.replays == 5  # all but the first of each kind: whole and short
    assert_equal(plain.state(), captured.state())
    assert plain.result().loss == captured.result().loss
