"""Gradients of networks, and faults that the check of gradients finds."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import BRANCHES, SPLIT, batch_of, conv, gradients, net_of, two_devices

import cconvnet as cc
from cconvnet import nets
from cconvnet.devices import Device, get_device
from cconvnet.nets import (
    NEURONS,
    NetSpec,
    Neuron,
    NeuronSpec,
)
from cconvnet.network import Network
from cconvnet.network.gradcheck import FINITE_DIFFERENCES, gradcheck, small_spec

# One of each kind: a check of a deep network takes many times as long.
CHECKED = (
    "lenet",
    "cifar-18pct",
    "cifar-13pct",
    "cifar-11pct",
    "alexnet",
    "alexnet-2012",
    "mcdnn-mnist",
    "lenet-5",
)


@pytest.mark.parametrize("name", CHECKED)
def test_gradients_of_networks_of_each_kind(name: str) -> None:
    report = gradcheck(small_spec(name), "cpu:0", batch=2)
    assert report.ok, report.failures
    parameters = {check.name for check in report.checks if check.against == FINITE_DIFFERENCES}
    network = Network(small_spec(name), batch=1, devices="cpu:0")
    assert parameters == set(network.parameters)
    activations = {check.name for check in report.checks if check.against == "cpu:0"} - parameters
    assert activations == {layer.name for layer in network.spec.layers}
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True
    header, rows = report.table()
    assert header[1:] == [FINITE_DIFFERENCES, "cpu:0"]
    assert len(rows) == len(parameters) + len(activations)


def one_sided() -> NetSpec:
    """A network with dilation, padding of one side, and means that count the padding."""
    x = cc.image(11, 10, 2).conv(4, (3, 2), 2, (1, 0), rounding="ceil").relu()
    x = x.conv(4, 3, pad=((2, 3), 2), dilation=(2, 1)).tanh()
    x = x.avgpool(3, 1, ((1, 0), 1), count_padding=True)
    x = x.conv(4, 3, 2, pad=(0, (1, 0)), dilation=2, groups=2, rounding="ceil")
    return x.maxpool(2, 1, ((0, 1), 0)).local(3, 2, pad=((0, 1), 0)).fc(3).softmax("one-sided")


@pytest.mark.parametrize("spec", [nets.build("lenet"), BRANCHES, one_sided()], ids=lambda spec: spec.name)
def test_gradients_on_every_device(device: Device, spec: NetSpec) -> None:
    report = gradcheck(spec, device, batch=3, seed=1)
    assert report.ok, report.failures


def test_gradients_across_two_devices(device: Device) -> None:
    report = gradcheck(SPLIT, two_devices(device))
    assert report.ok, report.failures


@pytest.mark.parametrize("kind", NEURONS)
@pytest.mark.parametrize("where", ["in conv", "own layer"])
def test_gradients_of_every_neuron(kind: str, where: str) -> None:
    neuron = Neuron(kind, 0.8, 0.3)
    # The root needs positive values and a slope that is not too steep.
    before = conv("c", neuron=Neuron("softrelu")) if kind == "sqrt" else conv("c")
    spec = net_of(before, NeuronSpec(name="f", neuron=neuron))
    if where == "in conv" and kind != "sqrt":
        spec = net_of(conv("c", neuron=neuron))
    report = gradcheck(spec, "cpu:0", batch=3)
    assert report.ok, report.failures


def test_the_costs_coefficient_multiplies_the_gradients() -> None:
    spec = net_of(conv("c"))
    cost = dataclasses.replace(spec.layers[-1], coeff=0.25)
    scaled = dataclasses.replace(spec, layers=(*spec.layers[:-1], cost))
    assert gradcheck(scaled, "cpu:0").ok
    found = []
    for each in (spec, scaled):
        network = Network(each, batch=2, devices="cpu:0")
        network.load(**batch_of(each, 2))
        network.forward(train=True)
        network.backward()
        found.append((network.result().loss, gradients(network)["c.weight"]))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[1][1], 0.25 * found[0][1], rtol=1e-6)


OPERATIONS = [
    "conv_wgrad",
    "conv_dgrad",
    "bias_grad",
    "relu_bias_backward",
    "fc_dgrad",
    "lrn_backward",
    "avgpool_backward",
    "add",
]


def corrupt(monkeypatch: pytest.MonkeyPatch, device: str, operation: str) -> None:
    """Makes an operation of a device wrong in the simplest way: 1% in its last array."""
    module = get_device(device).module
    right = getattr(module, operation)

    def wrong(*arguments: Any, **rest: Any) -> None:
        right(*arguments, **rest)
        outputs = [a for a in arguments if isinstance(a, np.ndarray) and a.dtype != np.uint8]
        outputs[-1] *= 1.01

    monkeypatch.setattr(module, operation, wrong)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("device_name", ["cpu:0", "emulator:0"])
def test_gradcheck_finds_a_wrong_kernel(
    monkeypatch: pytest.MonkeyPatch, device_name: str, operation: str
) -> None:
    corrupt(monkeypatch, device_name, operation)
    report = gradcheck(BRANCHES, device_name)
    assert {check.against for check in report.failures} == {device_name}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradcheck_finds_a_wrong_formula(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    corrupt(monkeypatch, "reference:0", operation)
    report = gradcheck(BRANCHES, "cpu:0")
    assert FINITE_DIFFERENCES in {check.against for check in report.failures}


def test_gradcheck_finds_one_wrong_element(monkeypatch: pytest.MonkeyPatch) -> None:
    module = get_device("reference:0").module
    right = module.fc_wgrad

    def wrong(problem: Any, x: Any, dy: Any, dw: Any, *rest: Any, **named: Any) -> None:
        right(problem, x, dy, dw, *rest, **named)
        dw[-1, -1] = dw[-1, -1] * 2 + 0.01

    monkeypatch.setattr(module, "fc_wgrad", wrong)
    report = gradcheck(BRANCHES, "cpu:0")
    assert {"last.weight", "hidden.weight"} <= {
        c.name for c in report.failures if c.against == FINITE_DIFFERENCES
    }


def test_gradcheck_does_not_pass_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    module = get_device("cpu:0").module
    monkeypatch.setattr(module, "bias_grad", lambda problem, dy, db, *rest: db.fill(np.nan))
    report = gradcheck(BRANCHES, "cpu:0")
    assert "left.bias" in {check.name for check in report.failures}
