"""Agreement of ranks on results, signals and checkpoints; each rank is a thread of the test."""

from __future__ import annotations

import dataclasses
import signal
from typing import Any

import numpy as np
import pytest
from helpers.thread_ranks import ThreadWorld, on_ranks
from helpers.training import made_settings

from cconvnet import nets
from cconvnet.data import DataError
from cconvnet.evaluate import Tally, evaluate
from cconvnet.network import Network
from cconvnet.ranks.world import World
from cconvnet.training.team import Team

RANKS, SHARDS = 3, 4


@dataclasses.dataclass
class Counts:
    """The counts of a network that a team reads."""

    waited_seconds: float
    sent_bytes: int


def team_of(world: World, stop: int | None = None) -> Team:
    return Team(world, made_settings(shards=SHARDS), lambda: stop)


def test_results_of_a_step_are_in_the_order_of_its_images() -> None:
    def work(world: ThreadWorld) -> list[tuple[Tally, bool]]:
        team = team_of(world)
        assert team.share is not None
        own = [
            (Tally(0.1 * shard, shard, 2, 8, {"b": 0.5 + shard, "a": -shard}), shard != 1)
            for shard in team.share.own
        ]
        network: Any = Counts(0.5 * world.rank, 100 * world.rank)
        return team.meet(network, own)

    right = [
        (Tally(0.1 * shard, shard, 2, 8, {"a": -shard, "b": 0.5 + shard}), shard != 1)
        for shard in range(SHARDS)
    ]
    assert on_ranks(RANKS, work) == [right] * RANKS


@pytest.mark.parametrize("told", range(RANKS))
def test_all_ranks_stop_at_the_signal_of_one(told: int) -> None:
    def work(world: ThreadWorld) -> list[int | None]:
        team = team_of(world, signal.SIGTERM if world.rank == told else None)
        assert team.stopped is None  # nobody else knows yet
        network: Any = Counts(0, 0)
        team.meet(network, [(Tally(), True)])
        in_a_step = team.stopped
        team = team_of(world, signal.SIGTERM if world.rank == told else None)
        return [in_a_step, team.agree_on_signal(), team.stopped]

    assert on_ranks(RANKS, work) == [[signal.SIGTERM] * 3] * RANKS


@pytest.mark.parametrize("due", [True, False])
def test_the_first_rank_decides_on_checkpoints(due: bool) -> None:
    def work(world: ThreadWorld) -> tuple[bool, bool]:
        team = team_of(world)
        own = due if world.first else not due
        team.due = lambda: own
        network: Any = Counts(0, 0)
        team.meet(network, [(Tally(), True)])
        return team.save, team.agree(own)

    assert on_ranks(RANKS, work) == [(due, due)] * RANKS


def test_the_log_has_the_waits_of_all_ranks_since_its_last_line() -> None:
    def work(world: ThreadWorld) -> list[dict[str, Any]]:
        team = team_of(world)
        lines = [team.take_waits()]
        for step in range(1, 5):
            network: Any = Counts(step * (1.5 - 0.5 * world.rank), step * 100 * world.rank)
            team.meet(network, [(Tally(), True)])
            if step != 1:
                lines.append(team.take_waits())
        return lines

    def line(steps: int) -> dict[str, Any]:
        seconds, sent = [steps * 1.5, steps * 1.0, steps * 0.5], [0, steps * 100, steps * 200]
        return {"ranks": RANKS, "wait_seconds": seconds, "slowest_rank": 2, "sent_bytes": sent}

    assert on_ranks(RANKS, work) == [[{}, line(2), line(1), line(1)]] * RANKS


@pytest.mark.parametrize(("flipped", "named"), [([], []), ([1], [1]), ([0, 2], [0, 1, 2])])
def test_replicas_that_differ_are_named(flipped: list[int], named: list[int]) -> None:
    def work(world: ThreadWorld) -> list[int]:
        network = Network(nets.build("lenet"), batch=1, devices="cpu:0", needs=None)
        if world.rank in flipped:
            weights = network.parameters["conv2.weight"].pieces[0].value
            weights.reshape(-1).view(np.uint32)[7] ^= 1 << (10 + world.rank)
        return team_of(world).check_replicas(network)

    assert on_ranks(RANKS, work) == [named] * RANKS


def test_unreadable_images_of_all_ranks_are_known_to_the_first() -> None:
    class Split:
        def __init__(self, own: int) -> None:
            self.skipped = {own: f"{own} is torn", 7: "7 is torn"}

        def skip(self, index: int, reason: str) -> None:
            if len(self.skipped) == 4:
                raise DataError("too many")
            self.skipped[index] = reason

    def work(world: ThreadWorld) -> list[dict[int, str]]:
        splits: list[Any] = [Split(world.rank), Split(10 + world.rank)]
        team_of(world).merge_skipped(splits)
        return [split.skipped for split in splits]

    first, *others = on_ranks(RANKS, work)
    assert [sorted(skipped) for skipped in first] == [[0, 1, 2, 7], [7, 10, 11, 12]]
    assert [[sorted(skipped) for skipped in own] for own in others] == [[[1, 7], [7, 11]], [[2, 7], [7, 12]]]


@dataclasses.dataclass
class Batch:
    """A batch of a test, of one image, with its number and loss."""

    number: int
    loss: float

    @property
    def inputs(self) -> tuple[float]:
        return (self.loss,)

    @property
    def indices(self) -> list[int]:
        return [self.number]


class Answering:
    """A network that knows the losses of its images."""

    def load(self, loss: float) -> None:
        self.loss = loss

    def forward(self, train: bool) -> None:
        assert not train

    def result(self) -> Any:
        @dataclasses.dataclass
        class Result:
            loss: float
            rank: Any
            count: int
            head_losses: dict[str, float]

        return Result(self.loss, np.array([int(self.loss) % 7]), 1, {})


def test_results_of_a_test_are_added_in_the_order_of_its_images() -> None:
    # In another order the small ones would be lost, or others of them.
    losses = [1.0, 2**53, 1.0, 1.0, -(2.0**53), 3.0, 5.0]
    batches = [Batch(number, loss) for number, loss in enumerate(losses)]

    def work(world: ThreadWorld) -> Tally | None:
        numbers = team_of(world).test_numbers(len(batches), 1)
        assert numbers is not None
        network: Any = Answering()
        return evaluate(network, [batches[number] for number in numbers], world=world)

    alone: Any = Answering()
    right = evaluate(alone, batches)
    assert right is not None and right.loss == 8.0
    assert on_ranks(RANKS, work) == [right] * RANKS


def test_a_signal_to_one_rank_ends_a_test_on_all() -> None:
    def work(world: ThreadWorld) -> Tally | None:
        network: Any = Answering()
        return evaluate(network, [Batch(world.rank, 1.0)], lambda: world.rank == 1, world)

    assert on_ranks(RANKS, work) == [None] * RANKS
