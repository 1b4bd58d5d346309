"""Branches that write their channels into a concatenation: bit-identical to copies, without copying."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from helpers.small_networks import assert_equal, batch_of, gradients, train, two_devices

from cconvnet.devices import Device
from cconvnet.nets import NetSpec
from cconvnet.nets.builder import Value, concat, image
from cconvnet.network import Network
from cconvnet.network.footprint import Plan
from cconvnet.network.gradcheck import gradcheck


def inception(x: Value, ones: int, reduced: int, threes: int, fives: int, pooled: int) -> Value:
    """Return GoogLeNet's module: four branches that end in a convolution and a ReLU."""
    return concat(
        x.conv(ones, 1).relu(),
        x.conv(reduced, 1).relu().conv(threes, 3, pad=1).relu(),
        x.conv(reduced, 1).relu().conv(fives, 5, pad=2).relu(),
        x.maxpool(3, stride=1, pad=1).conv(pooled, 1).relu(),
    )


def branching() -> NetSpec:
    """Return two modules, the second with channels that are no whole vectors, and fire modules' shape."""
    x = inception(image(9, 8, 3, stored=(10, 10)).conv(8, 3, pad=1).relu(), 8, 6, 16, 8, 8)
    x = inception(x.avgpool(2, rounding="ceil"), 5, 3, 7, 2, 3)
    squeezed = x.conv(4, 1).relu()
    x = concat(squeezed.conv(6, 1).relu(), squeezed.conv(6, 3, pad=1).relu())
    return x.dropout(0.5).mean().fc(4).softmax("branching")


def copying() -> NetSpec:
    """Return a network whose branches cannot all be placed: for each reason one."""
    x = image(9, 8, 3).conv(6, 3, pad=1).relu()
    shared = x.conv(4, 1).relu()
    y = concat(
        shared,  # another layer reads it
        x.conv(3, 1),  # no ReLU
        x.conv(3, 1, neuron="tanh"),
        x.conv(2, 1, bias=None).relu(),
        x.conv(4, 1).relu().dropout(0.5),
        x.maxpool(3, stride=1, pad=1),
        x.conv(5, 1, also=shared.conv(6, 1)).relu(),  # two inputs
        x.conv(4, 3, pad=1).relu(),  # this one is placed
    )
    return (y.conv(4, 1).relu() + shared).mean().fc(4).softmax("copying")


BRANCHING, COPYING = branching(), copying()


def schedules(device: Device) -> tuple[str, ...]:
    return ("forward", "reverse", "random") if device.kind == "emulator" else ("",)


@pytest.mark.parametrize("spec", [BRANCHING, COPYING], ids=lambda spec: spec.name)
def test_placed_branches_are_bitwise_copied_ones(device: Device, element: str, spec: NetSpec) -> None:
    options: dict[str, Any] = {"batch": 3, "devices": device, "precision": element}
    copied = Network(spec, fuse=False, **options)
    losses = train(copied, 2)
    for schedule in schedules(device):
        if schedule:
            device.module.set_schedule(schedule, 3)
        placed = Network(spec, **options)
        assert train(placed, 2) == losses
        assert_equal(gradients(placed), gradients(copied))
        assert_equal(placed.state(), copied.state())
        for network in (placed, copied):
            network.forward(train=False)
        for layer in spec.layers:
            assert placed.outputs(layer.name).tobytes() == copied.outputs(layer.name).tobytes(), layer.name
    if device.kind == "emulator":
        device.module.set_schedule("forward")


def test_nothing_is_copied_into_a_concatenation(device: Device) -> None:
    placed = Network(BRANCHING, batch=2, devices=device)
    copied = Network(BRANCHING, batch=2, devices=device, fuse=False)
    assert placed.describe()["concatenated_bytes_per_step"] == 0
    # float32, forward and back, two images: 9x8x40, 5x4x17 and 5x4x12 values.
    assert copied.describe()["concatenated_bytes_per_step"] == 4 * 2 * 2 * (9 * 8 * 40 + 20 * 17 + 20 * 12)
    activations = {name: placed.memory[name] - placed.graph.gradient_bytes[name] for name in placed.memory}
    assert sum(activations.values()) < sum(copied.memory.values()) - sum(copied.graph.gradient_bytes.values())
    assert Plan(BRANCHING, batch=2, devices=device).describe() == placed.describe()


def test_what_cannot_be_placed_is_copied() -> None:
    network = Network(COPYING, batch=1, devices="cpu:0")
    # All but the 4 channels of the last branch.
    assert network.describe()["concatenated_bytes_per_step"] == 4 * 2 * 72 * (4 + 3 + 3 + 2 + 4 + 6 + 5)


def test_a_short_batch_and_whole_steps(device: Device) -> None:
    """train_step() updates on the way, so gradients live in memory that others use later."""
    one, other = (Network(BRANCHING, batch=4, devices=device, fuse=fuse) for fuse in (True, False))
    for network in (one, other):
        for step in range(3):
            network.load(**batch_of(BRANCHING, 3, step))
            network.train_step(step, 0.05, 0.9)
    assert_equal(one.state(), other.state())


@pytest.mark.parametrize(("spec", "away"), [(BRANCHING, ("conv3", "conv4")), (COPYING, ("conv9",))])
def test_two_devices_are_bitwise_one(device: Device, spec: NetSpec, away: tuple[str, ...]) -> None:
    """A branch on the other device is copied there and then into the concatenation."""
    pair = two_devices(device)
    layers = [dataclasses.replace(layer, device=int(layer.name in away)) for layer in spec.layers]
    split = dataclasses.replace(spec, layers=tuple(layers))
    one, two = Network(spec, batch=2, devices=device), Network(split, batch=2, devices=pair)
    assert train(one, 2) == train(two, 2)
    assert_equal(one.state(), two.state())
    assert len(two.describe()["copies"]) == 2
    moved = [network.describe()["concatenated_bytes_per_step"] for network in (one, two)]
    everything = Network(spec, batch=2, devices=device, fuse=False).describe()["concatenated_bytes_per_step"]
    assert moved[0] < moved[1] <= everything


def test_towers_are_placed_in_their_own_concatenation(device: Device) -> None:
    pair = two_devices(device)
    x = image(6, 6, 2).conv(8, 3, pad=1, split=True).relu()
    x = concat(
        x.conv(8, 1, groups=2, split=True).relu(),
        x.conv(4, 3, pad=1, groups=2, split=True).relu(),
        split=True,
    )
    spec = x.fc(4).softmax("towers")
    two = Network(spec, batch=2, devices=pair)
    one = Network(spec, batch=2, devices=device, towers=2)
    assert train(two, 2) == train(one, 2)
    assert_equal(two.state(), one.state())
    assert two.describe()["concatenated_bytes_per_step"] == 0


def test_gradients_are_those_of_finite_differences(device: Device) -> None:
    for spec in (BRANCHING, COPYING):
        assert gradcheck(spec, device).failures == ()


def test_a_bad_value_is_found_where_it_is(device: Device) -> None:
    network = Network(BRANCHING, batch=2, devices=device)
    network.load(**batch_of(BRANCHING, 2))
    name = next(layer.name for layer in BRANCHING.layers if layer.type == "concat")
    branch = next(layer for layer in BRANCHING.layers if layer.name == name).inputs[1]
    parameter = network.parameters[f"{branch}.bias"]
    values = parameter.host("value")
    values[2] = float("inf")
    network.load_state({**network.state(), f"{branch}.bias": values})
    network.forward(train=True)
    found = network.find_bad()
    assert found is not None
    assert (found.layer, found.tensor) == (branch, f"{branch}.bias")
