"""The layer of distances from codes: its formula, its gradient, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_networks import batch_of, conv, net_of

from cconvnet.devices import Device
from cconvnet.nets import FcSpec, NetSpec, RbfSpec, SoftmaxCostSpec, chain
from cconvnet.network import Network
from cconvnet.network.gradcheck import gradcheck

CODES = ("++-+-", "-+--+", "+++++", "-----")


def coded() -> NetSpec:
    spec = net_of(conv("c"))
    ends = FcSpec(name="hidden", outputs=5), RbfSpec(name="rbf", codes=CODES), SoftmaxCostSpec(name="cost")
    return NetSpec("coded", chain(spec.layers[0], *ends), spec.input, spec.stored, 4, spec.recipe)


def test_outputs_are_minus_the_squared_distances(device: Device, precision: str) -> None:
    network = Network(coded(), batch=3, devices=device, seed=1, precision=precision)
    network.load(**batch_of(network.spec, 3))
    network.forward(train=False)
    x, y = network.outputs("hidden").astype(np.float64), network.outputs("rbf")
    signs = np.array([[1 if sign == "+" else -1 for sign in code] for code in CODES])
    right = -((x[:, None, :] - signs) ** 2).sum(2)
    bound = {"fp32": 1e-6, "fp32x3": 1e-5, "tf32": 2e-3, "bf16": 2e-2}[precision]
    assert right.std() > 0.1
    assert np.abs(y - right).max() <= bound * np.abs(right).max()


def test_gradients(device: Device) -> None:
    report = gradcheck(coded(), device, batch=3)
    assert report.ok, report.failures


def test_codes_are_no_parameters() -> None:
    network = Network(coded(), batch=1, devices="cpu:0")
    assert set(network.parameters) == {"c.weight", "c.bias", "hidden.weight", "hidden.bias"}


def test_codes_of_another_length_than_the_activation_are_refused() -> None:
    spec = net_of(conv("c"), RbfSpec(name="rbf", codes=("+-",)))
    with pytest.raises(ValueError, match="codes must have 168 signs, as many as c has values, not 2"):
        Network(spec, batch=2, devices="cpu:0")
