"""Tests of the instructions of compute capability 9.0 in the emulator, by warp_groups.cu.

They run in three builds, as the programs of test_emulator.py, under three schedules: copies and products
are done early, late, and at random.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.emulator_programs import BUILDS, execute

Build = Callable[[str, str], Path]
RIGHT_ROWS = 64


@pytest.fixture(params=BUILDS)
def output(request: pytest.FixtureRequest, build: Build) -> list[str]:
    """Return the lines that the program prints."""
    done = execute(build("warp_groups", request.param))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.splitlines()


def values(output: list[str]) -> dict[str, list[int]]:
    """Return the numbers of each case, one for each schedule."""
    found = {}
    for line in output:
        name, _, numbers = line.rpartition(": ")
        if re.fullmatch(r"[-0-9 ]+", numbers):
            found[name] = [*map(int, numbers.split())]
    return found


def text(output: list[str], name: str) -> str:
    (line,) = [line for line in output if line.startswith(f"{name}: ")]
    return line.removeprefix(f"{name}: ")


def test_copies_and_products_are_right_under_every_schedule(output: list[str]) -> None:
    found = values(output)
    wrong = {
        name: numbers
        for name, numbers in found.items()
        if name.startswith(("box ", "cube", "windows ", "products")) and " without a f" not in name
        if not name.endswith("without a wait")
    }
    assert len(wrong) == 20 + 1 + 24 + 10
    assert set(map(tuple, wrong.values())) == {(0, 0, 0)}, wrong
    assert found["ring"] == [RIGHT_ROWS] * 3 and found["stores"] == [0, 0, 0]


def test_roles(output: list[str]) -> None:
    found = values(output)
    assert found["elected"] == found["registers"] == [1, 1, 1] and found["meetings"] == [128] * 3
    assert "the block's groups want 98304 registers of 65536" in text(output, "text of too many registers")


def test_faults_of_barriers_show(output: list[str]) -> None:
    found = values(output)
    faults = {name: numbers for name, numbers in found.items() if name.startswith("ring ")}
    assert len(faults) == 7
    for name, numbers in faults.items():
        assert all(right < RIGHT_ROWS for right in numbers), name


def test_faults_of_products_and_stores_show(output: list[str]) -> None:
    found = values(output)
    for name in ("products without a fence", "sums used in flight", "other factors in a warp"):
        assert found[name] == [-1, -1, -1], name
    assert found["products without a wait"] == [1, 1, 1]
    # Done at once nothing is overwritten too early.
    assert found["factors overwritten in flight"] == [0, 1, 1] and found["stores without a wait"] == [0, 1, 1]


def test_a_deadlock_names_the_barrier_its_phase_and_what_is_missing(output: list[str]) -> None:
    message = text(output, "text of too many bytes")
    assert "threads wait for others that never arrive" in message
    full, empty = "byte 384 of the launch's shared memory", "byte 408 of the launch's shared memory"
    assert (
        f"for the phase of parity 0 of the barrier at {full}, of which 0 of 1 threads and 16 bytes" in message
    )
    assert (
        f"for the phase of parity 0 of the barrier at {empty}, of which 2 of 2 threads and 0 bytes" in message
    )
    assert "returned before its stores had read" in text(output, "text of a store that is not waited for")


def test_rules_of_tensor_maps(output: list[str]) -> None:
    rules = [line for line in output if line.startswith("rule: a tensor map ")]
    assert len(rules) == 11 and values(output)["no rule"] == [0, 1, 1]
