"""Passages of a warp through each part of a kernel, fitted to the accesses that the emulator counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cconvnet.profile.facts import Part, accesses

Array = np.ndarray[Any, np.dtype[np.float64]]

_ROUNDS = 3000
# Weights beside an equation's 1: of narrow loads from shared memory, since one compiler keeps in a register
# what the other one loads again; of a section that runs more often than its surroundings; and of any
# passage, which divides accesses among equal parts.
_NARROW, _LIMITED, _EVEN = 1e-3, 4.0, 1e-5


def passages(parts: Sequence[Part], counted: Mapping[str, float]) -> list[float]:
    """Return the passages of a warp through each part of its kernel, on average.

    An unrolled loop, a loop's end and the ways around a bound all differ in their accesses to memory. So the
    parts' accesses, each times its passages, must add up to those counted: a fit by least squares, in which
    a section runs at most as often as what surrounds it. Parts without an access run as often as those
    inside them, else as their surroundings.

    Args:
        parts: The parts of the kernel; the first runs once.
        counted: Accesses, barriers and products of a warp by kind, "LDG.16" or "BAR".
    """
    own = [accesses(part.code) for part in parts]
    wanted, given = _equations(own, counted)
    known = [bool(code) for code in own]
    found = _fitted(wanted, given, [_limits(parts, known, number) for number in range(len(parts))])
    return _completed(parts, known, found.tolist())


def _equations(own: Sequence[Mapping[str, float]], counted: Mapping[str, float]) -> tuple[Array, Array]:
    """Return a row for each kind: the accesses of a passage of each part, and those counted, scaled alike."""
    rows, values, weights_of = [], [], []
    classes = {kind.partition(".")[0] for code in own for kind in code}
    for name in sorted(classes):
        static = {kind for code in own for kind in code if kind.partition(".")[0] == name}
        there = {kind: number for kind, number in counted.items() if kind.partition(".")[0] == name}
        for kinds, weights, value in _matched(static, there):
            rows.append([sum(weights[kind] * code.get(kind, 0) for kind in kinds) for code in own])
            values.append(value)
            weights_of.append(_NARROW if name == "LDS" and max(map(_width, kinds)) < 16 else 1.0)
    wanted = np.array(rows, np.float64).reshape(len(rows), len(own))
    given = np.array(values, np.float64)
    scale = np.maximum(given, wanted.max(axis=1, initial=0.0))
    factor = np.array(weights_of) / scale
    return wanted * factor[:, None], given * factor


def _matched(
    static: set[str], counted: Mapping[str, float]
) -> list[tuple[list[str], Mapping[str, float], float]]:
    """Match the accesses of machine code to those counted, which are of another compiler's code.

    Widths that both have are compared one by one. Of the others, the compiler loads only what is used of a
    vector, so narrower accesses are compared by their number; or it joins accesses, so wider ones are
    compared by their bytes.
    """
    matched: list[tuple[list[str], Mapping[str, float], float]] = [
        ([kind], {kind: 1.0}, counted[kind]) for kind in sorted(static & set(counted))
    ]
    rest = sorted(static - set(counted))
    others = {kind: number for kind, number in counted.items() if kind not in static}
    if not rest:
        return matched
    if max(map(_width, rest)) < min(map(_width, others), default=0):
        return [*matched, (rest, dict.fromkeys(rest, 1.0), sum(others.values()))]
    total = sum(_width(kind) * number for kind, number in others.items())
    return [*matched, (rest, {kind: float(_width(kind)) for kind in rest}, total)]


def _width(kind: str) -> int:
    return int(kind.partition(".")[2] or 1)


def _limits(parts: Sequence[Part], known: Sequence[bool], number: int) -> int | None:
    """Return the part that limits how often a section runs; None for a loop, or within an unknown one."""
    if parts[number].repeats or not known[number]:
        return None
    parent = parts[number].parent
    while parent is not None and not known[parent]:
        if parts[parent].repeats:
            return None
        parent = parts[parent].parent
    return 0 if parent is None and number else parent


def _fitted(wanted: Array, given: Array, limits: Sequence[int | None]) -> Array:
    """Return the passages that fit best, by the accelerated gradient method for values that are not negative.

    Source: Beck and Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse
    Problems", 2009.
    """
    # Parts of any number of accesses move alike in steps of the same size.
    size = np.sqrt((wanted**2).sum(axis=0))
    size[size == 0] = 1.0
    size[0] = 1.0
    scaled = wanted / size
    inner = np.array([number for number, limit in enumerate(limits) if limit is not None], int)
    outer = np.array([limit for limit in limits if limit is not None], int)
    # A bound on the curvature: that of the equations, and of the limits.
    step = 1.0 / (np.linalg.norm(scaled, 2) ** 2 + 2 * _LIMITED * (1 + len(inner)) + _EVEN)
    found = np.zeros(len(size))
    found[0] = 1.0
    point, momentum = found, 1.0
    for _ in range(_ROUNDS):
        slope = scaled.T @ (scaled @ point - given) + _EVEN * point
        above = np.maximum(point[inner] / size[inner] - point[outer] / size[outer], 0.0)
        np.add.at(slope, inner, _LIMITED * above * size[inner])
        np.subtract.at(slope, outer, _LIMITED * above * size[outer])
        following = np.maximum(point - step * slope, 0.0)
        following[0] = 1.0
        faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        point = following + (momentum - 1) / faster * (following - found)
        found, momentum = following, faster
    return np.asarray(found / size)


def _completed(parts: Sequence[Part], known: Sequence[bool], found: list[float]) -> list[float]:
    """Return the passages of all parts, those without accesses too."""
    inside: list[float | None] = [None] * len(parts)
    for number in range(len(parts) - 1, 0, -1):
        part = parts[number]
        runs = found[number] if known[number] else inside[number]
        if runs is not None and not part.repeats and part.parent is not None:
            inside[part.parent] = max(runs, inside[part.parent] or 0.0)
    complete = list(found)
    complete[0] = 1.0
    for number, part in enumerate(parts):
        if known[number] or part.parent is None:
            continue
        runs = inside[number]
        if runs is None:
            complete[number] = complete[part.parent]
        else:
            complete[number] = runs if part.repeats else min(runs, complete[part.parent])
    return complete


def executed(parts: Sequence[Part], runs: Sequence[float]) -> Counter[str]:
    """Return the instructions that a warp executes, by kind."""
    total: Counter[str] = Counter()
    for part, times in zip(parts, runs, strict=True):
        for kind, number in part.code.items():
            total[kind] += times * number  # type: ignore[assignment]
    return total
