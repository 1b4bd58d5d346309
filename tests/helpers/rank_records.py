"""A made-up step of several ranks."""

from __future__ import annotations

from cconvnet.network.rank_tracing import RankRecord, RanksRecord, find_waits
from cconvnet.network.tracing import Span, Transfer


def ranks_record(ranks: int) -> RanksRecord:
    """Make up a step in which the last rank is late."""
    late = [0.0] * (ranks - 1) + [2.0]
    transfers = [
        [Transfer("losses", "check", 3 + by, 4 + by, 7), Transfer("fc1", "factors", 3.5 + by, 8, 8.5)]
        for by in late
    ]
    return RanksRecord(
        net="made-up",
        batch=12,
        precision="fp32",
        shards=ranks,
        wire="fp32",
        reduction="tree",
        exchange="auto",
        parallel="data",
        ranks=[
            RankRecord(
                host="here",
                device="cpu:0",
                shards=[rank],
                spans=[
                    Span("fc1", "forward", "cpu:0", 0.0, 3 + late[rank], rank),
                    Span("fc1", "update", "cpu:0", 8.5, 9.0),
                ],
                transfers=transfers[rank],
                waits=find_waits(rank, transfers),
            )
            for rank in range(ranks)
        ],
        seconds=10.0,
        untraced_seconds=9.5,
        steps=1,
        clock_error=1e-5,
    )
