"""Transfers by NCCL, with a stand-in for it: the calls of all ranks fit together, and so do the results."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from helpers.fake_nccl import FakeGpu, Meeting, Nccl, ThreadWorld
from helpers.small_networks import ALEXNET, assert_equal, batch_of

from cconvnet.network import Network
from cconvnet.network import shards as shards_module
from cconvnet.ranks.shares import Share
from cconvnet.ranks.world import World

SHARDS, STEPS = 4, 4


def train(device: Any, share: Share, lars: float = 0.0) -> Network:
    """Train on shards of batches of eight images."""
    network = Network(ALEXNET, batch=8 // SHARDS, devices=device, seed=3, share=share, lars=lars, needs=None)
    network.connect()
    for number in range(STEPS):
        batch = batch_of(ALEXNET, 8, number)
        for shard in share.own:
            rows = slice(shard * network.batch, (shard + 1) * network.batch)
            network.load(**{name: value[rows] for name, value in batch.items()}, first_row=rows.start)
            if shard < share.own[-1]:
                network.accumulate(number, ends_shard=True)
            else:
                network.train_step(number, 0.02, 0.9)
    return network


def run(ranks: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[list[Any], list[list[Any]]]:
    """Return the states of all ranks, each a thread, and their calls of NCCL."""
    lars = options.pop("lars", 0.0)
    meeting, calls = Meeting(ranks), [[] for _ in range(ranks)]  # type: ignore[var-annotated]
    monkeypatch.setattr(shards_module, "BUCKET", 2000)
    monkeypatch.setattr(shards_module, "nccl_for", lambda world, device: Nccl(meeting, device, calls))
    states: list[Any] = [None] * ranks
    faults: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            network = train(FakeGpu(), Share(ThreadWorld(meeting, rank), SHARDS, **options), lars)
            states[rank] = network.state()
        except BaseException as fault:
            faults.append(fault)
            meeting.barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if faults:
        raise faults[0]
    return states, calls


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_ranks_with_nccl_have_the_bits_of_one(ranks: int, wire: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = train(FakeGpu(), Share(World.alone(), SHARDS, wire)).state()
    states, _ = run(ranks, monkeypatch, wire=wire)
    assert_equal(alone, states[0])
    for state in states[1:]:  # whose momentum is their own slices'
        assert_equal(*({name: own[name] for name in ALEXNET_VALUES} for own in (alone, state)))


ALEXNET_VALUES = list(Network(ALEXNET, batch=1, devices="cpu:0", needs=None).parameters)


def test_rates_of_whole_gradients_are_those_of_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = train(FakeGpu(), Share(World.alone(), SHARDS), lars=0.01).state()
    states, _ = run(3, monkeypatch, lars=0.01)
    assert_equal(alone, states[0])


@pytest.mark.parametrize("reduction", ["tree", "fast"])
def test_all_ranks_make_calls_that_fit(reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = 3
    _, calls = run(ranks, monkeypatch, reduction=reduction)
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
    for own in calls:
        steps = np.array_split([call[5] for call in own], STEPS)
        assert [set(step.tolist()) for step in steps] == [{False}, {True}, {True}, {True}]
