"""The networks known by name, built: shapes, numbers of weights, first weights, schedules."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.small_networks import train

from cconvnet import nets
from cconvnet.nets import (
    alexnet,
)
from cconvnet.network import Network, table
from cconvnet.training.schedule import StepSchedule


def test_alexnet_is_the_papers(full_alexnet: Network) -> None:
    description = full_alexnet.describe()
    layers = {layer["name"]: layer for layer in description["layers"]}
    assert description["parameters"] == 60_965_224
    parameters = {name: layer["parameters"] for name, layer in layers.items() if layer["parameters"]}
    assert parameters == {
        "conv1": 34_944,
        "conv2": 307_456,
        "conv3": 885_120,
        "conv4": 663_936,
        "conv5": 442_624,
        "fc6": 37_752_832,
        "fc7": 16_781_312,
        "fc8": 4_097_000,
    }
    shapes = {name: layer["output_shape"][1:] for name, layer in layers.items()}
    assert shapes["conv1"] == [55, 55, 96]
    assert shapes["pool1"] == [27, 27, 96]
    assert shapes["conv2"] == [27, 27, 256]
    assert shapes["pool2"] == [13, 13, 256]
    assert shapes["conv3"] == shapes["conv4"] == [13, 13, 384]
    assert shapes["conv5"] == [13, 13, 256]
    assert shapes["pool5"] == [6, 6, 256]
    assert shapes["fc8"] == shapes["cost"] == [1000]
    assert description["copies"] == []


def test_alexnets_first_weights_are_the_papers(full_alexnet: Network) -> None:
    for name, parameter in full_alexnet.parameters.items():
        value = parameter.host("value")
        if name.endswith(".bias"):
            ones = name in ("conv2.bias", "conv4.bias", "conv5.bias", "fc6.bias", "fc7.bias")
            assert (value == float(ones)).all(), name
        else:
            # 35,000 and more draws: the mean is known to 2e-4 at four standard errors.
            assert abs(value.mean()) < 3e-4, name
            assert value.std() == pytest.approx(0.01, rel=0.02), name


@pytest.mark.parametrize(
    ("name", "shapes", "parameters"),
    [
        ("lenet", {"pool1": [4, 4, 20], "pool2": [2, 2, 50]}, 520 + 25_050 + 100_500 + 5_010),
        (
            "cifar-quick",
            {"pool1": [16, 16, 32], "pool2": [8, 8, 32], "pool3": [4, 4, 64]},
            2_432 + 25_632 + 51_264 + 65_600 + 650,
        ),
        (
            "cifar-18pct",
            {"rnorm1": [16, 16, 32], "rnorm2": [8, 8, 32], "pool3": [4, 4, 64]},
            2_432 + 25_632 + 51_264 + 10_250,
        ),
    ],
)
def test_shapes(name: str, shapes: dict[str, list[int]], parameters: int) -> None:
    description = Network(nets.build(name), batch=3, devices="cpu:0").describe()
    found = {layer["name"]: layer["output_shape"] for layer in description["layers"]}
    assert {layer: found[layer] for layer in shapes} == {layer: [3, *s] for layer, s in shapes.items()}
    assert description["parameters"] == parameters
    assert json.loads(json.dumps(description)) == description
    header, rows = table(description)
    assert len(rows) == len(description["layers"])
    assert {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize("image", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (17, 40, 2)])
def test_lenet_adapts_to_its_images(image: tuple[int, int, int]) -> None:
    spec = nets.build("lenet", image_shape=image, classes=5)
    network = Network(spec, batch=2, devices="cpu:0")
    losses = train(network, 1)
    assert spec.stored_shape == image
    assert network.outputs("cost").shape == (2, 5)
    assert repr(network) == "<Network lenet: batch 2, fp32, cpu:0>"
    assert np.isfinite(losses).all()


def test_alexnet_crops_seven_eighths() -> None:
    spec = nets.build("alexnet", image_shape=(256, 192, 1), classes=7)
    assert (spec.input.height, spec.input.width, spec.input.channels) == (224, 168, 1)
    assert nets.stored_size("alexnet") == 256
    assert nets.stored_size("lenet") is None


def test_a_network_too_deep_for_its_images_names_the_layer() -> None:
    with pytest.raises(ValueError, match="layer pool5: window_h is 3, larger than the padded image, 1"):
        Network(alexnet.build((32, 32, 3), 10, width=1 / 16), batch=1, devices="cpu:0")


def test_alexnet_2012_has_the_originals_parameters_and_schedule() -> None:
    spec = nets.build("alexnet-2012")
    network = Network(spec, batch=1, devices=["cpu:0", "cpu:1"])
    assert network.describe()["parameters"] == 60_965_224
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for name, parameter in network.parameters.items():
        value = parameter.host("value")
        if parameter.of == "bias":
            assert (value == float(parameter.layer in ones)).all(), name
            assert (parameter.rate_factor, parameter.weight_decay) == (2, 0)
        else:
            sigma = 0.03 if parameter.layer in ("conv3", "conv4", "conv5") else 0.01
            assert value.std() == pytest.approx(sigma, rel=0.02), name
            assert (parameter.rate_factor, parameter.weight_decay) == (1, 0.0005)
    schedule = StepSchedule(spec.recipe.lr, spec.recipe.steps)
    epochs = (0, 24, 25, 51, 67, 72, 79)
    assert [schedule.at(e, "fc6") for e in epochs] == pytest.approx(
        [1e-2, 1e-2, 1e-3, 1e-4, 1e-4, 1e-4, 1e-5]
    )
    assert [schedule.at(e, "conv1") for e in epochs] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4, 1e-5, 0, 0])
    assert [schedule.at(e, "fc6", "bias") for e in epochs] == [0.01] * 7
    assert schedule.at(72, "conv1", "bias") == 0
