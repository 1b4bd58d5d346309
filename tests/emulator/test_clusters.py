"""Tests of launches with options in the emulator, by clusters.cu: kernels that overlap with the one ahead."""

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
