"""The memory of a network's gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_ALIGNMENT = 64  # elements; the vector loads of the fast kernels want 16 bytes, cache lines 64


@dataclass
class Slot:
    """`count` elements that are in use from moment `first` to moment `last`, both included."""

    count: int
    first: int
    last: int
    offset: int = 0


def plan_memory(slots: Sequence[Slot]) -> int:
    """Gives every slot an offset such that slots in use at the same moment do not overlap.

    The largest are placed first, each at the lowest offset that is free throughout its life. Returns how many
    elements all of them need.
    """
    placed: list[Slot] = []
    for slot in sorted(slots, key=lambda slot: -slot.count):
        slot.offset = 0
        rivals = (o for o in placed if o.first <= slot.last and slot.first <= o.last)
        for other in sorted(rivals, key=lambda other: other.offset):
            if slot.offset + slot.count <= other.offset:
                break
            end = other.offset + other.count
            slot.offset = max(slot.offset, -(-end // _ALIGNMENT) * _ALIGNMENT)
        placed.append(slot)
    return max((slot.offset + slot.count for slot in placed), default=0)
