"""FC layers of which each rank computes some outputs: products, updates and halts, on one rank."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import ALEXNET, BRANCHES, CHAINS, RELU, assert_equal, batch_of, conv, net_of

import cconvnet as cc
from cconvnet.devices import Device
from cconvnet.nets import DropoutSpec, FcSpec, NetSpec
from cconvnet.network import Network
from cconvnet.network.footprint import Plan
from cconvnet.ranks.shares import Share
from cconvnet.ranks.world import World

SHARDS = 4
# Products of two inputs each, and one whose outputs the shards do not divide.
TOWERS = net_of(
    conv("a", 8, neuron=RELU, split=True),
    FcSpec(name="one", outputs=16, neuron=RELU, split=True),
    DropoutSpec(name="drop", keep=0.6, split=True),
    FcSpec(name="two", outputs=8, bias=None, split=True),
    FcSpec(name="three", outputs=6),
)


def network(
    spec: NetSpec, device: Any, parallel: str = "hybrid", batches: int = 1, **options: Any
) -> Network:
    share = Share(World.alone(), SHARDS, batches=batches, parallel=parallel)
    return Network(spec, batch=2, devices=device, seed=3, share=share, accumulates=batches > 1, **options)


def step(own: Network, number: int, batches: int = 1, bad: int | None = None) -> list[float]:
    """Do a step of 8 images times `batches`; the losses of shard `bad` are not finite."""

    def load(shard: int, index: int) -> int:
        batch = batch_of(own.spec, 8, 100 * number + index)
        here = slice(2 * shard, 2 * shard + 2)
        batch = {name: value[here] for name, value in batch.items()}
        if shard == bad:
            batch["shift"] = np.full_like(batch["shift"], np.inf)
        own.load(**batch, first_row=here.start)
        return number * batches + index

    places = [(shard, index) for shard in range(SHARDS) for index in range(batches)]
    if own.graph.levels:
        loads = [functools.partial(load, *place) for place in places]
        return [result().loss for result in own.train_together(loads, 0.02, 0.9)]
    losses = []
    for place in places:
        name = load(*place)
        if place == places[-1]:
            own.train_step(name, 0.02, 0.9)
        else:
            own.accumulate(name, ends_shard=place[1] == batches - 1)
        losses.append(own.result().loss)
    return losses


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("spec", [CHAINS, TOWERS], ids=["chains", "towers"])
def test_it_trains_as_data_parallelism(spec: NetSpec, batches: int, device: Device) -> None:
    """The same products and masks, so that only rounding differs."""
    options: dict[str, Any] = {"batches": batches, "towers": 2 if spec is TOWERS else 1}
    hybrid, data = (network(spec, device, way, **options) for way in ("hybrid", "data"))
    assert len(hybrid.graph.levels) == (4 if spec is TOWERS else 5)
    for number in range(2):
        assert step(hybrid, number, batches) == pytest.approx(step(data, number, batches), rel=1e-5)
    for name, value in data.state().items():
        scale = max(np.abs(value).max(), 1e-3)
        assert np.abs(hybrid.state()[name] - value).max() <= 2e-4 * scale, name


@pytest.mark.parametrize("bad", range(SHARDS))
def test_a_bad_loss_of_any_shard_halts_the_update(bad: int, device: Device) -> None:
    own = network(CHAINS, device)
    step(own, 0)
    before = own.state()
    assert [math.isfinite(loss) for loss in step(own, 1, bad=bad)] == [
        shard != bad for shard in range(SHARDS)
    ]
    assert_equal(before, own.state())
    step(own, 2)
    assert all(value.tobytes() != before[name].tobytes() for name, value in own.state().items())


def test_between_steps_a_batch_has_its_own_products(device: Device) -> None:
    own, plain = network(CHAINS, device), Network(CHAINS, batch=2, devices=device, seed=3)
    step(own, 0)
    plain.load_state(own.state())
    for one in (own, plain):
        one.load(**batch_of(CHAINS, 2))
        one.forward(train=True, step=5)
        one.backward()
    assert own.result().loss == plain.result().loss
    for name, parameter in plain.parameters.items():
        if parameter.of == "weight":
            found, wanted = own.parameters[name].host("gradient"), parameter.host("gradient")
            assert np.abs(found - wanted).max() <= 1e-5 * max(np.abs(wanted).max(), 1e-3), name


def test_bf16_keeps_working_weights_up_to_date(device: Device) -> None:
    if not device.serves("bf16"):
        pytest.skip("no bf16 here")
    own, again = (network(CHAINS, device, precision="bf16") for _ in range(2))
    for number in range(2):
        step(own, number)
    again.load_state(own.state())
    for one in (own, again):
        step(one, 2)
    assert_equal(own.state(), again.state())


def test_a_plan_knows_what_a_step_exchanges() -> None:
    world = World.alone()
    world.size = SHARDS
    share = Share(world, SHARDS, exchange="gradients", parallel="hybrid")
    moved = Plan(CHAINS, batch=2, devices="cpu:0", share=share).exchanged()
    sizes = [(48, 8), (8, 8), (8, 8), (8, 4)]
    # Inputs and their gradients of eight images; of outputs the columns of one rank at a time.
    assert moved.columns == sum(4 * 8 * (2 * c + 2 * k // SHARDS) for c, k in sizes)
    assert moved.bytes == moved.gradients + moved.weights + moved.columns


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(
        ValueError, match="needs an FC layer whose outputs 4 shards can divide; alexnet has none"
    ):
        network(ALEXNET, "cpu:0")
    with pytest.raises(ValueError, match="lars is for data parallelism, not for hybrid"):
        network(CHAINS, "cpu:0", lars=0.1)
    with pytest.raises(ValueError, match="networks with one cost; heads has more"):
        network(heads(), "cpu:0")
    with pytest.raises(ValueError, match="layer sum1: it reads fc1, which is before an FC layer"):
        network(across(), "cpu:0")
    own = network(CHAINS, "cpu:0")
    own.load(**batch_of(CHAINS, 2))
    for call in (
        functools.partial(own.train_step, 0, 0.02, 0.9),
        functools.partial(own.checked_step, 0, 0.02, 0.9),
        functools.partial(own.accumulate, 0, True),
        functools.partial(own.update, 0.02, 0.9),
    ):
        with pytest.raises(ValueError, match="takes steps by train_together"):
            call()
    with pytest.raises(ValueError, match="only a network of hybrid parallelism trains together"):
        network(BRANCHES, "cpu:0", "data").train_together([], 0.02, 0.9)


def heads() -> NetSpec:
    x = cc.image(8, 8, 1).conv(4, 3).relu()
    return x.fc(8).relu().fc(4).softmax("heads", heads=[x.fc(4).head(0.3)])


def across() -> NetSpec:
    x = cc.image(8, 8, 1).fc(8).relu()
    return (x + x.fc(8)).fc(3).softmax("across")
