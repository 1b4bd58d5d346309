"""The time of a step of several ranks on one clock: their passes, exchanges and waits for each other."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cconvnet.network.network import Network
from cconvnet.network.synthetic import Training
from cconvnet.network.tracing import (
    Span,
    Tracer,
    Transfer,
    covered,
    process_events,
    span_events,
    totals,
)
from cconvnet.ranks.clocks import compare_clocks
from cconvnet.ranks.shares import Share


@dataclasses.dataclass(frozen=True)
class Wait:
    """A stretch of time in which a rank waits.

    Attributes:
        of: the transfer that it waits for; see Transfer.
        what: likewise.
        rank: the rank that it waits for, the last one to begin this transfer; None: all have begun it, and it
            waits for the transfer itself.
        begin: in seconds since the first rank began the step.
        end: likewise.
    """

    of: str
    what: str
    rank: int | None
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """The length of the wait."""
        return self.end - self.begin


@dataclasses.dataclass(frozen=True)
class RankRecord:
    """One rank's part of a step, in seconds since the first rank began it.

    Attributes:
        host: the name of its host.
        device: the name of its device.
        shards: the numbers of its shards.
        spans: its work, in the order in which it began.
        transfers: its exchanges; all ranks have the same ones, in the same order.
        waits: its waits for them, in their order.
    """

    host: str
    device: str
    shards: list[int]
    spans: list[Span]
    transfers: list[Transfer]
    waits: list[Wait]

    @property
    def waited(self) -> float:
        """The seconds that it waited."""
        return sum(wait.seconds for wait in self.waits)


@dataclasses.dataclass(frozen=True)
class RanksRecord:
    """The median of several traced steps of several ranks.

    Attributes:
        net: the network's name.
        batch: how many images the batch of all ranks had.
        precision: of the network.
        shards: the number of parts of the batch.
        wire: the type of gradients between ranks.
        reduction: the order in which they are added.
        exchange: what is exchanged of FC layers.
        parallel: what ranks divide.
        ranks: the records of the ranks, in their order.
        seconds: from the first rank's batch in host memory to the last one's loss.
        untraced_seconds: the median of steps that were not traced, which alternated with traced ones.
        steps: how many steps were traced.
        clock_error: the seconds by which the clocks of two ranks may differ from what they are taken for.
    """

    net: str
    batch: int
    precision: str
    shards: int
    wire: str
    reduction: str
    exchange: str
    parallel: str
    ranks: list[RankRecord]
    seconds: float
    untraced_seconds: float
    steps: int
    clock_error: float

    @property
    def slowest(self) -> int:
        """The rank that waited least, for which the others waited."""
        return min(range(len(self.ranks)), key=lambda rank: self.ranks[rank].waited)

    def unaccounted(self, rank: RankRecord) -> float:
        """Return the seconds in which a rank neither works on a layer nor waits."""
        works, waits = (
            [(one.begin, one.end) for one in rank.spans],
            [(one.begin, one.end) for one in rank.waits],
        )
        return self.seconds - covered(sorted(works + waits))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        found = dataclasses.asdict(self)
        for row, rank in zip(found["ranks"], self.ranks, strict=True):
            row |= {
                "wait_seconds": rank.waited,
                "unaccounted": self.unaccounted(rank),
                "layers": totals(rank.spans),
            }
        return {**found, "slowest_rank": self.slowest}

    def chrome_trace(self) -> dict[str, Any]:
        """Return trace events; see Record.chrome_trace. Each rank is a process, whose number is its own."""
        events = []
        for number, rank in enumerate(self.ranks):
            rows = side_by_side(rank.transfers)
            lanes = [rank.device, *("exchange" for _ in range(max(rows, default=-1) + 1))]
            events += process_events(number, f"rank {number} on {rank.host}, {self.net}", lanes)
            events += span_events(number, lanes, rank.spans)
            events += [
                _event(number, 0, f"{wait.of} {wait.what}, {waits_for(wait)}", "wait", wait)
                for wait in rank.waits
            ]
            events += [
                _event(number, 1 + row, f"{one.of} {one.what}", "transfer", one)
                for row, one in zip(rows, rank.transfers, strict=True)
            ]
        return {"traceEvents": events, "displayTimeUnit": "ms"}


def waits_for(wait: Wait) -> str:
    """Return what a rank waits for, as words."""
    return "waits for the transfer" if wait.rank is None else f"waits for rank {wait.rank}"


def side_by_side(transfers: Sequence[Transfer]) -> list[int]:
    """Return the row of each transfer, from 0, so that those of a row do not overlap."""
    ends: list[float] = []
    rows = [0] * len(transfers)
    for index in sorted(range(len(transfers)), key=lambda index: transfers[index].begin):
        begin, end = transfers[index].begin, transfers[index].end
        row = next((row for row, until in enumerate(ends) if until <= begin), len(ends))
        ends[row : row + 1] = [end]
        rows[index] = row
    return rows


def _event(pid: int, thread: int, name: str, kind: str, one: Wait | Transfer) -> dict[str, Any]:
    place = {"cat": kind, "ph": "X", "pid": pid, "tid": thread}
    return {"name": name, "ts": 1e6 * one.begin, "dur": 1e6 * (one.end - one.begin), **place}


# ---- the measurement -------------------------------------------------------------------------------------


def record(
    network: Network, steps: int, warmup: int = 2, stepped: Callable[[int], None] = lambda done: None
) -> RanksRecord:
    """Trace training steps of several ranks on random images; all of them call this.

    Args:
        network: this rank's network, which has a share and is connected.
        steps: how many steps are traced; as many alternate with them that are not.
        warmup: steps before those.
        stepped: called with the number of steps done so far, of all three kinds.

    Returns:
        The record, the same on all ranks.
    """
    assert network.graph.shards is not None
    share = network.graph.shards.share
    training, tracer = Training(network), Tracer(network)
    for done in range(warmup):
        training.step()
        stepped(done + 1)
    traced: list[_Traced] = []
    untraced: list[float] = []
    for done in range(steps):
        begin = time.perf_counter()
        training.step()
        untraced.append(time.perf_counter() - begin)
        ahead, error = compare_clocks(share.world)
        spans, seconds = tracer.trace(training.step)
        traced.append(_Traced(tracer.begun - ahead, seconds, error, spans, tracer.transfers))
        stepped(warmup + 2 * (done + 1))
    return _median(network, share, traced, statistics.median(untraced))


@dataclasses.dataclass(frozen=True)
class _Traced:
    """A step of this rank, which began at this time of rank 0's clock."""

    begin: float
    seconds: float
    clock_error: float
    spans: list[Span]
    transfers: list[Transfer]


def _median(network: Network, share: Share, traced: Sequence[_Traced], untraced: float) -> RanksRecord:
    """Return the step whose time is the median, of all ranks together."""
    world = share.world
    # float64[rank, step] each.
    begins, seconds = (
        world.share_numbers(np.array([getattr(one, name) for one in traced])) for name in ("begin", "seconds")
    )
    whole = (begins + seconds).max(axis=0) - begins.min(axis=0)
    chosen = int(np.argsort(whole)[len(traced) // 2])
    own = traced[chosen]
    begin = own.begin - float(begins[:, chosen].min())
    told = world.share(
        {
            "host": world.host,
            "device": network.devices[0].name,
            "shards": list(share.own),
            "spans": [_later(span, begin, "begin", "end") for span in own.spans],
            "transfers": [_later(one, begin, "begin", "wait", "end") for one in own.transfers],
        }
    )
    spans = [[Span(**span) for span in rank.pop("spans")] for rank in told]
    transfers = [[Transfer(**one) for one in rank.pop("transfers")] for rank in told]
    return RanksRecord(
        net=network.spec.name,
        batch=network.batch * share.count,
        precision=network.precision,
        shards=share.count,
        wire=share.wire,
        reduction=share.reduction,
        exchange=share.exchange,
        parallel=share.parallel,
        ranks=[
            RankRecord(spans=spans[rank], transfers=transfers[rank], waits=find_waits(rank, transfers), **row)
            for rank, row in enumerate(told)
        ],
        seconds=float(whole[chosen]),
        untraced_seconds=world.highest(untraced),
        steps=len(traced),
        clock_error=own.clock_error,
    )


def _later(one: Span | Transfer, begin: float, *times: str) -> dict[str, Any]:
    """Return the values of a span or a transfer, with these times in seconds since an earlier begin."""
    values = dataclasses.asdict(one)
    return values | {time: values[time] + begin for time in times}


def find_waits(rank: int, transfers: Sequence[Sequence[Transfer]]) -> list[Wait]:
    """Return the waits of a rank.

    Args:
        rank: the rank.
        transfers: those of each rank, which are the same ones in the same order.
    """
    found = []
    for same in zip(*transfers, strict=True):
        own = same[rank]
        last = max(range(len(same)), key=lambda other: same[other].begin)
        ready = min(max(own.wait, same[last].begin), own.end)
        if last != rank and ready > own.wait:
            found.append(Wait(own.of, own.what, last, own.wait, ready))
        if own.end > ready:
            found.append(Wait(own.of, own.what, None, ready, own.end))
    return sorted(found, key=lambda wait: wait.begin)
