"""Nesterov's momentum in networks: the recipe's flag reaches every update, joined, fused or alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.small_networks import (
    CHAINS,
    assert_equal,
    batch_of,
    gradients,
    step_by_step,
    two_devices,
)

from cconvnet.devices import Device
from cconvnet.nets import NetSpec, place, spec_from_dict, spec_to_dict
from cconvnet.network import Network


def nesterov(spec: NetSpec) -> NetSpec:
    return dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, nesterov=True))


def test_twenty_steps_are_the_formula_s_and_pytorch_s(device: Device) -> None:
    """Steps of whole networks equal steps pass by pass, and the rule in float64 on the same gradients."""
    rate, momentum = 0.01, 0.9
    fused, apart = (Network(nesterov(CHAINS), batch=3, devices=device, seed=2) for _ in range(2))
    w = {name: p.host().astype(np.float64) for name, p in apart.parameters.items()}
    v = {name: np.zeros_like(value) for name, value in w.items()}
    seen = []
    for step in range(20):
        for network in (fused, apart):
            network.load(**batch_of(CHAINS, 3, step))
        fused.train_step(step, rate, momentum)
        apart.forward(train=True, step=step)
        apart.backward()
        seen.append(gradients(apart))
        apart.update(rate, momentum)
        for name, parameter in apart.parameters.items():
            pull = rate * parameter.rate_factor * (seen[-1][name] + parameter.weight_decay * w[name])
            v[name] = momentum * v[name] - pull
            w[name] += momentum * v[name] - pull
    assert_equal(fused.state(), apart.state())
    for name, value in w.items():
        assert np.abs(apart.parameters[name].host() - value).max() <= 1e-6, name

    torch = pytest.importorskip("torch")
    first = Network(nesterov(CHAINS), batch=3, devices=device, seed=2).parameters
    theirs = {name: torch.from_numpy(p.host().copy()).requires_grad_() for name, p in first.items()}
    groups = [
        {"params": [theirs[name]], "lr": rate * p.rate_factor, "weight_decay": p.weight_decay}
        for name, p in first.items()
    ]
    optimizer = torch.optim.SGD(groups, momentum=momentum, nesterov=True)
    for found in seen:
        for name, tensor in theirs.items():
            tensor.grad = torch.from_numpy(found[name].copy())
        optimizer.step()
    for name, tensor in theirs.items():
        assert np.abs(apart.parameters[name].host() - tensor.detach().numpy()).max() <= 1e-6, name


def test_it_is_another_course_and_the_same_on_two_devices(device: Device) -> None:
    plain, one = (Network(spec, batch=3, devices=device, seed=2) for spec in (CHAINS, nesterov(CHAINS)))
    apart = place(nesterov(CHAINS), {"b": 1})
    two = Network(apart, batch=3, devices=two_devices(device), seed=2)
    losses = [step_by_step(network, 4) for network in (plain, one, two)]
    assert losses[1] == losses[2] and losses[0][2:] != losses[1][2:]
    assert_equal(one.state(), two.state())


def test_a_recipe_keeps_it() -> None:
    assert "nesterov" not in spec_to_dict(CHAINS)["recipe"]
    assert spec_from_dict(spec_to_dict(nesterov(CHAINS))).recipe.nesterov
