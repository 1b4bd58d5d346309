"""Small networks, batches and comparisons that several tests share."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from cconvnet import nets
from cconvnet.devices import Device, DeviceUnavailable, get_device
from cconvnet.nets import (
    RELU,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    InputSpec,
    LayerSpec,
    LrnSpec,
    NetSpec,
    Neuron,
    NeuronSpec,
    PoolSpec,
    SoftmaxCostSpec,
    SumSpec,
    TrainRecipe,
    alexnet,
    chain,
)
from cconvnet.nets.costs import labels_of
from cconvnet.nets.transform import scaled
from cconvnet.network import Network

CLASSES = 4


def net_of(
    *layers: LayerSpec, image: tuple[int, int, int] = (7, 6, 2), stored: tuple[int, int] = (9, 9)
) -> NetSpec:
    """Return a small network of these layers, an FC layer and the cost."""
    ends = (FcSpec(name="last", outputs=CLASSES), SoftmaxCostSpec(name="cost"))
    recipe = TrainRecipe(batch=4, epochs=1, lr=0.1)
    return NetSpec("test", chain(*layers, *ends), InputSpec(*image, scale=1 / 64), stored, CLASSES, recipe)


def conv(name: str, filters: int = 4, **values: Any) -> ConvSpec:
    """Return a convolution that keeps the image's size."""
    return ConvSpec(name=name, filters=filters, window=(3, 3), padding=(1, 1), **values)


# Every layer type, an activation read three times, and a group that is no divisor of 4.
BRANCHES = net_of(
    conv("trunk", 6, neuron=RELU),
    conv("left", 6, inputs=("trunk",), groups=3, neuron=Neuron("tanh", 1.5, 0.5)),
    conv("right", 6, inputs=("trunk",), bias=None),
    SumSpec(name="sum", inputs=("left", "trunk", "right")),
    LrnSpec(name="norm", size=3, alpha=0.3, groups=2),
    PoolSpec(name="pool", pool="avg", window=(2, 3), rounding="ceil"),
    NeuronSpec(name="soft", neuron=Neuron("softrelu")),
    DropoutSpec(name="drop", keep=0.7),
    FcSpec(name="hidden", outputs=8, neuron=Neuron("logistic")),
)


def batch_of(spec: NetSpec, n: int, seed: int = 0) -> dict[str, Any]:
    """Random arguments of Network.load for `n` images."""
    draws = np.random.default_rng(seed)
    needed = labels_of(spec)
    room = (spec.stored[0] - spec.input.height, spec.stored[1] - spec.input.width)
    batch = {
        "images": draws.integers(0, 256, (n, *spec.stored_shape), np.uint8),
        "labels": draws.integers(0, spec.classes, (n, *(needed.shape if needed else ()))),
        "top": draws.integers(0, room[0] + 1, n),
        "left": draws.integers(0, room[1] + 1, n),
        "mirror": draws.integers(0, 2, n).astype(bool),
        "shift": draws.normal(0, 9, (n, spec.input.channels)),
    }
    if needed is not None and needed.ignore is not None:
        batch["labels"][draws.random(batch["labels"].shape) < 0.25] = needed.ignore
    return batch


def train(network: Network, steps: int, n: int | None = None) -> list[float]:
    """Train pass by pass, each step on a batch of its own, and return the losses."""
    losses = []
    for step in range(steps):
        network.load(**batch_of(network.spec, n or network.batch, step))
        network.forward(train=True, step=step)
        network.backward()
        network.update(0.02, 0.9)
        losses.append(network.result().loss)
    return losses


def gradients(network: Network) -> dict[str, np.ndarray[Any, Any]]:
    """Return the gradient of everything that learns by its name."""
    return {name: p.host("gradient") for name, p in network.parameters.items() if p.learns}


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Assert that both have the same tensors, bit-identical."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name


def placed(*first: str) -> NetSpec:
    """Return BRANCHES with these layers on the first device and all others on the second."""
    layers = [dataclasses.replace(layer, device=int(layer.name not in first)) for layer in BRANCHES.layers]
    return dataclasses.replace(BRANCHES, layers=tuple(layers))


# `left` and `right` share one copy of the trunk.
SPLIT = placed("trunk", "sum")


def two_devices(device: Device) -> list[Device]:
    """Return a device and the next of its kind; skip the test if there is none."""
    try:
        return [device, get_device(f"{device.kind}:1")]
    except DeviceUnavailable as error:
        pytest.skip(str(error))


ALEXNET = alexnet.build((67, 67, 3), 10, width=1 / 24)


# Fused and unfused ones, next to each other: a normalisation within maps, a second reader, a function that is
# no ReLU, a dropout behind a convolution and one that is not inverted.
CHAINS = net_of(
    conv("a", neuron=RELU),
    LrnSpec(name="norm", size=3, alpha=0.3),
    PoolSpec(name="pool", window=(3, 3), stride=(2, 2)),
    conv("b", neuron=RELU),
    DropoutSpec(name="drop-b", keep=0.7),
    LrnSpec(name="map", size=3, alpha=0.3, region="same_map"),
    PoolSpec(name="pool-map", window=(2, 2), stride=(1, 1)),
    LrnSpec(name="mean", size=3, alpha=0.3),
    PoolSpec(name="pool-mean", pool="avg", window=(2, 2), stride=(1, 1)),
    FcSpec(name="tanh", outputs=8, neuron=Neuron("tanh", 1.5, 0.5)),
    DropoutSpec(name="drop-tanh", keep=0.7),
    FcSpec(name="plain", outputs=8),
    DropoutSpec(name="drop-plain", keep=0.5, inverted=False),
    FcSpec(name="relu", outputs=8, neuron=RELU, bias=None),
    DropoutSpec(name="drop-relu", keep=0.7),
    image=(13, 12, 2),
    stored=(15, 15),
)


def reduced(name: str) -> NetSpec:
    """Return a built-in network at a reduced size."""
    spec = nets.build(name)
    if spec.stored[0] <= 32:
        return scaled(spec, 0.5, classes=10) if name.startswith("resnet") else spec
    side = {"overfeat": 231, "squeezenet": 128, "googlenet": 128}.get(name.partition("-")[0], 140)
    side = 64 if name.startswith("fcn") else side
    return scaled(spec, 0.125 if "resnet" in name else 0.25, (side, side), 10)


def step_by_step(network: Network, steps: int) -> list[float]:
    """Train by whole steps, each on a batch of its own, and return the losses."""
    losses = []
    for step in range(steps):
        network.load(**batch_of(network.spec, network.batch, step))
        network.train_step(step, 0.02, 0.9)
        losses.append(network.result().loss)
    return losses
