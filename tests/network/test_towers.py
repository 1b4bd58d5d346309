"""Layers split over several devices: two towers against two groups, copies, state."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import assert_equal, conv, net_of, train, two_devices

from cconvnet.devices import Device
from cconvnet.nets import (
    RELU,
    DropoutSpec,
    FcSpec,
    NetSpec,
    Neuron,
    alexnet,
    alexnet_2012,
    gaussian,
)
from cconvnet.network import Network
from cconvnet.network.gradcheck import gradcheck

TOWERS = {
    name: build(image_shape=(76, 76, 3), classes=10, width=1 / 16)
    for name, build in (("alexnet", alexnet.build), ("alexnet-2012", alexnet_2012.build))
}


STEPS = 20


def steps_of(spec: NetSpec, devices: Any, steps: int) -> dict[str, np.ndarray[Any, Any]]:
    """The state after some steps with dropout, crops and mirror images."""
    network = Network(spec, batch=4, devices=devices, seed=5)
    train(network, steps)
    return network.state()


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Of all tensors, relative to the largest element of each."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max() / np.abs(one[name]).max()) for name in one)


@pytest.mark.parametrize("name", TOWERS)
def test_two_towers_compute_what_two_groups_compute(name: str) -> None:
    """In float64, where rounding cannot hide a difference: no term is missing or out of place."""
    one = steps_of(TOWERS[name], "reference:0", 3)
    two = steps_of(TOWERS[name], ["reference:0", "reference:1"], 3)
    assert largest_difference(one, two) < 1e-13


@pytest.mark.parametrize("name", TOWERS)
def test_two_towers_are_two_groups_to_rounding(device: Device, name: str) -> None:
    """Conv3, fc6, fc7 and fc8 sum over the channels of both towers.

    On one device that is one sum; on two devices it is two, one per weight matrix. So rounding differs there,
    and then everywhere.
    """
    pair = two_devices(device)
    one, two = steps_of(TOWERS[name], device, STEPS), steps_of(TOWERS[name], pair, STEPS)
    # 4e-7 and 6e-7 were found; a value that rounding carries over a kink would add more.
    assert largest_difference(one, two) < 2e-5
    assert max(abs(value).max() for value in two.values()) > 0
    again = steps_of(TOWERS[name], pair, STEPS)
    assert_equal(two, again)


@pytest.mark.parametrize("name", TOWERS)
def test_two_towers_on_one_device_are_bitwise_those_on_two(device: Device, name: str) -> None:
    """The same towers with the same sums; only the copies are not needed."""
    pair = two_devices(device)
    one = Network(TOWERS[name], batch=4, devices=device, towers=2, seed=5)
    train(one, STEPS)
    assert one.describe()["copies"] == [] and one.copied_bytes == 0
    assert_equal(one.state(), steps_of(TOWERS[name], pair, STEPS))


def test_towers_of_their_own_are_bitwise_the_same_on_one_device_and_on_two(device: Device) -> None:
    """Towers that are separate layers have the same terms in the same order in every sum."""
    pair = two_devices(device)
    spec = net_of(
        conv("a1", inputs=("data",), device=0, neuron=RELU),
        conv("b1", inputs=("data",), device=1, neuron=RELU),
        conv("a2", inputs=("a1", "b1"), device=0, neuron=RELU, per_input=({"init": gaussian(0.2)}, {})),
        conv("b2", inputs=("b1", "a1"), device=1, neuron=RELU),
        DropoutSpec(name="da", inputs=("a2",)),
        DropoutSpec(name="db", inputs=("b2",)),
        FcSpec(name="a3", inputs=("da", "db"), outputs=6, device=0, neuron=Neuron("tanh")),
        FcSpec(name="b3", inputs=("db", "da"), outputs=6, device=1, bias=None, neuron=RELU),
        FcSpec(name="both", inputs=("a3", "b3"), outputs=5, device=0),
    )
    one, two = Network(spec, batch=4, devices=device), Network(spec, batch=4, devices=pair)
    assert train(one, STEPS) == train(two, STEPS)
    assert_equal(one.state(), two.state())
    assert {"a2.weight.0", "a2.weight.1", "a3.weight.0"} <= set(two.parameters)


@pytest.mark.parametrize("name", TOWERS)
def test_copies_go_into_conv3_and_the_fc_layers_and_nowhere_else(name: str) -> None:
    spec = TOWERS[name]
    network = Network(spec, batch=8, devices=["cpu:0", "cpu:1"])
    description = network.describe()
    sizes = {layer["name"]: 8 * int(np.prod(layer["output_shape"][1:])) for layer in description["layers"]}
    half = {
        source: 4 * sizes[source] // 2
        for source in ("pool2", "pool5", "relu5", "dropout6", "dropout7")
        if source in sizes
    }
    into_fc6 = "relu5" if name == "alexnet-2012" else "pool5"
    assert sorted(
        (c["layer"], c["source"], c["from"], c["to"], c["bytes"]) for c in description["copies"]
    ) == sorted(
        (layer, source, f"cpu:{a}", f"cpu:{1 - a}", half[source])
        for layer, source, sides in (
            ("conv3", "pool2", (0, 1)),
            ("fc6", into_fc6, (0, 1)),
            ("fc7", "dropout6", (0, 1)),
            ("fc8", "dropout7", (1,)),
        )
        for a in sides
    )
    train(network, 3, n=8)
    assert (
        network.copied_bytes
        == 3 * description["copied_bytes_per_step"]
        == 6 * sum(c["bytes"] for c in description["copies"])
    )
    one = Network(spec, batch=8, devices="cpu:0").describe()
    assert one["copies"] == [] and one["parameters"] == description["parameters"]
    assert [layer["output_shape"] for layer in one["layers"]] == [
        layer["output_shape"] for layer in description["layers"]
    ]
    assert {layer["name"]: layer["device"] for layer in description["layers"]}["fc8"] == "cpu:0"


def test_a_state_moves_between_one_device_and_two(device: Device) -> None:
    pair, spec = two_devices(device), TOWERS["alexnet-2012"]
    two = Network(spec, batch=4, devices=pair)
    train(two, 1)
    state = two.state()
    one = Network(spec, batch=4, devices=device)
    one.load_state(state)
    assert_equal(one.state(), state)
    back = Network(spec, batch=4, devices=pair)
    back.load_state(one.state())
    assert_equal(back.state(), state)
    assert train(back, 2) == train(two, 2)
    assert_equal(back.state(), two.state())


def test_gradients_of_two_towers(device: Device) -> None:
    spec = TOWERS["alexnet-2012"]
    report = gradcheck(spec, two_devices(device), batch=2, samples=1)
    assert report.ok, report.failures
    assert f"{device.kind}:0,{device.kind}:1" in {check.against for check in report.checks}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv2": {"groups": 1}}, None),
        (
            {"conv2": {"groups": 3, "filters": 18}},
            r"layer conv2: groups \(3\) cannot be split over 2 devices",
        ),
        ({"conv1": {"filters": 7}}, r"layer conv1: filters \(7\) cannot be split over 2 devices"),
        ({"lrn1": {"groups": 1}}, r"layer lrn1: groups \(1\) cannot be split over 2 devices"),
        ({"pool1": {"split": False}}, "layer pool1: it is not split over devices, but its input lrn1 is"),
        ({"fc6": {"split": False}}, "layer dropout6: it is split over devices, but its input fc6 is not"),
        (
            {"pool5": {"device": 0}},
            "layer pool5: a layer that is split lives on all devices; leave out device 0",
        ),
        ({"cost": {"split": True}}, "layer cost: it is split over devices, but its input fc8 is not"),
        ({"fc7": {"norm_limit": 1.0}}, "layer fc7: norm_limit cannot be kept"),
    ],
)
def test_what_cannot_be_split_is_refused(change: dict[str, dict[str, Any]], message: str | None) -> None:
    spec = alexnet.build((76, 76, 3), 10, width=1 / 8)
    layers = tuple(dataclasses.replace(layer, **change.get(layer.name, {})) for layer in spec.layers)
    spec = dataclasses.replace(spec, layers=layers)
    if message is None:
        copies = Network(spec, batch=2, devices=["cpu:0", "cpu:1"]).describe()["copies"]
        assert [copy["layer"] for copy in copies][:2] == ["conv2", "conv2"]
        return
    with pytest.raises(ValueError, match=message):
        Network(spec, batch=2, devices=["cpu:0", "cpu:1"])
