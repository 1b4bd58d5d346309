"""A value that is not finite is found where it came up first: faults are planted in every kind of place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.small_networks import BRANCHES, batch_of

from cconvnet import nets
from cconvnet.devices import Device, get_device
from cconvnet.layers import Layer
from cconvnet.nets import DATA, NetSpec, alexnet_2012
from cconvnet.network import Network
from cconvnet.network.anomaly import Anomaly, found_in

LENET = nets.build("lenet")
NARROW = alexnet_2012.build((67, 67, 3), 10, width=1 / 24)


def made(device: Device | list[Device], spec: NetSpec = LENET, fuse: bool = False, **more: Any) -> Network:
    network = Network(spec, batch=2, devices=device, seed=1, fuse=fuse, **more)
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (2, *spec.stored_shape), np.uint8)
    network.load(images, draws.integers(0, spec.classes, 2))
    return network


def layer_of(network: Network, name: str) -> Layer:
    return next(layer for layer in network.layers if layer.name == name)


def plant(network: Network, name: str, index: tuple[int, ...], value: float) -> None:
    state = network.state()
    state[name][index] = value
    network.load_state(state)


def test_an_anomaly_says_what_and_where() -> None:
    values = np.zeros((2, 3, 4), np.float32)
    assert found_in("conv1", "forward", "its output", values) is None
    values[0, 2, 1], values[1, 0, 3] = np.inf, np.nan
    found = found_in("conv1", "forward", "its output", values)
    assert found == Anomaly("conv1", "forward", "its output", 2, 24, (0, 2, 1), np.inf)
    assert str(found) == "conv1, forward pass, its output: 2 of 24 values, the first inf at [0, 2, 1]"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_weight_is_found_in_the_forward_pass(device: Device, value: float) -> None:
    network = made(device)
    plant(network, "conv2.weight", (7, 1, 2, 3), value)
    bad = network.checked_step(0, 0.01, 0.9)
    assert bad is not None
    assert (bad.layer, bad.direction, bad.tensor) == ("conv2", "forward", "conv2.weight")
    assert (bad.bad, bad.count, bad.index) == (1, network.parameters["conv2.weight"].count, (7, 1, 2, 3))
    assert str(bad.value) == str(value)


def test_a_bad_input_is_found(device: Device) -> None:
    network = made(device)
    mean = np.zeros(LENET.stored_shape, np.float32)
    mean[3, 4, 0] = np.nan
    network.set_mean(mean)
    bad = network.checked_step(0, 0.01, 0.9)
    assert bad is not None and (bad.layer, bad.direction, bad.tensor) == (DATA, "forward", "its output")
    # Of two images.
    assert (bad.bad, bad.index) == (2, (0, 3, 4, 0))


def test_an_output_that_is_too_large_is_found(device: Device) -> None:
    """Finite weights may make infinite sums."""
    network = made(device)
    state = network.state()
    state["conv2.weight"][...] = 3e38
    network.load_state(state)
    bad = network.checked_step(0, 0.01, 0.9)
    assert bad is not None and (bad.layer, bad.direction, bad.tensor) == ("conv2", "forward", "its output")


@pytest.mark.parametrize("what", ["weight", "bias", "input"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_bad_gradient_is_found_in_the_backward_pass(device: Device, what: str, value: float) -> None:
    network = made(device)
    layer = layer_of(network, "conv2")
    backward, pieces = layer.backward, {piece.parameter.of: piece for piece in layer.pieces}

    def planted(updates: Any = None) -> None:
        backward(updates)
        array = layer.input_gradients[0] if what == "input" else pieces[what].gradient
        values = device.host(array)
        values.reshape(-1)[5] = value
        device.fill(array, values)

    layer.backward = planted  # type: ignore[method-assign]
    before = network.state()
    bad = network.checked_step(0, 0.01, 0.9)
    assert bad is not None and (bad.layer, bad.direction) == ("conv2", "backward")
    named = f"its input {layer.inputs[0].name}" if what == "input" else f"conv2.{what}"
    assert bad.tensor == f"the gradient of {named}"
    assert bad.bad == 1 and str(bad.value) == str(value)
    # Nothing was trained on it.
    assert all(network.state()[name].tobytes() == tensor.tobytes() for name, tensor in before.items())


def test_an_update_that_is_too_large_is_found(device: Device) -> None:
    network = made(device)
    plant(network, "fc1.weight.velocity", (1, 2), 3e38)
    plant(network, "fc1.weight", (1, 2), 3e38)
    layer = layer_of(network, "fc1")
    zeros = np.zeros(layer.output.array.shape, np.float32)
    # Its product with such a weight would be infinite.
    layer.forward = lambda train: device.fill(layer.output.array, zeros)  # type: ignore[method-assign]
    bad = network.checked_step(0, 0.01, 0.9)
    assert bad is not None and (bad.layer, bad.direction) == ("fc1", "update")
    assert (bad.tensor, bad.index, bad.value) == ("fc1.weight", (1, 2), np.inf)


@pytest.mark.parametrize("devices", [1, 2])
def test_looking_changes_nothing(device: Device, precision: str, devices: int) -> None:
    """Steps that are looked at, layer by layer, train bitwise as the fused ones do."""
    places = [device, get_device(f"{device.kind}:{device.index + 1}")][:devices]
    fast = made(places, NARROW, fuse=True, towers=2, precision=precision)
    slow = made(places, NARROW, fuse=False, towers=2, precision=precision)
    for step in range(3):
        fast.train_step(step, 0.01, 0.9)
        assert slow.checked_step(step, 0.01, 0.9) is None
        assert slow.result().losses.tobytes() == fast.result().losses.tobytes()
    ours, theirs = slow.state(), fast.state()
    for name, tensor in theirs.items():
        assert ours[name].tobytes() == tensor.tobytes(), name


def test_what_lies_within_fused_layers_is_found_after_a_bad_loss(device: Device) -> None:
    network = made(device, NARROW, fuse=True)
    plant(network, "conv2.bias", (3,), np.inf)
    network.train_step(0, 0.01, 0.9)
    assert not np.isfinite(network.result().losses).all()
    bad = network.find_bad()
    assert bad is not None
    assert (bad.layer, bad.direction, bad.tensor, bad.index) == ("conv2", "forward", "conv2.bias", (3,))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_bad_layer_is_named(device: Device, value: float) -> None:
    network = Network(BRANCHES, batch=4, devices=device)
    network.load(**batch_of(BRANCHES, 3))
    network.forward(train=True, step=1)
    network.backward()
    assert network.find_bad(backward=True) is None
    state = network.state()
    state["hidden.bias"][0] = value
    state["right.weight"][0] = value
    network.load_state(state)
    network.forward(train=True, step=1)
    bad = network.find_bad()
    assert bad is not None and bad.layer == "right"
