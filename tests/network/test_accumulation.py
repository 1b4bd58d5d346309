"""Updates by the mean gradient of several batches: its bits, its halts, and what it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import CHAINS, assert_equal, batch_of, conv, gradients, net_of, two_devices

import cconvnet as cc
from cconvnet.devices import Device
from cconvnet.nets import RELU, FcSpec, NetSpec, PoolSpec, place
from cconvnet.network import Network
from cconvnet.network.footprint import Plan

PLAIN = net_of(
    conv("a", 6, neuron=RELU, weight_decay=0.01),
    PoolSpec(name="pool", window=(2, 2), stride=(2, 2)),
    FcSpec(name="hidden", outputs=8, neuron=RELU),
)
NESTEROV = dataclasses.replace(CHAINS, recipe=dataclasses.replace(CHAINS.recipe, nesterov=True))


def made(spec: NetSpec, devices: Any, batch: int = 3, **options: Any) -> Network:
    return Network(spec, batch=batch, devices=devices, seed=2, accumulates=True, **options)


def steps(network: Network, count: int, batches: int, rates: Callable[[int], float] = lambda _: 0.02) -> None:
    """Train by steps of several batches each."""
    for step in range(count):
        for index in range(batches):
            number = step * batches + index
            network.load(**batch_of(network.spec, network.batch, number))
            if index < batches - 1:
                network.accumulate(number)
            else:
                network.train_step(number, rates(step), 0.9)


def test_three_batches_are_one_of_three_times_the_images(device: Device) -> None:
    parts, whole = made(PLAIN, device, 2), Network(PLAIN, batch=6, devices=device, seed=2)
    for step in range(4):
        batch = batch_of(PLAIN, 6, step)
        for index in range(3):
            parts.load(**{name: value[2 * index : 2 * index + 2] for name, value in batch.items()})
            if index < 2:
                parts.accumulate(3 * step + index)
        parts.train_step(3 * step + 2, 0.05, 0.9)
        whole.load(**batch)
        whole.train_step(step, 0.05, 0.9)
    first = Network(PLAIN, batch=6, devices=device, seed=2).state()
    for name, value in whole.state().items():
        assert np.abs(parts.state()[name] - value).max() <= 2e-6, name
        assert np.abs(value - first[name]).max() > 1e-4, name


@pytest.mark.parametrize("spec", [CHAINS, NESTEROV], ids=["plain", "nesterov"])
@pytest.mark.parametrize("batches", [1, 2, 3])
def test_whole_steps_are_their_passes(device: Device, element: str, spec: NetSpec, batches: int) -> None:
    """Captured, replayed, observed and on two devices: the bits are those of gradients summed by hand."""
    places = {"b": 1, "plain": 0}
    one, apart, watched = (
        made(spec, device, precision=element),
        made(place(spec, places), two_devices(device), precision=element),
        made(spec, device, precision=element),
    )
    by_hand = Network(spec, batch=3, devices=device, seed=2, precision=element)
    steps(one, 4, batches)
    steps(apart, 4, batches)
    with watched.observed(lambda owner, device, phase, work, *args: work(*args)):
        steps(watched, 4, batches)
    assert_equal(one.state(), apart.state())
    assert_equal(one.state(), watched.state())

    part = np.float32(1 / batches)
    for step in range(4):
        total: dict[str, Any] = {}
        for index in range(batches):
            by_hand.load(**batch_of(spec, 3, step * batches + index))
            by_hand.forward(train=True, step=step * batches + index)
            by_hand.backward()
            found = gradients(by_hand)
            if index == batches - 1 and total:
                total = {name: part * total[name] + part * value for name, value in found.items()}
            else:
                total = {name: total[name] + value if total else value for name, value in found.items()}
        for name, parameter in by_hand.parameters.items():
            parameter.fill("gradient", total[name])
        by_hand.update(0.02, 0.9)
    for name, value in one.state().items():
        # The mean is one product and one rounded sum here, and may be rounded once on a device.
        bound = 0 if batches == 1 or (element == "fp32" and batches == 2) else 1e-4
        assert np.abs(by_hand.state()[name] - value).max() <= bound * max(1e-2, np.abs(value).max()), name


def test_rates_may_change_and_freeze(device: Device) -> None:
    network, fresh = made(PLAIN, device), made(PLAIN, device)
    steps(network, 4, 2, lambda step: [0.05, 0.0, 0.05, 0.01][step])
    steps(fresh, 1, 2, lambda step: 0.05)
    assert np.any(network.state()["a.weight"] != fresh.state()["a.weight"])
    before = fresh.state()
    steps(fresh, 1, 2, lambda step: 0.0)
    assert_equal(before, fresh.state())


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_bad_loss_in_any_batch_moves_nothing(device: Device, bad: int) -> None:
    x = cc.image(4, 4, 1, scale=1 / 64).conv(4, 3).relu()
    spec = x.fc(3).l2()
    for devices in (device, two_devices(device)):
        network = made(spec if devices is device else place(spec, {"fc1": 1}), devices, 2)
        state = network.state()
        images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1), np.uint8)
        for attempt in range(3):  # run, captured, replayed
            for index in range(3):
                targets = np.full((2, 3), 1e30 if index == bad else 1, np.float32)  # its square is infinite
                network.load(images, targets={"cost": targets})
                if index < 2:
                    network.accumulate(3 * attempt + index)
                else:
                    network.train_step(3 * attempt + index, 0.1, 0.9)
            assert_equal(network.state(), state)
        network.load(images, targets={"cost": np.ones((2, 3), np.float32)})
        network.train_step(9, 0.1, 0.9)
        assert np.isfinite(network.state()["fc1.weight"]).all()
        assert np.any(network.state()["fc1.weight"] != state["fc1.weight"])


def test_checked_batches_have_the_same_bits() -> None:
    plain, checked = made(CHAINS, "cpu:0", fuse=False), made(CHAINS, "cpu:0", fuse=False)
    steps(plain, 2, 2)
    for step in range(2):
        for index in range(2):
            number = 2 * step + index
            checked.load(**batch_of(CHAINS, 3, number))
            if index == 0:
                assert checked.checked_accumulate(number) is None
            else:
                assert checked.checked_step(number, 0.02, 0.9) is None
    assert_equal(plain.state(), checked.state())


def test_sums_take_the_memory_of_the_gradients() -> None:
    without, with_sums = (
        Plan(PLAIN, batch=2, devices="cpu:0", accumulates=accumulates).needs()
        for accumulates in (False, True)
    )
    grown = with_sums.training["cpu:0"] - without.training["cpu:0"]
    parameters = sum(parameter.count for parameter in made(PLAIN, "cpu:0").parameters.values())
    assert grown == 4 * (parameters + 2)  # and the losses of the batch
    assert with_sums.state == without.state
    network = Network(PLAIN, batch=2, devices="cpu:0")
    network.load(**batch_of(PLAIN, 2))
    with pytest.raises(ValueError, match="only a network made with accumulates=True sums gradients"):
        network.accumulate(0)
