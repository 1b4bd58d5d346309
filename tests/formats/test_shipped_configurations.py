"""The configurations of this repository are the networks known by name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from helpers.layer_files import CONFIGS

from cconvnet import nets
from cconvnet.formats.cuda_convnet import read
from cconvnet.formats.cuda_convnet_writer import normal_form
from cconvnet.nets import (
    LayerSpec,
    NetSpec,
)
from cconvnet.nets.shapes import parameters, shapes
from cconvnet.network import Network
from cconvnet.network.gradcheck import gradcheck, small_spec


def configuration(name: str, **options: Any) -> NetSpec:
    folder = CONFIGS / name
    return read(folder / "layers.cfg", folder / "layer-params.cfg", **options)[0]


@pytest.mark.parametrize("name", ["cifar-quick", "cifar-18pct", "cifar-13pct", "cifar-11pct"])
def test_configurations_are_the_networks_known_by_name(name: str) -> None:
    spec = nets.build(name)
    crop = spec.input.height if spec.recipe.crop else None
    got = configuration(name, image_shape=(32, 32), crop=crop, classes=10, recipe=spec.recipe)
    assert got == spec


def in_full(spec: NetSpec, names: dict[str, str]) -> list[LayerSpec]:
    """The layers with the devices they live on and other names."""
    devices: dict[str, Any] = {}
    layers = []
    for layer in spec.layers:
        device = devices.get(layer.inputs[0]) if layer.device is None else layer.device
        devices[layer.name] = device
        inputs = tuple(names.get(name, name) for name in layer.inputs)
        layers.append(
            dataclasses.replace(layer, name=names.get(layer.name, layer.name), inputs=inputs, device=device)
        )
    return sorted(layers, key=lambda layer: layer.name)


def test_the_configuration_of_2012() -> None:
    """Written tower by tower and by hand, it is the network known by name with its towers written out."""
    spec = configuration("alexnet-2012", image_shape=(256, 256), crop=224, classes=1000)
    assert sum(parameters(spec).values()) == 60_965_224
    assert (spec.recipe.lr, spec.recipe.momentum) == (0.01, 0.9)
    relus = {f"pool{index}{tower}_neuron": f"relu{index}{tower}" for index in (1, 5) for tower in "ab"}
    assert in_full(spec, relus) == in_full(normal_form(nets.build("alexnet-2012")), {})


@pytest.mark.parametrize("name", ["cifar-quick", "cifar-18pct", "cifar-13pct", "cifar-11pct"])
def test_shapes_are_those_of_the_network_that_runs(name: str) -> None:
    spec = configuration(name, image_shape=(32, 32))
    network = Network(spec, batch=2, devices="cpu:0")
    described = network.describe()
    assert described["parameters"] == sum(parameters(spec).values())
    for row in described["layers"]:
        assert math.prod(row["output_shape"][1:]) == math.prod(shapes(spec)[row["name"]])


def test_the_configuration_of_2012_on_two_devices() -> None:
    spec = configuration("alexnet-2012", image_shape=(256, 256), crop=224)
    report = gradcheck(small_spec(spec), ["cpu:0", "cpu:1"])
    assert report.ok, report.failures
    network = Network(small_spec(spec), batch=1, devices=["cpu:0", "cpu:1"])
    devices = {row["name"]: row["device"] for row in network.describe()["layers"]}
    assert {name: device for name, device in devices.items() if name[-1] not in "ab"} == {
        **dict.fromkeys(("fc8", "cost"), "cpu:0"),
        **{f"pool{index}a_neuron": "cpu:0" for index in (1, 5)},
        **{f"pool{index}b_neuron": "cpu:1" for index in (1, 5)},
    }
    assert all(devices[name] == f"cpu:{'ab'.index(name[-1])}" for name in devices if name[-1] in "ab")
