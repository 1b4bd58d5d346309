"""The loops and the alternatives of a kernel's machine code, found from its branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Shorter alternatives, such as a bound's check around a store, belong to what surrounds them.
SHORTEST_SECTION = 24


@dataclass(frozen=True)
class Jump:
    """The way on from an instruction that may not be followed by the next one.

    Attributes:
        target: The place of the instruction to which it jumps; None if the thread ends there.
        always: Whether the next instruction never follows.
    """

    target: int | None
    always: bool


@dataclass(frozen=True)
class Region:
    """A part of the code that runs as often as its first instruction, or nearly.

    Attributes:
        places: Places of its instructions in the code, ascending, those of regions inside it included.
        parent: The number of the smallest region around it; None for the first, the whole code.
        repeats: Whether it is a loop: what reaches a backward branch without passing the loop's first
            instruction. Otherwise it is a section, which runs at most once in a passage of its parent.
    """

    places: tuple[int, ...]
    parent: int | None
    repeats: bool


def find_regions(length: int, jumps: Mapping[int, Jump]) -> list[Region]:
    """Return the whole code that branches reach, then its loops and long sections, outer ones first.

    Backward branches to the same instruction make one loop. A backward branch to code that may be entered
    elsewhere makes none: the compiler moves rare code behind the rest, and jumps back from there. Calls go
    nowhere, so functions are not reached.

    Args:
        length: The number of instructions.
        jumps: By the place of an instruction, where it may go.
    """
    blocks = _Blocks(length, jumps)
    loops: dict[int, set[int]] = {}
    for block in blocks.reached:
        for head in blocks.after[block]:
            if blocks.dominates(head, block):
                body = _reaching(block, head, blocks.before)
                loops.setdefault(head, {head}).update(body & blocks.reached)
    found = [(body, True) for body in loops.values()]
    for head in blocks.reached - {0}:
        if blocks.is_alternative(head):
            around = min((body for body in loops.values() if head in body), key=len, default=blocks.reached)
            body = {block for block in around if blocks.dominates(head, block)}
            if blocks.size(body) >= SHORTEST_SECTION and body not in loops.values():
                found.append((body, False))
    # Of equal bodies the loop is the outer one.
    found.sort(key=lambda one: (-len(one[0]), not one[1]))
    found.insert(0, (blocks.reached, False))
    regions = []
    for number, (body, repeats) in enumerate(found):
        parent = next((outer for outer in range(number - 1, -1, -1) if body <= found[outer][0]), None)
        regions.append(Region(blocks.places(body), parent, repeats))
    return regions


class _Blocks:
    """Basic blocks, which only their first instruction enters and only their last leaves.

    Attributes:
        after: By the number of a block, the blocks that may follow it.
        before: The blocks that it may follow.
        reached: The blocks that branches reach from the first.
    """

    def __init__(self, length: int, jumps: Mapping[int, Jump]) -> None:
        targets = {jump.target for jump in jumps.values() if jump.target is not None}
        begins = sorted({0, *(place + 1 for place in jumps), *targets} - {length})
        self._spans = list(zip(begins, [*begins[1:], length], strict=True))
        number = {begin: index for index, begin in enumerate(begins)}
        self.after = [
            _successors(jumps.get(end - 1), end, number) if begin < end else [] for begin, end in self._spans
        ]
        self.before: list[list[int]] = [[] for _ in begins]
        for block, following in enumerate(self.after):
            for other in following:
                self.before[other].append(block)
        self.reached = _reachable(self.after)
        self._dominators = _dominators(self.after, self.before, [0], self.reached)
        ends = [block for block in self.reached if not self.after[block]]
        self._behind = _dominators(self.before, self.after, ends, self.reached)

    def dominates(self, head: int, block: int) -> bool:
        """Return whether every way to a block passes `head`."""
        return bool(self._dominators[block] >> head & 1)

    def is_alternative(self, head: int) -> bool:
        """Return whether the block that decides about `head` may go on without it."""
        above = self._dominators[head] & ~(1 << head)
        # The nearest block that dominates it is dominated by most others.
        nearest = max(_bits(above), key=lambda block: self._dominators[block].bit_count())
        return not self._behind[nearest] >> head & 1

    def size(self, body: set[int]) -> int:
        """Return the number of instructions of some blocks."""
        return sum(self._spans[block][1] - self._spans[block][0] for block in body)

    def places(self, body: set[int]) -> tuple[int, ...]:
        """Return the places of the instructions of some blocks."""
        return tuple(place for block in sorted(body) for place in range(*self._spans[block]))


def _bits(number: int) -> list[int]:
    return [place for place in range(number.bit_length()) if number >> place & 1]


def _successors(jump: Jump | None, end: int, number: Mapping[int, int]) -> list[int]:
    """Return the blocks that may follow the one that ends before a place."""
    following = [] if jump is None or jump.target is None else [number[jump.target]]
    if (jump is None or not jump.always) and end in number:
        following.append(number[end])
    return following


def _reachable(after: Sequence[Sequence[int]]) -> set[int]:
    reached, waiting = {0}, [0]
    while waiting:
        for other in after[waiting.pop()]:
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return reached


def _dominators(
    after: Sequence[Sequence[int]], before: Sequence[Sequence[int]], first: Sequence[int], reached: set[int]
) -> list[int]:
    """Return for each block a set of bits: the blocks that every way from the first ones to it passes."""
    everything = sum(1 << block for block in reached)
    found = [everything] * len(after)
    for block in first:
        found[block] = 1 << block
    waiting = [other for block in first for other in after[block]]
    while waiting:
        block = waiting.pop()
        if block not in reached or block in first:
            continue
        common = everything
        for other in before[block]:
            if other in reached:
                common &= found[other]
        common |= 1 << block
        if common != found[block]:
            found[block] = common
            waiting.extend(after[block])
    return found


def _reaching(block: int, head: int, before: Sequence[Sequence[int]]) -> set[int]:
    """Return the blocks from which `block` is reached without passing `head`."""
    found: set[int] = set()
    waiting = [block]
    while waiting:
        place = waiting.pop()
        if place != head and place not in found:
            found.add(place)
            waiting.extend(before[place])
    return found
