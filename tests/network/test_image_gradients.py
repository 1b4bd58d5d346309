"""Gradients of activations and of the images: against float64, finite differences and PyTorch's autograd."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import BRANCHES, CHAINS, batch_of

import cconvnet as cc
from cconvnet.devices import Device
from cconvnet.layers.neuron import NeuronLayer
from cconvnet.layers.pool import PoolLayer
from cconvnet.nets import DropoutSpec, NetSpec
from cconvnet.nets.cuts import ending_in, neurons_apart
from cconvnet.network import Network

Array = np.ndarray[Any, Any]

IMAGE = cc.image(9, 8, 3, scale=1 / 32, mean=(120, 110, 100), deviation=(1, 2, 3))
PLAIN = (
    IMAGE.conv(8, 3, pad=1).relu().maxpool(2).conv(8, 3, pad=1).relu().fc(12).relu().fc(4).softmax("plain")
)


def probe(spec: NetSpec, end: str, device: Any, batch: int = 3) -> Network:
    apart, names = neurons_apart(ending_in(spec, end))
    assert apart.answer.name == names[end]
    network = Network(apart, batch=batch, devices=device, seed=3, fuse=False, image_gradient=True)
    network.load(batch_of(spec, batch)["images"])
    network.forward(train=False)
    return network


def start_of(network: Network) -> Array:
    shape = network.outputs(network.spec.answer.name).shape
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("spec", "end"), [(PLAIN, "fc2"), (BRANCHES, "hidden"), (CHAINS, "relu")])
def test_gradients_are_those_of_float64(spec: NetSpec, end: str, device: Device) -> None:
    own, exact = (probe(spec, end, where) for where in (device, "reference:0"))
    names = ["data", own.spec.layers[0].name]
    start = start_of(own)
    found, wanted = (one.gradients(names, start) for one in (own, exact))
    for name in names:
        assert found[name].shape == wanted[name].shape
        assert np.abs(found[name] - wanted[name]).max() <= 1e-5 * np.abs(wanted[name]).max(), name


def test_the_objective_grows_along_the_gradient_of_the_images(device: Device) -> None:
    """A shift of a channel is one of all its pixels."""
    network = Network(PLAIN, batch=4, devices=device, seed=3, fuse=False, image_gradient=True)
    batch = batch_of(PLAIN, 4)

    def objective(shift: Array) -> float:
        network.load(**{**batch, "shift": shift})
        network.forward(train=True)
        return network.objective()

    here = np.zeros((4, 3))
    objective(here)
    slopes = network.gradients(["data"])["data"].sum((1, 2)) / (32 * np.array([1, 2, 3]))
    for image, channel in ((0, 0), (3, 2)):
        away = here.copy()
        away[image, channel] = 0.05
        slope = (objective(away) - objective(-away)) / 0.1
        assert slope == pytest.approx(slopes[image, channel], rel=0.02, abs=1e-6)


def test_training_is_not_disturbed(device: Device) -> None:
    own, plain = (
        Network(PLAIN, batch=4, devices=device, seed=3, fuse=False, image_gradient=x) for x in (True, False)
    )
    for number in range(3):
        for network in (own, plain):
            network.load(**batch_of(PLAIN, 4, number))
            network.train_step(number, 0.02, 0.9)
        own.forward(train=True)
        own.gradients(["data", "conv1"])
    for name, value in plain.state().items():
        assert own.state()[name].tobytes() == value.tobytes()


def test_what_has_no_gradient_is_named() -> None:
    own = probe(PLAIN, "fc2", "cpu:0")
    with pytest.raises(ValueError, match="start must have the shape"):
        own.gradients(["data"], np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="name"):
        own.gradients(["conv9"], start_of(own))
    plain = Network(PLAIN, batch=2, devices="cpu:0")
    plain.load(**batch_of(PLAIN, 2))
    plain.forward(train=True)
    with pytest.raises(ValueError, match="only a network made with image_gradient=True"):
        plain.gradients(["data"])
    with pytest.raises(ValueError, match="layer conv1 has no gradient of its own; fuse=False"):
        plain.gradients(["conv1"])
    with pytest.raises(ValueError, match="only a network without a cost"):
        plain.gradients(["conv2"], np.zeros((2, 4), np.float32))
    two = Network(split(), batch=2, devices=["cpu:0", "cpu:1"], image_gradient=True)
    two.load(**batch_of(split(), 2))
    with pytest.raises(ValueError, match="on one device"):
        two.gradients(["data"])


def split() -> NetSpec:
    return IMAGE.conv(8, 3, split=True).relu().fc(4).softmax("split")


@pytest.mark.parametrize("rule", ["gradient", "guided", "deconvnet"])
@pytest.mark.parametrize("spec", [PLAIN, CHAINS], ids=["plain", "chains"])
def test_pytorch_agrees(spec: NetSpec, rule: str) -> None:
    torch = pytest.importorskip("torch")
    from cconvnet.bench.peers import pytorch_layers, pytorch_net

    layers = [
        dataclasses.replace(layer, enabled=False) if isinstance(layer, DropoutSpec) else layer
        for layer in spec.layers
    ]
    spec = dataclasses.replace(spec, layers=tuple(layers))
    own = probe(spec, spec.answer.inputs[0], "cpu:0")
    for layer in own.layers:
        if isinstance(layer, NeuronLayer | PoolLayer):
            layer.rule = rule
    twin = pytorch_net.Net(neurons_apart(spec)[0], own.state()).eval()
    for pool in twin.pools:
        # By this rule the first of equal maxima alone has what comes back, as in PyTorch.
        pool.every_tie = rule != "deconvnet"

    def changed(module: Any, given: Any, got: Any) -> Any:
        return (torch.relu(got[0] if rule == "deconvnet" else given[0]),)

    for module in twin.modules():
        if isinstance(module, pytorch_layers.Activation) and rule != "gradient":
            module.register_full_backward_hook(changed)
    images = torch.from_numpy(own.outputs("data").transpose(0, 3, 1, 2).copy()).requires_grad_()
    start = start_of(own)
    (scores,) = twin(images)
    scores.backward(torch.from_numpy(start))
    wanted = images.grad.numpy().transpose(0, 2, 3, 1)
    found = own.gradients(["data"], start)["data"]
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
