"""Facts about the machine code of each kernel, as far as the model of its speed needs them.

They come from objects that nvcc made, or from a file of the package, so that they are there without nvcc.
``tools/kernel_facts.py`` writes that file.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from cconvnet.profile.machine_code import Instruction, Kernel
from cconvnet.profile.occupancy import Occupancy, occupancy

SHIPPED = Path(__file__).parent / "kernel_facts"


@dataclass(frozen=True)
class Part:
    """A loop or section of a kernel without those inside it; see cconvnet.profile.loops.

    Attributes:
        parent: The number of the part around it; None for the first, which is in no other.
        repeats: Whether it is a loop.
        code: The instructions of one passage, by kind.
        waits: For each wait for loads from global memory in a passage: the instructions since the first of
            these loads.
        shared_waits: The same for loads from shared memory.
    """

    parent: int | None
    repeats: bool
    code: Counter[str]
    waits: tuple[int, ...]
    shared_waits: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """Facts about a kernel.

    Attributes:
        file: Its source file, "conv_fprop.cu".
        name: Its name without namespaces and arguments.
        arch: The architecture of its code, "sm_90a".
        registers: Registers of a thread.
        shared: Bytes of shared memory of a block.
        threads: The largest block.
        hot: The number of its hot loop, if it multiplies operands in shared memory.
        parts: Its parts, outer ones first.
    """

    file: str
    name: str
    arch: str
    registers: int
    shared: int
    threads: int
    hot: int | None
    parts: tuple[Part, ...]

    def hot_loop(self, runs: Sequence[float] | None = None) -> Counter[str]:
        """Return the instructions of a passage of the loop in which a warp spends the most of them.

        Sections of the loop count as often as they run, loops inside it not at all. A kernel without a
        loop is one passage.

        Args:
            runs: How often a warp runs each part; None if that is unknown: the loop with the products, in
                which each section runs once.
        """
        loop = [0] * len(self.parts)
        for number, part in enumerate(self.parts):
            loop[number] = number if part.repeats or part.parent is None else loop[part.parent]
        times = runs or [float(self.hot in (None, loop[number])) for number in range(len(self.parts))]
        total: dict[int, Counter[str]] = {}
        for number, part in enumerate(self.parts):
            own = total.setdefault(loop[number], Counter())
            for kind, count in part.code.items():
                own[kind] += times[number] * count  # type: ignore[assignment]
        hot = max(total, key=lambda number: (number != 0 or len(total) == 1, total[number].total()))
        passages = times[hot] or 1.0
        return Counter({kind: count / passages for kind, count in total[hot].items()})

    @property
    def has_warp_groups(self) -> bool:
        """Return whether warp groups multiply, and the copy engine copies."""
        return any(kind.startswith("HGMMA") for part in self.parts for kind in part.code)

    @property
    def follows(self) -> bool:
        """Return whether the launch overlaps with the kernel ahead, for which the threads wait."""
        return any("ACQBULK" in part.code for part in self.parts)

    def inside(self, instruction: str, *, innermost: bool) -> set[int]:
        """Return the loops around an instruction, and the parts inside them.

        Args:
            instruction: How its kind begins.
            innermost: The innermost loops; else the outermost parts but the whole kernel.
        """
        found: set[int] = set()
        for number, part in enumerate(self.parts):
            if any(kind.startswith(instruction) for kind in part.code):
                place = number
                while (outer := self.parts[place].parent) and not (innermost and self.parts[place].repeats):
                    place = outer
                found.add(place)
        for number, part in enumerate(self.parts):
            if part.parent in found:
                found.add(number)
        return found

    def occupancy(self, threads: int, shared: int) -> Occupancy:
        """Return how many blocks of so many threads and bytes a multiprocessor holds at once."""
        return occupancy(self.arch, self.registers, max(shared, self.shared), threads)


# ---- from machine code ------------------------------------------------------------------------------------

_REGISTER = re.compile(r"\bR(\d+)(\.64)?")
_WIDTHS = {1: 1, 2: 1, 4: 1, 8: 2, 16: 4}


def facts_of(kernel: Kernel) -> Facts:
    """Return the facts about a kernel, without code that no branch reaches, as a division's rare case."""
    joined, numbers = _merged(_parts(kernel))
    return Facts(
        kernel.file,
        kernel.name,
        kernel.arch,
        kernel.registers,
        kernel.shared,
        kernel.threads or 1024,
        None if kernel.hot is None else numbers[kernel.hot],
        tuple(joined),
    )


def parts_of_places(kernel: Kernel) -> dict[int, int]:
    """Return the number of the part of a kernel's facts that contains each place of its code."""
    _, numbers = _merged(_parts(kernel))
    return {place: numbers[region] for place, region in _regions(kernel).items()}


def _regions(kernel: Kernel) -> dict[int, int]:
    """Return the innermost region of each place of a kernel's code."""
    return {place: number for number, region in enumerate(kernel.regions) for place in region.places}


def _parts(kernel: Kernel) -> list[Part]:
    """Return a part for each region of a kernel."""
    own: list[list[Instruction]] = [[] for _ in kernel.regions]
    for place, number in sorted(_regions(kernel).items()):
        own[number].append(kernel.code[place])
    parts = []
    for region, code in zip(kernel.regions, own, strict=True):
        read = [*map(_registers_read, code)]
        parts.append(
            Part(
                region.parent,
                region.repeats,
                Counter(one.kind for one in code),
                tuple(_waits(code, read, ("LDG", "LD."), region.repeats)),
                tuple(_waits(code, read, ("LDS.", "LDSM"), region.repeats)),
            )
        )
    return parts


def accesses(code: Mapping[str, int]) -> dict[str, int]:
    """Return the instructions that the emulator counts too: accesses to memory, barriers and products."""
    return {kind: count for kind, count in code.items() if kind.startswith(_ACCESSES)}


_ACCESSES = (
    "LD.",
    "ST.",
    "LDG.",
    "STG.",
    "LDGSTS.",
    "LDS.",
    "STS.",
    "LDSM",
    "BAR",
    "HMMA",
    "HGMMA.",
    "UTMA",
    "SHFL",
)


def _merged(parts: Sequence[Part]) -> tuple[list[Part], list[int]]:
    """Join sections without loops that lie in the same part and access memory alike, as an unrolled loop's.

    Returns:
        The parts, and the new number of each old one.
    """
    inside = [Counter(accesses(part.code)) for part in parts]
    loops = [int(part.repeats) for part in parts]
    for old in range(len(parts) - 1, 0, -1):
        outer = parts[old].parent
        assert outer is not None
        inside[outer] += inside[old]
        loops[outer] += loops[old]
    merged: list[Part] = []
    number: list[int] = []
    known: dict[Any, int] = {}
    for old, part in enumerate(parts):
        parent = None if part.parent is None else number[part.parent]
        key = (parent, old if loops[old] else None, tuple(sorted(inside[old].items())))
        place = known.get(key)
        if place is None:
            place = known[key] = len(merged)
            merged.append(replace(part, parent=parent))
        else:
            first = merged[place]
            merged[place] = Part(
                parent,
                False,
                first.code + part.code,
                first.waits + part.waits,
                first.shared_waits + part.shared_waits,
            )
        number.append(place)
    return merged, number


def _waits(
    code: Sequence[Instruction], read: Sequence[set[int]], loads: tuple[str, ...], repeats: bool
) -> Iterator[int]:
    """Yield the instructions between loads and the wait for them, for each wait in a passage.

    The first instruction that reads the result of a load waits for it. Loads before it are waited for
    together.

    Args:
        code: Instructions in their order.
        read: The registers that each of them reads.
        loads: How the kinds of these loads begin.
        repeats: Whether the passage is repeated, so that it may wait for loads of the one before.
    """
    pending: dict[int, int] = {}
    for passage in range(2 if repeats else 1):
        for place, (one, registers) in enumerate(zip(code, read, strict=True), passage * len(code)):
            if pending and not registers.isdisjoint(pending):
                if passage == int(repeats):
                    yield place - min(pending.values())
                pending.clear()
            kind = one.kind
            is_load = kind.startswith(loads) or f"{kind}.".startswith(loads)
            if is_load and not _stores(one) and (found := _REGISTER.match(one.operands)):
                width = 4 if kind == "LDSM" else _WIDTHS[int(kind.rpartition(".")[2])]
                pending |= dict.fromkeys(range(int(found[1]), int(found[1]) + width), place)


def _registers_read(one: Instruction) -> set[int]:
    sources = one.operands if _stores(one) else one.operands.partition(",")[2]
    return {
        int(number) + more for number, wide in _REGISTER.findall(sources) for more in range(2 if wide else 1)
    }


def _stores(one: Instruction) -> bool:
    return one.opcode.startswith(("ST", "RED", "BRA", "BAR", "EXIT", "LDGSTS"))


# ---- as lines of a file -----------------------------------------------------------------------------------


def to_line(facts: Facts) -> str:
    """Return the facts as a line of JSON; their architecture is the file's."""
    parts = [
        [part.parent, int(part.repeats), dict(sorted(part.code.items())), part.waits, part.shared_waits]
        for part in facts.parts
    ]
    value = [facts.file, facts.name, facts.registers, facts.shared, facts.threads, facts.hot, parts]
    return json.dumps(value, separators=(",", ":"))


def from_line(line: str, arch: str) -> Facts:
    """Return the facts that to_line() wrote."""
    file, name, registers, shared, threads, hot, parts = json.loads(line)
    return Facts(
        file,
        name,
        arch,
        registers,
        shared,
        threads,
        hot,
        tuple(
            Part(parent, bool(repeats), Counter(code), tuple(waits), tuple(shared_waits))
            for parent, repeats, code, waits, shared_waits in parts
        ),
    )


def shipped_file(arch: str) -> Path:
    """Return the package's file of an architecture, which contains a line for each kernel, compressed."""
    return SHIPPED / f"{arch}.jsonl.gz"


def shipped_text(arch: str) -> str:
    """Return the content of the file of the package; empty for other architectures."""
    file = shipped_file(arch)
    return gzip.decompress(file.read_bytes()).decode() if file.exists() else ""


@cache
def shipped(arch: str) -> Mapping[str, Facts]:
    """Return the facts about the kernels of the package, by their names; none for other architectures."""
    return by_name(from_line(line, arch) for line in shipped_text(arch).splitlines())


def by_name(found: Iterable[Facts]) -> dict[str, Facts]:
    """Return facts by the names of their kernels."""
    return {facts.name: facts for facts in found}
