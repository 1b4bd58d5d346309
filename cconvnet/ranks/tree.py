"""The fixed tree in which the sums over the shards of a batch are added.

A node of the tree is the sum over the shards from `first` up to, but not including, `last`. One of several
shards adds those of its first p shards and those of the others, where p is the largest power of two below
their number. A stack is enough to evaluate it: sums are pushed in the order of the shards, and after each
push the two topmost are added as often as :func:`merges` says.
"""

from __future__ import annotations

from collections.abc import Sequence

# The shards from the first number up to, but not including, the second.
Node = tuple[int, int]


def own_shards(rank: int, ranks: int, shards: int) -> Node:
    """Return the shards of a rank; ranks have neighbouring ones, and as many as each other or one more."""
    return rank * shards // ranks, (rank + 1) * shards // ranks


def parts(own: Node, shards: int) -> list[Node]:
    """Return the largest nodes of the tree over `shards` shards that lie within `own`, in order."""

    def inside(node: Node) -> list[Node]:
        first, last = node
        if own[0] <= first and last <= own[1]:
            return [node]
        if last <= own[0] or own[1] <= first:
            return []
        return [found for half in _halves(node) for found in inside(half)]

    return inside((0, shards))


def merges(node: Node, operands: Sequence[Node]) -> list[int]:
    """Return how often the two topmost sums are added after each operand, for the sum of a node.

    Args:
        node: The node.
        operands: Nodes below it, or itself, in order; together they have its shards.
    """
    if list(operands) == [node]:
        return [0]
    left, right = _halves(node)
    count = sum(operand[0] < left[1] for operand in operands)
    found = merges(left, operands[:count]) + merges(right, operands[count:])
    found[-1] += 1
    return found


def leaves(node: Node) -> list[Node]:
    """Return the shards of a node as nodes."""
    return [(shard, shard + 1) for shard in range(*node)]


def _halves(node: Node) -> tuple[Node, Node]:
    first, last = node
    middle = first + (1 << (last - first - 1).bit_length() - 1)
    return (first, middle), (middle, last)
