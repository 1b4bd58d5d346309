"""A bad value of one rank stops all ranks, each a thread of the test, at the same step by the same text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.fake_nccl import FakeGpu, Nccl
from helpers.thread_ranks import ThreadWorld, on_ranks
from helpers.training import made_settings

from cconvnet import nets
from cconvnet.data import Batch
from cconvnet.data.statistics import Statistics
from cconvnet.network import Network
from cconvnet.network import shards as shards_module
from cconvnet.training.settings import Progress
from cconvnet.training.step import Steps
from cconvnet.training.stopping import StoppedTogether
from cconvnet.training.team import Team

RANKS, SHARDS, EACH, STEP = 3, 4, 2, 2
LENET = nets.build("lenet")


def batch_of(step: int) -> Batch:
    draws, count = np.random.default_rng(step), SHARDS * EACH
    images = draws.integers(0, 256, (count, *LENET.stored_shape), np.uint8)
    zeros = np.zeros(count, np.int32)
    labels = draws.integers(0, LENET.classes, count)
    return Batch(images, labels, zeros, zeros, zeros.astype(np.uint8), np.arange(count))


def plant(network: Network, shard: int, where: str, progress: Progress) -> None:
    """Let a shard have a bad output or gradient from step STEP on."""
    layer = next(one for one in network.layers if "fc" in one.type)

    def bad() -> bool:
        return progress.step >= STEP and network.graph.loaded.first_row == shard * EACH

    forward, backward = layer.forward, layer.backward

    def planted_forward(train: bool) -> None:
        forward(train)
        if where == "forward" and bad():
            layer.output.array[0, 1] = np.inf

    def planted_backward(updates: Any = None) -> None:
        backward(updates)
        if where == "backward" and bad():
            layer.pieces[0].gradient[1, 0] = np.nan

    vars(layer).update(forward=planted_forward, backward=planted_backward)


@pytest.mark.parametrize(("where", "checked"), [("forward", False), ("forward", True), ("backward", True)])
@pytest.mark.parametrize("shard", range(SHARDS))  # the last rank has two
def test_all_ranks_stop_at_the_bad_value_of_one(
    shard: int, where: str, checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[Any]] = [[] for _ in range(RANKS)]
    monkeypatch.setattr(shards_module, "nccl_for", lambda world, device: Nccl(world.meeting, device, calls))

    def work(world: ThreadWorld) -> str:
        settings = made_settings(batch=SHARDS * EACH, shards=SHARDS, exchange="gradients")
        team, progress = Team(world, settings, lambda: None), Progress()
        device = FakeGpu()
        network = Network(LENET, batch=EACH, devices=device, share=team.share, fuse=False, needs=None)
        network.connect()
        plant(network, shard, where, progress)
        failures: Any = SimpleNamespace(of_values=lambda epoch, bad: f"(epoch {epoch + 1}): {bad}")
        steps = Steps(network, settings, progress, Statistics(), 10, failures, team)
        before = network.state()
        with pytest.raises(StoppedTogether) as stopped:
            for number in range(STEP + 2):
                if number == STEP:
                    before = network.state()
                steps.begin(batch_of(number)[team.rows], dict.fromkeys(network.parameters, 0.01), checked)
        assert progress.step == (STEP if checked else STEP + 2)  # results are read a step later
        after = network.state()
        assert all(after[name].tobytes() == before[name].tobytes() for name in network.parameters)
        return str(stopped.value)

    texts = set(on_ranks(RANKS, work))
    assert len(texts) == 1, texts
    (text,) = texts
    tensor = "its output: 1 of" if where == "forward" else "the gradient of"
    assert f"at step {STEP} (epoch 1): fc" in text and f"{where} pass, {tensor}" in text
    assert text.startswith("stopped at step" if checked else "the loss is ")
