"""Batches in shards on one rank: masks, sums, updates and halts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.small_networks import ALEXNET, BRANCHES, CHAINS, SPLIT, assert_equal, batch_of

import cconvnet as cc
from cconvnet.devices import Device
from cconvnet.nets import NetSpec
from cconvnet.network import Network
from cconvnet.network import shards as shards_module
from cconvnet.network.footprint import Plan
from cconvnet.ranks.shares import Share
from cconvnet.ranks.world import World

Array = np.ndarray[Any, Any]

NORMALISED = (
    cc.image(8, 7, 2, stored=(9, 8), scale=1 / 64)
    .conv(8, 3, pad=1, bias=None).bn().relu().maxpool(2).fc(9).relu().dropout(0.5).fc(4).softmax("normalised")
)  # fmt: skip


def network(spec: NetSpec, device: Any, shards: int, batch: int = 8, **options: Any) -> Network:
    share = None
    if shards > 1:
        names = {name: options.pop(name) for name in ("wire", "exchange", "batches") if name in options}
        share = Share(World.alone(), shards, **names)
        options["accumulates"] = share.batches > 1
    return Network(spec, batch=batch // shards, devices=device, seed=3, share=share, **options)


def shard_of(batch: dict[str, Any], number: int, size: int) -> dict[str, Any]:
    here = slice(number * size, (number + 1) * size)
    return {name: value[here] for name, value in batch.items()} | {"first_row": here.start}


def step(own: Network, number: int, batches: int = 1, passes: bool = False) -> list[float]:
    """Do a step of 8 images times `batches`; with `passes` by forward, backward and update."""
    share = own.graph.shards.share if own.graph.shards is not None else None
    count = 1 if share is None else share.count
    losses = []
    for shard in range(count):
        for index in range(batches):
            batch = batch_of(own.spec, own.batch * count, 100 * number + index)
            own.load(**shard_of(batch, shard, own.batch))
            last = index == batches - 1
            if not (last and shard == count - 1):
                own.accumulate(number * batches + index, last and count > 1)
            elif passes:
                own.forward(True, number * batches + index)
                own.backward()
                own.update(0.02, 0.9)
            else:
                own.train_step(number * batches + index, 0.02, 0.9)
            losses.append(own.result().loss)
    return losses


@pytest.mark.parametrize("spec", [BRANCHES, CHAINS, ALEXNET], ids=lambda spec: spec.name)
@pytest.mark.parametrize("shards", [2, 4])
def test_shards_train_as_the_whole_batch(spec: NetSpec, shards: int, device: Device) -> None:
    """The same images and the same masks, so that only rounding differs."""
    whole, parts = network(spec, device, 1), network(spec, device, shards)
    for number in range(2):
        (loss,) = step(whole, number)
        assert np.mean(step(parts, number)) == pytest.approx(loss, rel=1e-5)
    for name, value in whole.state().items():
        scale = max(np.abs(value).max(), 1e-3)
        assert np.abs(parts.state()[name] - value).max() <= 2e-4 * scale, name


def sgd_by_hand(spec: NetSpec, device: Any, shards: int, wire: str) -> dict[str, Array]:
    """Return the weights after a step whose gradients NumPy adds in the tree."""
    alone = network(spec, device, 1, batch=8 // shards)
    sums: list[tuple[int, dict[str, Array]]] = []
    for shard in range(shards):
        alone.load(**shard_of(batch_of(spec, 8, 0), shard, alone.batch))
        alone.forward(True, 0)
        alone.backward()
        found = {name: own.host("gradient") for name, own in alone.parameters.items()}
        if wire == "bf16":
            found = {name: rounded(value, device) for name, value in found.items()}
        sums.append((1, found))
        while len(sums) > 1 and sums[-2][0] == sums[-1][0]:
            (count, right), (_, left) = sums.pop(), sums.pop()
            sums.append((2 * count, {name: left[name] + right[name] for name in left}))
    ((_, total),) = sums
    for name, own in alone.parameters.items():
        (piece,) = own.pieces
        piece.fill("gradient", (total[name] * np.float32(1 / shards)).reshape(piece.value.shape))
    alone.update(0.02, 0.9)
    return alone.state()


def rounded(values: Array, device: Any) -> Array:
    own = device.array(values)
    half = device.empty(values.shape, np.uint16)
    device.module.to_bf16(own, half, device.stream)
    device.module.from_bf16(half, own, device.stream)
    return device.host(own)


@pytest.mark.parametrize("wire", ["fp32", "bf16"])
@pytest.mark.parametrize("spec", [BRANCHES, NORMALISED], ids=lambda spec: spec.name)
def test_gradients_are_added_in_the_tree(
    spec: NetSpec, wire: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running averages too: their news is the mean over the shards of the statistics of each."""
    monkeypatch.setattr(shards_module, "BUCKET", 200)  # several, that cut parameters
    own = network(spec, device, 4, wire=wire, exchange="gradients")
    assert own.graph.shards is not None and len(own.graph.shards.buckets) > 2
    step(own, 0)
    assert_equal(sgd_by_hand(spec, device, 4, wire), own.state())


def test_the_passes_by_themselves_are_a_step(device: Device) -> None:
    one, other = (network(CHAINS, device, 4, batches=2) for _ in range(2))
    for number in range(3):  # the second is captured on a GPU
        step(one, number, batches=2)
        step(other, number, batches=2, passes=True)
    assert_equal(one.state(), other.state())


@pytest.mark.parametrize("batches", [1, 3])
def test_factors_give_the_gradients_of_fc_layers(batches: int, device: Device) -> None:
    """One product over all images, so that only rounding differs from the sum over shards."""
    factors = network(ALEXNET, device, 4, batches=batches)
    sums = network(ALEXNET, device, 4, batches=batches, exchange="gradients")
    assert factors.graph.shards is not None and sums.graph.shards is not None
    names = [one.layer.name for one in factors.graph.shards.factors.values()]
    # fc6 and fc8 have 1,700 weights, and of 24 images 24 * (170 + 10) factors.
    assert names == {1: ["fc8", "fc7", "fc6"], 3: ["fc7"]}[batches]
    assert not sums.graph.shards.factors
    assert factors.graph.shards.count < sums.graph.shards.count
    for number in range(2):
        step(factors, number, batches), step(sums, number, batches)
    for name, value in sums.state().items():
        scale = max(np.abs(value).max(), 1e-3)
        assert np.abs(factors.state()[name] - value).max() <= 1e-4 * scale, name


@pytest.mark.parametrize("bad", range(4))
def test_a_bad_loss_of_any_shard_halts_the_update(bad: int, device: Device) -> None:
    own = network(BRANCHES, device, 4)
    step(own, 0)
    before = own.state()
    for shard in range(4):
        batch = shard_of(batch_of(BRANCHES, 8, 1), shard, 2)
        if shard == bad:
            batch["shift"] = np.full_like(batch["shift"], np.inf)
        own.load(**batch)
        if shard < 3:
            own.accumulate(1, ends_shard=True)
        else:
            own.train_step(1, 0.02, 0.9)
    assert_equal(before, own.state())
    step(own, 2)
    assert any(value.tobytes() != before[name].tobytes() for name, value in own.state().items())


@pytest.mark.parametrize("shards", [1, 2])
def test_nothing_halts_before_the_first_loss(shards: int, device: Device) -> None:
    graph = network(BRANCHES, device, shards).graph
    updates = graph.updates or graph.shards
    assert updates is not None and device.host(updates.halt).tolist() == [0]


def test_bf16_keeps_working_weights_up_to_date(device: Device) -> None:
    if not device.serves("bf16"):
        pytest.skip("no bf16 here")
    own = network(CHAINS, device, 2, precision="bf16")
    for number in range(2):
        step(own, number)
    again = network(CHAINS, device, 2, precision="bf16")
    again.load_state(own.state())
    for one in (own, again):
        step(one, 2)
    assert_equal(own.state(), again.state())


def test_what_has_no_meaning_is_refused() -> None:
    whole = network(BRANCHES, "cpu:0", 1)
    whole.load(**batch_of(BRANCHES, 8))
    with pytest.raises(ValueError, match="only a network made with a share has shards"):
        whole.accumulate(0, ends_shard=True)
    with pytest.raises(ValueError, match="first_row must be at least 0, not -1"):
        whole.load(**batch_of(BRANCHES, 8), first_row=-1)
    with pytest.raises(ValueError, match="shards are for networks on one device, not on 2"):
        network(SPLIT, ["cpu:0", "cpu:1"], 2)


@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_a_plan_knows_what_a_step_exchanges(wire: str) -> None:
    """Of all FC layers of ALEXNET the factors of 8 images are exchanged."""
    world = World.alone()
    world.size = 4
    moved, plain = (
        Plan(ALEXNET, batch=2, devices="cpu:0", share=Share(world, 4, wire, exchange=way)).exchanged()
        for way in ("auto", "gradients")
    )
    assert moved.gradients == moved.weights // (2 if wire == "bf16" else 1)
    assert (plain.factors, plain.products) == (0, 0)
    own = network(ALEXNET, "cpu:0", 4).graph
    assert own.shards is not None
    sizes = [(one.c, one.k) for factors in own.shards.factors.values() for one in factors.problems]
    assert len(sizes) == 3
    assert moved.factors == sum(8 * 4 * (c + k) for c, k in sizes)
    assert moved.products == sum(8 * c * k for c, k in sizes)
    assert moved.bytes == moved.gradients + moved.weights + moved.factors
    # Slices are rounded up.
    assert plain.weights - moved.weights == pytest.approx(sum(4 * c * k for c, k in sizes), abs=4096)
    with pytest.raises(ValueError, match="only a network made with a share exchanges anything"):
        Plan(ALEXNET, batch=2, devices="cpu:0").exchanged()
