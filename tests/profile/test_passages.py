"""Passages of a kernel's parts are fitted to the accesses that were counted."""

from __future__ import annotations

from collections import Counter

import pytest

from cconvnet.profile.facts import Part
from cconvnet.profile.passages import executed, passages


def part(parent: int | None, repeats: bool, **code: int) -> Part:
    """Return a part of kinds such as LDG_16."""
    return Part(parent, repeats, Counter({kind.replace("_", "."): n for kind, n in code.items()}), (), ())


def test_a_loop_runs_as_often_as_its_accesses_tell() -> None:
    parts = [part(None, False, STG_4=1), part(0, True, LDS_16=4, BAR=1, FFMA=9)]
    runs = passages(parts, {"STG.4": 1, "LDS.16": 80, "BAR": 20})
    assert runs == pytest.approx([1, 20], rel=1e-3)
    assert executed(parts, runs)["FFMA"] == pytest.approx(180, rel=1e-3)


def test_an_unrolled_loop_and_its_end_are_told_apart() -> None:
    parts = [part(None, False), part(0, True, LDG_16=4), part(0, True, LDG_16=1, STG_2=1)]
    runs = passages(parts, {"LDG.16": 43, "STG.2": 3})
    assert runs == pytest.approx([1, 10, 3], rel=1e-2)


def test_a_way_that_was_not_taken_does_not_run() -> None:
    parts = [part(None, False), part(0, False, STG_16=8), part(0, False, STG_4=32)]
    assert passages(parts, {"STG.16": 8}) == pytest.approx([1, 1, 0], abs=1e-2)


def test_a_section_runs_no_more_often_than_its_surroundings() -> None:
    # The two sections could share the loads in any way, but the second only runs within the first.
    parts = [part(None, False), part(0, False, LDG_4=8, STG_4=1), part(1, False, LDG_4=8)]
    runs = passages(parts, {"LDG.4": 16, "STG.4": 1})
    assert runs == pytest.approx([1, 1, 1], rel=1e-2)


def test_narrower_loads_of_the_compiler_count_by_their_number() -> None:
    parts = [part(None, False), part(0, True, LDG_4=2)]
    assert passages(parts, {"LDG.8": 20})[1] == pytest.approx(10, rel=1e-3)


def test_joined_loads_of_the_compiler_count_by_their_bytes() -> None:
    parts = [part(None, False), part(0, True, LDS_16=1)]
    assert passages(parts, {"LDS.4": 40})[1] == pytest.approx(10, rel=1e-3)


def test_parts_without_accesses_run_like_those_inside_or_around_them() -> None:
    inside = [part(None, False), part(0, True, IADD3=1), part(1, False, STG_4=1), part(2, False, FFMA=1)]
    assert passages(inside, {"STG.4": 7}) == pytest.approx([1, 7, 7, 7], rel=1e-3)
