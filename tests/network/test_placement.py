"""Layers on several devices: results, copies, and placements that are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import (
    BRANCHES,
    SPLIT,
    assert_equal,
    batch_of,
    conv,
    net_of,
    placed,
    train,
    two_devices,
)

from cconvnet import nets
from cconvnet.devices import Device, DeviceUnavailable
from cconvnet.nets import (
    SumSpec,
    alexnet,
    place,
)
from cconvnet.network import Network


def test_layers_are_placed_by_name() -> None:
    spec = place(nets.build("lenet"), {"conv2": 1, "fc2": "cpu:0"})
    layers = Network(spec, batch=1, devices=["cpu:0", "cpu:1"]).describe()["layers"]
    assert [layer["device"][-1] for layer in layers] == ["0", "0", "1", "1", "1", "0", "0"]
    with pytest.raises(ValueError, match=r"a layer to place must be one of.*not 'conv3'; did you mean"):
        place(spec, {"conv3": 1})


def test_two_devices_are_bitwise_one(device: Device) -> None:
    pair = two_devices(device)
    spec = placed("trunk", "right", "sum", "drop")
    one = Network(BRANCHES, batch=4, devices=device)
    two = Network(spec, batch=4, devices=pair)
    assert train(one, 3) == train(two, 3)
    assert_equal(one.state(), two.state())
    assert {layer["device"] for layer in two.describe()["layers"]} == {d.name for d in pair}
    assert two.describe()["device"] == f"{pair[0].name},{pair[1].name}"
    assert len(two.describe()["copies"]) == 5


def test_on_one_device_everything_is_there(device: Device) -> None:
    one = Network(SPLIT, batch=4, devices=device)
    assert {layer["device"] for layer in one.describe()["layers"]} == {device.name}
    assert one.describe()["copies"] == []
    assert train(one, 2) == train(Network(BRANCHES, batch=4, devices=device), 2)


def test_a_layer_lives_where_its_first_input_does(device: Device) -> None:
    pair = two_devices(device)
    layers = [
        dataclasses.replace(layer, device={"trunk": 0, "right": 1, "pool": "cpu:1"}.get(layer.name))
        for layer in BRANCHES.layers
    ]
    layers[5] = dataclasses.replace(layers[5], device=pair[1].name)  # pool, by its name
    spec = dataclasses.replace(BRANCHES, layers=tuple(layers))
    places = {
        layer["name"]: layer["device"] for layer in Network(spec, batch=2, devices=pair).describe()["layers"]
    }
    first, second = pair[0].name, pair[1].name
    assert [places[name] for name in ("trunk", "left", "right", "sum", "norm")] == [
        first,
        first,
        second,
        first,
        first,
    ]
    assert {places[name] for name in ("pool", "soft", "drop", "hidden", "last", "cost")} == {second}


@pytest.mark.parametrize(
    ("places", "devices", "message"),
    [
        ({}, ["cpu:0", "cpu:0"], "device cpu:0 is given twice; cpu:1 would be another one"),
        ({}, ["cpu:0", "emulator:0"], "devices must be of one kind: emulator:0 is no cpu device like cpu:0"),
        ({}, ["cpu:0", "cpu:1"], "no layer of test lives on cpu:1; place one there or leave it out"),
        (
            {"left": 2},
            ["cpu:0", "cpu:1"],
            "layer left: device must be below the number of devices given, 2, not 2",
        ),
        ({"left": -1}, ["cpu:0", "cpu:1"], "layer left: device must be below the number of devices given"),
        (
            {"left": "cpu:2"},
            ["cpu:0", "cpu:1"],
            "layer left: device must be one of the network's, cpu:0, cpu:1, not cpu:2",
        ),
        (
            {"left": "gpu"},
            ["cpu:0", "cpu:1"],
            "layer left: device must be cuda:N, cpu:N or emulator:N, not 'gpu'",
        ),
    ],
)
def test_wrong_places_are_refused(places: dict[str, Any], devices: list[str], message: str) -> None:
    layers = tuple(dataclasses.replace(layer, device=places.get(layer.name)) for layer in BRANCHES.layers)
    with pytest.raises(ValueError, match=message):
        Network(dataclasses.replace(BRANCHES, layers=layers), batch=2, devices=devices)


def test_an_absent_second_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceUnavailable, match="cuda"):
        Network(alexnet.build((76, 76, 3), 10, width=1 / 16), batch=2, devices=["cuda:0", "cuda:99"])


def test_gradients_of_readers_are_summed_on_their_device_first(device: Device) -> None:
    """Of three readers two share a copy, so the sum is rounded in another order: close, and repeatable."""
    one = Network(BRANCHES, batch=4, devices=device)
    two, again = (Network(SPLIT, batch=4, devices=two_devices(device)) for _ in range(2))
    losses = train(two, 3)
    assert losses == train(again, 3)
    assert_equal(two.state(), again.state())
    assert losses == pytest.approx(train(one, 3), rel=1e-5)


def test_copies_are_listed_and_counted(device: Device) -> None:
    first, second = (d.name for d in two_devices(device))
    network = Network(SPLIT, batch=4, devices=[first, second])
    image = 4 * 7 * 6 * 6 * 4  # images x height x width x channels x bytes
    copies = network.describe()["copies"]
    assert [(c["layer"], c["source"], c["from"], c["to"], c["bytes"]) for c in copies] == [
        ("left", "trunk", first, second, image),
        ("sum", "left", second, first, image),
        ("sum", "right", second, first, image),
        ("norm", "sum", first, second, image),
    ]
    listed = sum(copy["bytes"] for copy in copies)
    network.load(**batch_of(SPLIT, 4))
    network.forward(train=True)
    assert network.copied_bytes == listed
    network.backward()
    assert network.copied_bytes == 2 * listed == network.describe()["copied_bytes_per_step"]
    assert network.copy_seconds > 0


def test_images_reach_every_device_that_reads_them_without_a_copy(device: Device) -> None:
    pair = two_devices(device)
    spec = net_of(
        conv("here"),
        conv("there", inputs=("data",), device=1),
        SumSpec(name="both", inputs=("here", "there")),
    )
    network = Network(spec, batch=2, devices=pair)
    assert [copy["source"] for copy in network.describe()["copies"]] == ["there"]
    plain = Network(spec, batch=2, devices=device)
    network.set_mean(np.ones(spec.stored_shape, np.float32))
    plain.set_mean(np.ones(spec.stored_shape, np.float32))
    assert train(network, 2) == train(plain, 2)
    assert_equal(network.state(), plain.state())
