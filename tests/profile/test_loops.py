"""Loops and sections of machine code are found from its branches."""

from __future__ import annotations

from cconvnet.profile.loops import SHORTEST_SECTION, Jump, Region, find_regions

LONG = SHORTEST_SECTION


def test_code_without_branches_is_one_region() -> None:
    assert find_regions(3, {2: Jump(None, True)}) == [Region((0, 1, 2), None, False)]


def test_loops_within_loops() -> None:
    # 0 | 1 [2 3] 4 | 5: the inner loop jumps from 3 to 2, the outer one from 4 to 1.
    regions = find_regions(6, {3: Jump(2, False), 4: Jump(1, False), 5: Jump(None, True)})
    assert regions[1:] == [Region((1, 2, 3, 4), 0, True), Region((2, 3), 1, True)]


def test_two_branches_to_one_head_are_one_loop() -> None:
    regions = find_regions(5, {2: Jump(1, False), 3: Jump(1, False), 4: Jump(None, True)})
    assert regions[1:] == [Region((1, 2, 3), 0, True)]


def test_rare_code_behind_the_end_is_no_loop() -> None:
    # 1 may jump to 4, from where 5 comes back to 2.
    regions = find_regions(6, {1: Jump(4, False), 3: Jump(None, True), 5: Jump(2, True)})
    assert [region.repeats for region in regions] == [False]


def test_alternatives_are_sections_if_they_are_long() -> None:
    first, second, end = 1, 1 + LONG, 1 + 2 * LONG
    jumps = {0: Jump(second, False), second - 1: Jump(end, True), end: Jump(None, True)}
    regions = find_regions(end + 1, jumps)
    assert regions[1:] == [
        Region(tuple(range(first, second)), 0, False),
        Region(tuple(range(second, end)), 0, False),
    ]
    short = {0: Jump(3, False), 2: Jump(5, True), 5: Jump(None, True)}
    assert len(find_regions(6, short)) == 1


def test_a_section_in_a_loop_is_inside_it() -> None:
    # 0 | loop 1..: 1 may skip the section, the last one repeats the loop.
    back = 2 + LONG
    regions = find_regions(back + 2, {1: Jump(back, False), back: Jump(1, False), back + 1: Jump(None, True)})
    assert [(region.repeats, region.parent) for region in regions] == [(False, None), (True, 0), (False, 1)]
    assert regions[2].places == tuple(range(2, back))


def test_code_that_nothing_reaches_is_in_no_region() -> None:
    assert find_regions(3, {0: Jump(None, True), 2: Jump(2, True)}) == [Region((0,), None, False)]


def test_a_loop_leaves_out_code_that_jumps_into_it_but_that_nothing_reaches() -> None:
    # 1 [2 3]: 4 ends the kernel, and 5 would jump to 3.
    jumps = {3: Jump(2, False), 4: Jump(None, True), 5: Jump(3, True)}
    assert find_regions(6, jumps) == [Region((0, 1, 2, 3, 4), None, False), Region((2, 3), 0, True)]
