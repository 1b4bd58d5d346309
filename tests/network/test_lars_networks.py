"""LARS: the rate of each layer's weights is in proportion to their norm and that of their gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.small_networks import ALEXNET, BRANCHES, CHAINS, assert_equal, batch_of, train

from cconvnet.devices import Device
from cconvnet.nets import NetSpec
from cconvnet.network import Network
from cconvnet.ranks.shares import Share
from cconvnet.ranks.world import World

ETA, LR, MOMENTUM = 0.01, 2.0, 0.9


def network(spec: NetSpec, device: Any, batch: int = 4, **options: Any) -> Network:
    return Network(spec, batch=batch, devices=device, seed=3, **{"lars": ETA, **options})


@pytest.mark.parametrize("spec", [BRANCHES, ALEXNET], ids=lambda spec: spec.name)
def test_a_step_is_in_proportion_to_the_weights(spec: NetSpec, device: Device) -> None:
    own, plain = network(spec, device), network(spec, device, lars=0.0)
    for one in (own, plain):
        one.load(**batch_of(spec, 4))
    before = own.state()
    plain.forward(True, 0)
    plain.backward()
    own.train_step(0, LR, MOMENTUM)
    after = own.state()
    for name, parameter in own.parameters.items():
        w, g = before[name].astype(np.float64), plain.parameters[name].host("gradient").astype(np.float64)
        decay, rate = parameter.weight_decay, LR * parameter.rate_factor
        if parameter.of == "weight" and np.any(g):
            rate *= ETA * np.linalg.norm(w) / (np.linalg.norm(g) + decay * np.linalg.norm(w))
        step = -rate * (g + decay * w)
        np.testing.assert_allclose(
            after[f"{name}.velocity"], step, rtol=1e-4, atol=1e-6 * np.abs(step).max(), err_msg=name
        )
        np.testing.assert_allclose(after[name], w + step, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_passes_by_themselves_are_a_step(device: Device) -> None:
    one, other = network(CHAINS, device), network(CHAINS, device)
    train(one, 3)
    for step in range(3):
        other.load(**batch_of(CHAINS, 4, step))
        other.train_step(step, 0.02, 0.9)
    assert_equal(one.state(), other.state())


def test_shards_have_the_rates_of_the_whole_gradient(device: Device) -> None:
    whole = network(ALEXNET, device, 8)
    shards = network(ALEXNET, device, 2, share=Share(World.alone(), 4))
    for number in range(2):
        batch = batch_of(ALEXNET, 8, number)
        whole.load(**batch)
        whole.train_step(number, LR, MOMENTUM)
        for shard in range(4):
            here = slice(2 * shard, 2 * shard + 2)
            shards.load(**{name: value[here] for name, value in batch.items()}, first_row=here.start)
            if shard < 3:
                shards.accumulate(number, ends_shard=True)
            else:
                shards.train_step(number, LR, MOMENTUM)
    for name, value in whole.state().items():
        scale = max(np.abs(value).max(), 1e-3)
        assert np.abs(shards.state()[name] - value).max() <= 2e-4 * scale, name


def test_several_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="lars is for networks on one device, not on 2"):
        network(ALEXNET, ["cpu:0", "cpu:1"])
