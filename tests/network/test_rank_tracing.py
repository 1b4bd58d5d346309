"""A traced step of several ranks: who waits for whom, the shards' passes, and trace events."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.rank_records import ranks_record

from cconvnet import nets
from cconvnet.network import Network, rank_tracing, tracing
from cconvnet.network.rank_tracing import Wait, find_waits
from cconvnet.network.synthetic import Training
from cconvnet.network.tracing import Tracer, Transfer
from cconvnet.ranks import World
from cconvnet.ranks.shares import Share

# ---- who waits for whom ----------------------------------------------------------------------------------


def test_a_rank_waits_for_the_last_to_begin_and_then_for_the_transfer() -> None:
    begins = [1.0, 5.0, 3.0]
    transfers = [[Transfer("bucket 1", "gradients", begin, begin, 6.0)] for begin in begins]
    assert find_waits(0, transfers) == [
        Wait("bucket 1", "gradients", 1, 1.0, 5.0),
        Wait("bucket 1", "gradients", None, 5.0, 6.0),
    ]
    assert find_waits(1, transfers) == [Wait("bucket 1", "gradients", None, 5.0, 6.0)]
    assert [wait.rank for wait in find_waits(2, transfers)] == [1, None]


def test_who_comes_when_all_have_begun_waits_for_the_transfer_alone() -> None:
    transfers = [[Transfer("fc1", "factors", begin, 4.0, 4.5)] for begin in (1.0, 3.0)]
    assert find_waits(0, transfers) == [Wait("fc1", "factors", None, 4.0, 4.5)]


def test_clocks_that_differ_make_no_wait_longer_than_it_was() -> None:
    transfers = [[Transfer("losses", "check", 1.0, 1.0, 1.5)], [Transfer("losses", "check", 9.0, 9.0, 9.5)]]
    assert find_waits(0, transfers) == [Wait("losses", "check", 1, 1.0, 1.5)]


def test_waits_are_in_the_order_of_time() -> None:
    """Factors are begun before the last bucket, and waited for after it."""
    own = [Transfer("fc1", "factors", 1.0, 6.0, 7.0), Transfer("bucket 1", "gradients", 2.0, 3.0, 4.0)]
    assert [wait.of for wait in find_waits(0, [own, own])] == ["bucket 1", "fc1"]


def test_the_slowest_rank_and_the_time_in_no_layer() -> None:
    made = ranks_record(3)
    assert [rank.waited for rank in made.ranks] == pytest.approx([3.5, 3.5, 1.5])
    assert made.slowest == 2
    # Before the wait for losses, behind it, and at the end of the step.
    assert made.unaccounted(made.ranks[2]) == pytest.approx(1 + 1 + 1)
    found = json.loads(json.dumps(made.to_dict()))
    assert found["slowest_rank"] == 2
    assert [rank["wait_seconds"] for rank in found["ranks"]] == pytest.approx([3.5, 3.5, 1.5])
    assert found["ranks"][0]["layers"] == tracing.totals(made.ranks[0].spans)
    assert found["ranks"][0]["waits"][0] == {
        "of": "losses",
        "what": "check",
        "rank": 2,
        "begin": 4.0,
        "end": 5.0,
    }


# ---- trace events ----------------------------------------------------------------------------------------


def test_each_rank_is_a_process_of_the_trace() -> None:
    made = ranks_record(2)
    events = json.loads(json.dumps(made.chrome_trace()))["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {0: "rank 0 on here, made-up", 1: "rank 1 on here, made-up"}
    shown = [event for event in events if event["ph"] == "X"]
    for number, rank in enumerate(made.ranks):
        own = [event for event in shown if event["pid"] == number]
        assert len(own) == len(rank.spans) + len(rank.waits) + len(rank.transfers)
    waits = [event for event in shown if event["cat"] == "wait" and event["pid"] == 0]
    assert waits[0]["name"] == "losses check, waits for rank 1"
    assert (waits[0]["ts"], waits[0]["dur"]) == pytest.approx((4e6, 1e6))
    spans = [event for event in shown if event["cat"] in tracing.PASSES]
    assert spans[0]["args"] == {"layer": "fc1", "pass": "forward", "shard": 0}
    # What overlaps is in different rows.
    rows = [event["tid"] for event in shown if event["cat"] == "transfer" and event["pid"] == 0]
    assert rows == [1, 2]


def test_transfers_that_do_not_overlap_share_a_row() -> None:
    ends = [(1.0, 4.0), (2.0, 6.0), (4.0, 5.0), (5.0, 7.0), (5.5, 8.0)]
    made = [Transfer("", "weights", begin, end, end) for begin, end in ends]
    assert rank_tracing.side_by_side(made) == [0, 1, 0, 0, 2]


# ---- a traced step ---------------------------------------------------------------------------------------


def sharded(count: int) -> Network:
    return Network(nets.build("lenet"), batch=4, devices="cpu:0", share=Share(World.alone(), count))


def test_a_process_alone_runs_all_shards() -> None:
    network = sharded(3)
    found = tracing.record(network, steps=1, warmup=0)
    assert found.batch == 12
    forward = [span.shard for span in found.spans if (span.layer, span.what) == ("conv1", "forward")]
    backward = [span.shard for span in found.spans if (span.layer, span.what) == ("conv1", "backward")]
    assert forward == backward == [0, 1, 2]
    assert {span.what for span in found.spans} <= {"load", "forward", "check", "backward", "update"}
    assert (found.spans[-1].layer, found.spans[-1].what) == ("all layers", "update")


def test_tracing_shards_changes_no_bit() -> None:
    plain, traced = sharded(2), sharded(2)
    one, other = Training(plain), Training(traced)
    one.lr = other.lr = 0.01
    for _ in range(3):
        one.step()
        Tracer(traced).trace(other.step)
    for name, tensor in plain.state().items():
        np.testing.assert_array_equal(tensor, traced.state()[name], err_msg=name)


class Wires:
    """Wires to a second rank that sends what it gets; waits are as long as they are told to be."""

    captured, sent_bytes = False, 0

    def __init__(self) -> None:
        self.calls: list[str] = []

    def exchange(self, sends: Any, receives: Any) -> object:
        self.calls.append("exchange")
        return object()

    def gather(self, whole: Any, own: slice) -> object:
        self.calls.append("gather")
        return object()

    def highest(self, number: Any) -> object:
        self.calls.append("highest")
        return object()

    def wait(self, transfer: object) -> None:
        self.calls.append("wait")


def test_a_span_ends_where_a_rank_waits() -> None:
    world = World.alone()
    world.size = 2
    network = Network(nets.build("lenet"), batch=32, devices="cpu:0", share=Share(world, 2))
    assert network.graph.shards is not None
    wires = network.graph.shards.wires = Wires()
    tracer = Tracer(network)
    spans, seconds = tracer.trace(Training(network).step)
    assert network.graph.shards.wires is wires
    assert [(one.of, one.what) for one in tracer.transfers] == [
        ("losses", "check"),
        ("fc1", "factors"),
        ("bucket 1", "gradients"),
        ("bucket 1", "weights"),
    ]
    assert wires.calls.count("wait") == 4
    for one in tracer.transfers:
        assert 0 <= one.begin <= one.wait <= one.end <= seconds
    stretches = sorted([(s.begin, s.end) for s in spans] + [(t.wait, t.end) for t in tracer.transfers])
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(stretches))
    updates = [span.layer for span in spans if span.what == "update"]
    assert updates == ["losses", "bucket 1", "bucket 1", "fc1"]
    exchanges = [span.layer for span in spans if span.what == "exchange"]
    assert exchanges[0] == "fc2"
    assert {span.shard for span in spans if span.what == "forward"} == {0}


def test_a_product_that_ranks_compute_together_is_part_of_its_pass() -> None:
    world = World.alone()
    world.size = 2
    share = Share(world, 2, parallel="hybrid")
    network = Network(nets.build("lenet"), batch=8, devices="cpu:0", share=share)
    assert network.graph.shards is not None
    network.graph.shards.wires = Wires()
    tracer = Tracer(network)
    spans, _ = tracer.trace(Training(network).step)
    # Inputs and outputs of each layer, then its output gradients and the gradients of its inputs.
    moved = [one.of for one in tracer.transfers if one.what == "activations"]
    assert moved == ["fc1", "fc1", "fc2", "fc2", "fc2", "fc2", "fc1", "fc1"]
    of_fc1 = {span.what for span in spans if span.layer == "fc1"}
    assert of_fc1 == {"forward", "backward", "exchange"}


def test_a_step_that_fails_leaves_the_wires_as_they_were() -> None:
    wires = SimpleNamespace()
    network = sharded(2)
    assert network.graph.shards is not None
    network.graph.shards.wires = wires  # type: ignore[assignment]

    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        Tracer(network).trace(fail)
    assert network.graph.shards.wires is wires
