"""Tests of the counting emulator by programs: planted races, and requests to memory counted by hand.

races.cu contains each race beside the same kernel without it, and races_beside.cu those that barriers of some
threads and waits for copies, stores and products prevent. A race must be found by both of its lines, and no
other may be reported.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cconvnet.devices.counting import source_lines

TESTS = Path(__file__).parent
KERNELS = Path(__file__).parents[2] / "kernels"
COMPILER = os.environ.get("CXX", "g++")
FLAGS = [
    "-std=c++17",
    "-g1",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
    "-DCCONVNET_EMULATOR",
    "-DCCONVNET_COUNTING",
]
INSTRUMENTED = ["-fno-tree-sra", "-fno-thread-jumps", "-fsanitize=thread"]

# Beside the program.
MORE_SOURCES = {"races_beside": [KERNELS / "gemm" / "tensor_map.cu"]}

pytestmark = pytest.mark.skipif(
    "clang" in COMPILER or shutil.which(COMPILER.split()[0]) is None, reason="the counting emulator needs g++"
)

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Lines]]:
    """Return a function that builds and runs a program, and returns the lines of each of its cases.

    Instructions have a `line`, the number of their line in the program.
    """
    folder = tmp_path_factory.mktemp("counted")

    @cache
    def compiled(source: Path, *options: str) -> Path:
        target = folder / f"{source.stem}.o"
        command = [*COMPILER.split(), *FLAGS, *options, f"-I{KERNELS}", "-x", "c++", "-c", str(source)]
        done = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True, timeout=200)
        assert (done.returncode, done.stderr) == (0, "")
        return target

    @cache
    def run(name: str) -> dict[str, Lines]:
        objects = [
            compiled(TESTS / f"{name}.cu", *INSTRUMENTED),
            *map(compiled, [KERNELS / "emulator" / "counting.cpp", *MORE_SOURCES.get(name, [])]),
        ]
        program = folder / name
        subprocess.run([*COMPILER.split(), *objects, "-o", program], check=True, timeout=100)
        output = subprocess.run([program], check=True, capture_output=True, text=True, timeout=100).stdout
        lines = [json.loads(line) for line in output.splitlines()]
        instructions = [i for line in lines for i in [*line.get("race", ()), line.get("access")] if i]
        chains = source_lines(program, [instruction["offset"] for instruction in instructions])
        for instruction in instructions:
            own = [line.number for line in chains[instruction["offset"]] if line.file.endswith(f"{name}.cu")]
            instruction["line"] = own[0]
        return {
            case: [line for line in lines if line["case"] == case]
            for case in {line["case"] for line in lines}
        }

    return run


def lines_of(program: str, mark: str) -> list[int]:
    """Return the numbers of the lines that end in "// LINE mark"."""
    lines = (TESTS / f"{program}.cu").read_text().splitlines()
    return [i for i, line in enumerate(lines, 1) if re.search(rf"// LINE {mark}$", line)]


# ---- races ----------------------------------------------------------------------------------------------

KINDS = ("load", "store", "atomic", "copy", "matrix")
# The kinds of the two accesses, in any order, and the array: shared memory, or global memory.
PLANTED = {
    "read after write": ("store", "load", "shared"),
    "write after read": ("load", "store", "shared"),
    "write after write": ("store", "store", "shared"),
    "double buffer": ("load", "store", "shared"),
    "every other step": ("store", "load", "shared"),
    "halves": ("store", "load", "shared"),
    "warp synchronous": ("load", "store", "shared"),
    "narrow mask": ("store", "load", "shared"),
    "chain": ("store", "load", "shared"),
    "shuffle": ("store", "load", "shared"),
    "matrix rows": ("store", "matrix", "shared"),
    "before wait": ("copy", "load", "shared"),
    "without barrier": ("copy", "load", "shared"),
    "barrier before wait": ("copy", "load", "shared"),
    "one group": ("copy", "load", "shared"),
    "still read": ("load", "copy", "shared"),
    "atomic": ("atomic", "load", "shared"),
    "two blocks write": ("store", "store", ""),
    "another block": ("store", "load", ""),
    "global": ("store", "load", ""),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_race_is_found_by_both_of_its_lines(
    printed: Callable[[str], dict[str, Lines]], case: str
) -> None:
    races = [line for line in printed("races")[f"{case}: wrong"] if "race" in line]
    marked = lines_of("races", case)
    *kinds, array = PLANTED[case]
    assert 1 <= len(races) <= 2  # a read and a write may meet in either order
    for race in races:
        assert sorted(side["line"] for side in race["race"]) == sorted(marked * (2 // len(marked)))
        assert sorted(KINDS[side["kind"]] for side in race["race"]) == sorted(kinds)
        assert race["array"] == array and race["occurrences"] >= 1
        # A copy races with its own thread too, until the wait.
        assert (
            race["threads"][0] != race["threads"][1]
            or race["blocks"][0] != race["blocks"][1]
            or (case == "before wait")
        )


@pytest.mark.parametrize("case", PLANTED)
def test_the_same_kernel_without_the_race_is_clean(
    printed: Callable[[str], dict[str, Lines]], case: str
) -> None:
    assert [line for line in printed("races")[f"{case}: right"] if "race" in line] == []


def test_all_planted_races_are_listed(printed: Callable[[str], dict[str, Lines]]) -> None:
    assert {name.partition(":")[0] for name in printed("races")} == set(PLANTED)


def test_a_race_names_block_threads_and_place(printed: Callable[[str], dict[str, Lines]]) -> None:
    """Thread 24 reads what thread 0 writes later: value 0, the first 4 bytes of the shared object."""
    (race, *_) = (line for line in printed("races")["chain: wrong"] if "race" in line)
    assert (race["blocks"], race["threads"], race["position"]) == ([0, 0], [0, 3], 0)
    (race, *_) = (line for line in printed("races")["two blocks write: wrong"] if "race" in line)
    assert (race["blocks"], race["threads"], race["occurrences"]) == ([0, 1], [0, 0], 64)


# The marks of the two accesses that race first.
BESIDE = {
    "meetings: none": ("written", "read"),
    "meetings: of others": ("written", "read"),
    "messages: not awaited": ("sent", "received"),
    "messages: early arrival": ("sent", "received"),
    "ring: no wait for bytes": ("loaded", "summed"),
    "ring: early arrival": ("summed", "loaded"),
    "one load: barrier of the block": ("one loaded", "one read"),
    "stores: no wait": ("stored", "filled"),
    "stores: too few groups": ("stored", "filled"),
    "products: no wait for bytes": ("factors loaded", "multiplied"),
    "products: released in flight": ("multiplied", "factors loaded"),
    "gifts: barrier of the block": ("given", "taken"),
    "pair: early arrival": ("summed in both", "loaded for both"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_a_race_with_work_beside_the_threads_is_found_by_both_of_its_lines(
    printed: Callable[[str], dict[str, Lines]], case: str
) -> None:
    lines = [lines_of("races_beside", mark) for mark in BESIDE[case]]
    races = [
        [side["line"] for side in line["race"]]
        for line in printed("races_beside")[case]
        if line.get("array") == "launch shared"
    ]
    assert [number for (number,) in lines] in races
    # A load that nobody waits for also races with the next, and a read with a later write.
    assert {number for race in races for number in race} == {number for (number,) in lines}
    assert len(races) <= 3


def test_kernels_that_wait_for_work_beside_the_threads_are_clean(
    printed: Callable[[str], dict[str, Lines]],
) -> None:
    found = printed("races_beside")
    assert {name.partition(":")[0] for name in BESIDE} == {name for name in found if ":" not in name}
    for name, lines in found.items():
        assert any("race" in line for line in lines) == (name in BESIDE), name


# ---- requests -------------------------------------------------------------------------------------------

# Of one warp by one line: bytes of a lane, requests, lanes, sectors, least sectors, misses.
GLOBAL = {
    "scalar 0": (4, 1, 32, 1, 1, 1),
    "scalar 1": (4, 1, 32, 4, 4, 4),
    "scalar 2": (4, 1, 32, 8, 4, 8),
    "scalar 8": (4, 1, 32, 32, 4, 32),
    "scalar 32": (4, 1, 32, 32, 4, 32),
    "scalar misaligned": (4, 1, 32, 5, 4, 5),
    "vectors 4": (16, 1, 32, 16, 16, 16),
    # Two instructions, each of which touches one half of every sector; the second finds them in the cache.
    "vectors 8": (16, 2, 64, 64, 32, 32),
    "vectors half a sector": (16, 1, 32, 17, 16, 17),
    "vectors bf16": (16, 1, 32, 16, 16, 16),
    "few lanes": (4, 1, 10, 2, 2, 2),
    "twice": (4, 2, 64, 8, 8, 4),
    "atomics": (4, 1, 32, 1, 1, 1),
    # Copies pass the cache by. Lanes outside copy zeros and read nothing.
    "copies 32": (16, 1, 32, 16, 16, 16),
    "copies 8": (16, 1, 8, 4, 4, 4),
}
# Of one warp by one line: bytes of a lane, requests, lanes, wavefronts, those without conflicts.
SHARED = {
    "shared scalar 0": (4, 1, 32, 1, 1),
    "shared scalar 1": (4, 1, 32, 1, 1),
    "shared scalar 2": (4, 1, 32, 2, 1),
    "shared scalar 32": (4, 1, 32, 32, 1),
    "shared scalar 33": (4, 1, 32, 1, 1),
    "shared vectors 2": (8, 1, 32, 2, 2),
    "shared vectors 4": (16, 1, 32, 4, 4),
    "shared vectors 4 broadcast": (16, 1, 32, 4, 4),
    "shared vectors 4 apart": (16, 1, 32, 8, 4),
    "shared vectors 4 padded": (16, 1, 32, 32, 4),
    "shared small 2": (2, 1, 32, 1, 1),
    "shared small 1": (1, 1, 32, 1, 1),
    # Structures of words move in the widest pieces of one size.
    "shared words 3": (4, 3, 96, 3, 3),
    "shared words 6": (8, 3, 96, 6, 6),
    "rows 4": (16, 1, 32, 4, 4),
    "rows 8": (16, 1, 32, 8, 4),
    "rows 32": (16, 1, 32, 32, 4),
    "copies 32": (16, 1, 32, 4, 4),
    "copies 8": (16, 1, 32, 4, 4),
}


def sums(lines: Lines, space: int, numbers: list[int]) -> tuple[int, ...]:
    """Return bytes of a lane and the sums of the counts of the reading lines with these numbers."""
    found = [
        line
        for line in lines
        if "access" in line and line["access"]["space"] == space and line["access"]["line"] in numbers
    ]
    if space == 0:
        found = [line for line in found if KINDS[line["access"]["kind"]] != "store"]
    (width,) = {line["access"]["bytes"] for line in found}
    return (width, *map(sum, zip(*(line["counts"] for line in found), strict=True)))


def mark_of(case: str) -> str:
    marks = re.findall(r"// LINE (.*)", (TESTS / "requests.cu").read_text())
    return next(mark for mark in marks if case.startswith(mark))


@pytest.mark.parametrize("case", GLOBAL)
def test_sectors_of_global_memory(printed: Callable[[str], dict[str, Lines]], case: str) -> None:
    counts = sums(printed("requests")[case], 0, lines_of("requests", mark_of(case)))
    assert counts == (*GLOBAL[case], 0, 0)


@pytest.mark.parametrize("case", SHARED)
def test_wavefronts_of_shared_memory(printed: Callable[[str], dict[str, Lines]], case: str) -> None:
    width, requests, lanes, *sectors, needed, least = sums(
        printed("requests")[case], 1, lines_of("requests", mark_of(case))
    )
    assert (width, requests, lanes, needed, least) == SHARED[case]
    assert sectors == [0, 0, 0]


@pytest.mark.parametrize(
    ("case", "blocks", "barriers", "cut"), [("whole", 9, 27, 0), ("sampled", 3, 9, 0), ("cut", 9, 18, 9)]
)
def test_blocks_barriers_and_warp_operations(
    printed: Callable[[str], dict[str, Lines]], case: str, blocks: int, barriers: int, cut: int
) -> None:
    """Each block has two warps, and passes three barriers, each after a shuffle."""
    lines = printed("requests")[case]
    facts = next(line for line in lines if "blocks_run" in line)
    assert (facts["blocks_run"], facts["barriers"], facts["cut_blocks"]) == (blocks, barriers, cut)
    warps = {line["operation"]: line["warps"] for line in lines if "operation" in line}
    assert warps == {"__syncthreads": 2 * barriers, "__shfl_xor_sync": 2 * barriers}
