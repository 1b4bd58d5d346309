"""Tests of launches with options in the emulator, by clusters.cu.

The options are clusters of blocks, and kernels that overlap with the one ahead. They run in
three builds, as the programs of test_emulator.py, under three schedules.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.emulator_programs import BUILDS, execute

Build = Callable[[str, str], Path]


@pytest.fixture(params=BUILDS)
def output(request: pytest.FixtureRequest, build: Build) -> dict[str, str]:
    """Return the lines that the program prints, by name."""
    done = execute(build("clusters", request.param))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return {name: text for name, _, text in (line.partition(": ") for line in done.stdout.splitlines())}


def right(output: dict[str, str], name: str) -> list[int]:
    """Return how many results are right under each schedule: -1 where there was an error."""
    return [*map(int, output[name].split())]


def test_blocks_of_a_cluster_read_and_write_each_others_memory(output: dict[str, str]) -> None:
    assert right(output, "exchange") == [8 * 40] * 3
    assert right(output, "exchange without a first wait") == [-1] * 3
    assert right(output, "exchange without a last wait") == [-1] * 3


def test_a_pair_loads_for_both_of_its_blocks(output: dict[str, str]) -> None:
    assert right(output, "pair") == [4 * 64] * 3
    faults = {name: right(output, name) for name in output if name.startswith("pair ")}
    assert len(faults) == 7
    # Loads that are done at once overwrite nothing that is still read.
    early = faults.pop("pair that waits for its own readers")
    assert early[0] == 256 and max(early[1:]) < 256
    assert {tuple(results) for results in faults.values()} == {(-1, -1, -1)}


def test_errors_of_clusters_name_the_rule(output: dict[str, str]) -> None:
    assert "arrives a second time without having waited" in output["text of a second arrival"]
    assert "the thread waits without having arrived" in output["text of a wait alone"]
    assert "block 4 is named, of a cluster of 4" in output["text of an absent block"]
    assert "block 2 is named, of a cluster of 2" in output["text of a mask"]
    deadlock = output["text of a deadlock"]
    assert (
        "and the others of its cluster: threads wait for others that never arrive; in block 0 of it"
        in deadlock
    )
    assert "the barrier of the cluster, at which 62 of 192 threads have arrived" in deadlock
    assert deadlock.count("of which 2 of 4 threads and 0 bytes are missing") == 2


def test_a_kernel_that_overlaps_with_the_one_ahead_waits_for_it(output: dict[str, str]) -> None:
    assert output["dependent"] == "2"
    assert (
        "thread (63,0,0): returned without having waited for the kernel ahead, with which the launch overlaps"
        in output["text of no wait"]
    )
    assert "the thread has not waited for the kernel ahead" in output["text of an early load"]


def test_a_grid_consists_of_whole_clusters(output: dict[str, str]) -> None:
    for size in (0, 2, 9):
        text = output[f"text of clusters of {size}"]
        assert f"cudaErrorInvalidClusterSize, 9 blocks along x in clusters of {size};" in text
        assert text.endswith("allowed are whole clusters of 1 to 8")
