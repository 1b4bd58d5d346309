"""The tree of sums is one and the same, however its leaves are spread over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cconvnet.ranks.tree import Node, leaves, merges, own_shards, parts

Sum = Any  # a shard, or the pair of sums that were added


def run(operands: Sequence[Sum], times: Sequence[int]) -> Sum:
    """Evaluate a program of the stack, and check that it never runs out of sums."""
    stack: list[Sum] = []
    for operand, count in zip(operands, times, strict=True):
        stack.append(operand)
        assert 0 <= count < len(stack)
        for _ in range(count):
            right, left = stack.pop(), stack.pop()
            stack.append((left, right))
    (total,) = stack
    return total


def sum_of(node: Node) -> Sum:
    return run([first for first, _ in leaves(node)], merges(node, leaves(node)))


def test_the_tree_is_that_of_a_binary_counter() -> None:
    assert sum_of((0, 1)) == 0
    assert sum_of((0, 3)) == ((0, 1), 2)
    assert sum_of((0, 6)) == (((0, 1), (2, 3)), (4, 5))
    assert sum_of((0, 7)) == (((0, 1), (2, 3)), ((4, 5), 6))


@pytest.mark.parametrize("shards", [*range(1, 20), 31, 64, 100, 256])
def test_any_number_of_ranks_adds_in_the_same_tree(shards: int) -> None:
    whole = sum_of((0, shards))
    for ranks in {*range(1, min(shards, 9) + 1), shards}:
        own = [own_shards(rank, ranks, shards) for rank in range(ranks)]
        assert [shard for node in own for shard in range(*node)] == list(range(shards))
        assert max(b - a for a, b in own) - min(b - a for a, b in own) <= 1
        sent = [part for node in own for part in parts(node, shards)]
        assert run([sum_of(part) for part in sent], merges((0, shards), sent)) == whole
        # As few as can be: at most two for each size of a node.
        assert all(len(parts(node, shards)) <= 2 * shards.bit_length() for node in own)


def test_the_stack_of_the_largest_tree_is_nine_deep() -> None:
    height = deepest = 0
    for count in merges((0, 256), leaves((0, 256))):
        height += 1
        deepest = max(deepest, height)
        height -= count
    assert deepest == 9
