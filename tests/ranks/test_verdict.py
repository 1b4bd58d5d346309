"""The rank at fault is found from what the ranks report, and no other."""

from __future__ import annotations

import pytest

from cconvnet.ranks.verdict import PHASES, STEADY, Limits, Report, Verdict, judge

LIMITS = Limits(60, 100)
WAITING = Report("exchange", 7, 2, waiting=True, age=500)


def verdict(
    *reports: Report, silence: dict[int, float] | None = None, size: int | None = None
) -> Verdict | None:
    hosts = [f"node{rank}" for rank in range(size or len(reports))]
    return judge(
        dict(enumerate(reports)), dict.fromkeys(range(len(reports)), 0.0) | (silence or {}), hosts, LIMITS
    )


@pytest.mark.parametrize("phase", PHASES)
def test_a_silent_rank_is_found_in_any_phase(phase: str) -> None:
    found = verdict(WAITING, Report(phase, 7), WAITING, silence={1: 61, 2: 59})
    assert found == Verdict(
        f"frozen or cut off, silent for 61 s: rank 1 of 3 on node1, in phase {phase} of step 8", 0
    )


def test_the_lowest_rank_that_is_heard_speaks() -> None:
    found = verdict(*[Report()] * 4, silence={0: 70, 1: 61, 3: 61})
    assert found is not None and found.speaker == 2
    assert [f"rank {rank} of 4" in found.text for rank in range(4)] == [True, True, False, True]


def test_a_rank_that_hears_only_rank_0_leaves_it_to_rank_1() -> None:
    found = judge({0: Report(), 40: Report()}, {0: 61, 40: 0}, ["node"] * 64, LIMITS)
    assert found is not None and found.speaker == 1


@pytest.mark.parametrize("phase", STEADY)
def test_a_rank_that_stands_still_in_a_step_is_found(phase: str) -> None:
    found = verdict(WAITING, WAITING, Report(phase, 7, age=101))
    assert found == Verdict(
        f"no progress for 101 s: rank 2 of 3 on node2, in phase {phase} of step 8", 2, standing=True
    )


def test_all_that_stand_still_are_named() -> None:
    """Ranks may wait within a library that does not say so."""
    found = verdict(Report("step", 7, age=101), WAITING, Report("step", 7, age=105))
    assert found == Verdict(
        "no progress for 105 s: rank 0 of 3 on node0, in phase step of step 8; "
        "rank 2 of 3 on node2, in phase step of step 8",
        0,
    )


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase not in STEADY])
def test_other_phases_may_last(phase: str) -> None:
    assert verdict(WAITING, WAITING, Report(phase, 7, age=9000)) is None


def test_ranks_may_wait_for_one_that_makes_progress() -> None:
    assert verdict(WAITING, WAITING, Report("step", 7, age=99)) is None
    assert verdict(WAITING, WAITING, Report("exchange", 7, waiting=True, age=59)) is None


def test_a_circle_of_waiting_ranks_is_found_by_a_rank_that_hears_all() -> None:
    found = verdict(WAITING, Report("end", 9, waiting=True, age=61))
    assert found == Verdict(
        "all ranks have waited for each other for 61 s: "
        "rank 0 of 2 on node0, in phase exchange of step 8, bucket 3; "
        "rank 1 of 2 on node1, in phase end of step 10",
        0,
    )
    assert verdict(WAITING, WAITING, size=3) is None


def test_a_line_names_a_few_of_many_ranks() -> None:
    found = verdict(*[WAITING] * 20)
    assert found is not None
    assert found.text.count(" of 20 on ") == 8 and found.text.endswith("; and 12 more")


def test_limits_follow_from_the_time_of_a_step() -> None:
    assert Limits.of(None, 0) == Limits(60, 600)  # the first step is not over
    assert Limits.of(None, 0.1) == Limits(60, 60)
    assert Limits.of(None, 10) == Limits(200, 200)
    assert Limits.of(2.5, 0) == Limits.of(2.5, 10) == Limits(2.5, 2.5)


def test_a_report_arrives_as_it_was_sent() -> None:
    for report in (Report(), WAITING, Report("save", 3, age=0.25, step_seconds=1.5)):
        assert Report.of_numbers(report.numbers()) == report
