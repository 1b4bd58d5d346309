"""Transfers by NCCL, with a stand-in for it: the calls of all ranks fit together, and so do the results."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from helpers.fake_nccl import FakeGpu, Nccl
from helpers.small_networks import ALEXNET, CHAINS, assert_equal, batch_of
from helpers.thread_ranks import on_ranks

from cconvnet.network import Network
from cconvnet.network import shards as shards_module
from cconvnet.ranks.shares import Share
from cconvnet.ranks.world import World

SHARDS, STEPS = 4, 4


def train(
    device: FakeGpu, share: Share, lars: float = 0.0, bad: tuple[int, int] | None = None
) -> tuple[dict[str, Any], list[int]]:
    """Train on shards of batches of eight images.

    Args:
        device: where.
        share: the shards.
        lars: of the rates.
        bad: a step and a shard whose loss is not finite.

    Returns:
        The state, and the bytes that were sent in each step.
    """
    spec = CHAINS if share.hybrid else ALEXNET
    network = Network(spec, batch=8 // SHARDS, devices=device, seed=3, share=share, lars=lars, needs=None)
    network.connect()
    assert network.graph.shards is not None
    if network.graph.shards.wires is not None:
        device.wires = network.graph.shards.wires
    sent = [0]

    def load(number: int, shard: int) -> int:
        rows = slice(shard * network.batch, (shard + 1) * network.batch)
        images = {name: value[rows] for name, value in batch_of(spec, 8, number).items()}
        if (number, shard) == bad:
            images["shift"] = np.full_like(images["shift"], np.inf)
        network.load(**images, first_row=rows.start)
        return number

    for number in range(STEPS):
        if share.hybrid:
            network.train_together([functools.partial(load, number, shard) for shard in share.own], 0.02, 0.9)
        for shard in () if share.hybrid else share.own:
            load(number, shard)
            if shard < share.own[-1]:
                network.accumulate(number, ends_shard=True)
            else:
                network.train_step(number, 0.02, 0.9)
        assert not device.transfers, "work that did not wait for a transfer"
        sent.append(network.sent_bytes)
    return network.state(), np.diff(sent).tolist()


Trained = tuple[list[dict[str, Any]], list[list[int]], list[list[Any]]]


def run(ranks: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Trained:
    """Return the states of all ranks, each a thread, the bytes that they sent, and their calls of NCCL."""
    more = {name: options.pop(name) for name in ("lars", "bad") if name in options}
    calls: list[list[Any]] = [[] for _ in range(ranks)]
    monkeypatch.setattr(shards_module, "BUCKET", 2000)
    monkeypatch.setattr(shards_module, "nccl_for", lambda world, device: Nccl(world.meeting, device, calls))
    found = on_ranks(ranks, lambda world: train(FakeGpu(), Share(world, SHARDS, **options), **more))
    return [state for state, _ in found], [sent for _, sent in found], calls


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_ranks_with_nccl_have_the_bits_of_one(ranks: int, wire: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, _ = train(FakeGpu(), Share(World.alone(), SHARDS, wire))
    states, _, _ = run(ranks, monkeypatch, wire=wire)
    assert_equal(alone, states[0])
    for state in states[1:]:  # whose momentum is their own slices'
        assert_equal(*({name: own[name] for name in ALEXNET_VALUES} for own in (alone, state)))


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("bad", [None, (2, 1)])
def test_ranks_that_compute_fc_layers_together_have_the_bits_of_one(
    ranks: int, bad: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, _ = train(FakeGpu(), Share(World.alone(), SHARDS, parallel="hybrid"), bad=bad)
    states, bytes_sent, calls = run(ranks, monkeypatch, parallel="hybrid", bad=bad)
    assert_equal(alone, states[0])
    values = [name for name in alone if not name.endswith(".velocity")]
    for state in states[1:]:
        assert_equal(*({name: own[name] for name in values} for own in (alone, state)))
    # A rank with several batches loads them between exchanges, so that its step cannot be captured.
    captured = [any(call[5] for call in own) for own in calls]
    assert captured == {2: [False] * 2, 3: [True, True, False], 4: [True] * 4}[ranks]
    for own in bytes_sent:
        assert len(set(own)) == 1


# The bytes of a number, and to how many ranks it goes if not to all others; flags are not counted.
BYTES = {"NCCL_FLOAT32": 4, "NCCL_INT32": 4}
TIMES = {"send": 1, "recv": 0, "allReduce": 0}
ALEXNET_VALUES = list(Network(ALEXNET, batch=1, devices="cpu:0", needs=None).parameters)


def test_rates_of_whole_gradients_are_those_of_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, _ = train(FakeGpu(), Share(World.alone(), SHARDS), lars=0.01)
    states, _, _ = run(3, monkeypatch, lars=0.01)
    assert_equal(alone, states[0])


@pytest.mark.parametrize("bad", [(0, 0), (2, 1), (3, 3)])
def test_a_bad_loss_on_any_rank_halts_all(bad: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    alone, _ = train(FakeGpu(), Share(World.alone(), SHARDS), bad=bad)
    states, _, _ = run(3, monkeypatch, bad=bad)
    for state in states:
        assert_equal(*({name: own[name] for name in ALEXNET_VALUES} for own in (alone, state)))


@pytest.mark.parametrize("reduction", ["tree", "fast"])
def test_all_ranks_make_calls_that_fit(reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = 3
    _, bytes_sent, calls = run(ranks, monkeypatch, reduction=reduction)
    together = [[call[:4] for call in own if call[0] not in ("send", "recv")] for own in calls]
    assert together[0] == together[1] == together[2]
    kinds = {call[0] for call in together[0]}
    assert kinds == {"allGather", "allReduce"} | ({"reduceScatter"} if reduction == "fast" else set())
    assert together[0].count(("allReduce", 1, "NCCL_INT32", "max")) == STEPS
    for one in range(ranks):
        for other in range(ranks):
            sent = [call[1:3] for call in calls[one] if call[0] == "send" and call[3] == other]
            got = [call[1:3] for call in calls[other] if call[0] == "recv" and call[3] == one]
            assert sent == got
            assert bool(sent) == (one != other and reduction == "tree")
    # The first step runs, the others are captured; all calls are on one stream.
    assert {call[4] for own in calls for call in own} == {7}
    for own, sent_in_steps in zip(calls, bytes_sent, strict=True):
        steps = np.array_split([call[5] for call in own], STEPS)
        assert [set(step.tolist()) for step in steps] == [{False}, {True}, {True}, {True}]
        # Those of a step that is replayed too.
        of_calls = sum(call[1] * BYTES[call[2]] * TIMES.get(call[0], ranks - 1) for call in own)
        assert sent_in_steps == [of_calls / STEPS] * STEPS
