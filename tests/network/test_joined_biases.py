"""Biases of equal rates are neighbours in memory, and one update moves them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import assert_equal, batch_of, conv, net_of

from cconvnet import optim
from cconvnet.devices import Device
from cconvnet.nets import RELU
from cconvnet.network import Network

# Rates of 2, the usual factor of biases, a rate and a momentum of their own, and none.
SPEC = net_of(
    conv("a", 6, neuron=RELU),
    conv("b", 8, neuron=RELU, bias_lr_scale=1.0),
    conv("c", 5, neuron=RELU),
    conv("d", 4, bias_momentum=0.5),
    conv("e", 4, bias_lr_scale=0.0),
)


def updates_of(network: Network, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many weights or biases each update of the next step moves, behind products' own."""
    module, counts = network.devices[0].module, []
    move = module.sgd_update

    def count(problem: Any, *args: Any, **options: Any) -> None:
        counts.append(problem.count)
        move(problem, *args, **options)

    monkeypatch.setattr(module, "sgd_update", count, raising=False)
    network.load(**batch_of(SPEC, 2))
    network.train_step(0, 0.1, 0.9)
    return counts


def test_biases_of_equal_rates_move_at_once(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(SPEC, batch=2, devices=device)
    assert network.graph.updates is not None
    counts = updates_of(network, monkeypatch)
    # 6, 5 and 4 biases are padded; those of b and d move alone, e's not at all.
    assert sorted(counts) == [4, 8, 8 + 8 + 4] and counts[-1] == 20
    assert network.graph.updates.joined == {"a.bias", "c.bias", "last.bias"}


RATES: list[float | Mapping[str, float]] = [
    0.1,
    dict.fromkeys(Network(SPEC, batch=2, devices="cpu:0").parameters, 0.1) | {"c.bias": 0.3},
    dict.fromkeys(Network(SPEC, batch=2, devices="cpu:0").parameters, 0.1)
    | {"a.bias": 0.0, "c.bias": 0.0, "last.bias": 0.0},
]


@pytest.mark.parametrize("rates", RATES, ids=["equal", "one_differs", "frozen"])
def test_they_move_as_alone(device: Device, element: str, rates: float | Mapping[str, float]) -> None:
    joined, alone = (Network(SPEC, batch=2, devices=device, seed=1, precision=element) for _ in range(2))
    for step, lr in enumerate([0.1, rates, rates, 0.1]):
        for network in (joined, alone):
            network.load(**batch_of(SPEC, 2, step))
        joined.train_step(step, lr, 0.9)
        alone.forward(train=True, step=step)
        alone.backward()
        alone.update(lr, 0.9)
    assert_equal(joined.state(), alone.state())


def test_vectors_of_them_may_be_loaded(device: Device) -> None:
    network = Network(SPEC, batch=2, devices=device)
    assert network.graph.updates is not None
    for group in network.graph.updates.groups:
        for tensor in ("value", "gradient", "velocity"):
            whole = getattr(group, tensor)
            for parameter in group.parameters:
                (piece,) = parameter.pieces
                own = getattr(piece, tensor)
                if device.kind != "cuda":
                    assert np.shares_memory(own, whole)
                    assert (own.ctypes.data - whole.ctypes.data) % 16 == 0


def test_their_memory_is_counted_once(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = net_of(conv("a", 8), conv("b", 8))
    joined = Network(spec, batch=2, devices=device)
    monkeypatch.setattr(optim, "_joinable", lambda parameters: [])
    assert joined.memory == Network(spec, batch=2, devices=device).memory
