"""Mutation tests: every barrier and bounds guard of the kernels is removed in turn, and more is made wrong.

One emulator is built in which an environment variable chooses the mutant, and the tests of its operations run
on it in a process of its own. A mutant is caught if they fail or crash. If they pass, they run again with the
address and undefined-behaviour sanitizers. The usual long run takes a sample; `--mutants all` takes all,
`--mutants 3` takes three. mutants.json lists the mutants that compute the same as the original, with reasons.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.commands import COMPILER, REPORTED, SANITIZERS, sanitized
from helpers.mutants import (
    CHOICE,
    KERNELS,
    REACHED,
    Mutant,
    dependents,
    equivalents,
    files,
    mutants,
    switchable,
)

ROOT = Path(__file__).parents[2]
# Another number draws another sample.
SEED = 2012
# Of processor time, so that a busy machine makes no difference.
MOST_SECONDS = 3000

EPILOGUES = "tests/kernels/test_input_epilogue.py"
EXTREMES = "tests/kernels/test_extremes.py"

# The tests of each kernel file: those of its name, unless others are better.
TESTS: dict[str, list[str]] = {
    str(path.relative_to(KERNELS)): [f"test_{path.stem}.py"] for path in files() if path.suffix == ".cu"
} | {
    "conv_dgrad.cu": ["test_conv.py", EPILOGUES, "-k", "conv_dgrad or products or same_arithmetic"],
    "conv_fprop.cu": ["test_conv.py", "-k", "conv_fprop or bias or on_the_way"],
    "conv_wgrad.cu": ["test_conv.py", "-k", "conv_wgrad or update"],
    "conv_few_channels.cu": [
        "test_conv.py",
        "-k",
        "(fprop or wgrad) and (rgb or tail or groups) or several_patches or influence or nan_in_a_filter",
    ],
    "fc_cluster.cu": ["test_fc_wgmma.py"],
    "fc_update.cu": ["test_fc_wgmma.py"],
    "gemm/split_reduce.cu": ["test_conv.py"],
    "conv_halo.cu": ["test_conv_wgmma.py"],
    "gemm/tensor_map.cu": ["test_conv_wgmma.py"],
    "lrn.cu": ["test_lrn.py", EXTREMES],
    "lrn_maxpool.cu": [
        "test_lrn_maxpool.py",
        EPILOGUES,
        EXTREMES,
        "-k",
        "lrn_maxpool or normalisation or lrn_and_pooling",
    ],
    "pool.cu": ["test_pool.py", EPILOGUES, "-k", "pool"],
}

needs_compiler = pytest.mark.skipif(
    shutil.which(COMPILER.split()[0]) is None or shutil.which("make") is None,
    reason=f"needs make and a host compiler ({COMPILER})",
)


def listed() -> list[Mutant]:
    """Return the mutants that compute the same as the original."""
    keys = [{name: entry[name] for name in ("file", "line", "gone")} for entry in equivalents()]
    return [mutant for mutant in mutants() if mutant.key in keys]


def tried(config: pytest.Config) -> list[Mutant]:
    """Return the mutants of this run."""
    equivalent = listed()
    worth = [mutant for mutant in mutants() if mutant not in equivalent]
    asked = config.getoption("--mutants")
    return worth if asked == "all" else random.Random(SEED).sample(worth, min(int(asked), len(worth)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mutant" in metafunc.fixturenames:
        metafunc.parametrize("mutant", tried(metafunc.config), ids=str)


class Outcome(NamedTuple):
    """First failure of the tests, if any, and whether a process that ended came to the mutant."""

    failure: str
    reached: bool


class Kernels:
    """An emulator that contains mutants, and the tests that run on it."""

    def __init__(self, folder: Path, sanitize: bool) -> None:
        self.folder, self.sanitize = folder, sanitize

    def build(self, mutated: set[str]) -> None:
        """Compile the kernels, with a choice of mutants in these files. What is up to date is kept."""
        if not (self.folder / "build").exists() and (ROOT / "build").exists():
            ignored = shutil.ignore_patterns("mutants", "cuda", "cpu", "counting")
            shutil.copytree(ROOT / "build", self.folder / "build", ignore=ignored)
        switches = switchable(mutated)
        for name in ("Makefile", "kernels", "bindings", "tools"):
            for path in [ROOT / name, *(ROOT / name).rglob("*")]:
                if path.is_file() and path.relative_to(ROOT) not in switches:
                    copy = self.folder / path.relative_to(ROOT)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    if not copy.exists():
                        shutil.copy2(path, copy)  # with its time, so that its objects are kept
                    elif copy.read_bytes() != path.read_bytes():
                        shutil.copyfile(path, copy)
        for name, text in switches.items():
            path = self.folder / name
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
        settings = ["CCONVNET_CUDA=off", "CCONVNET_CPU=off", f"PYTHON={sys.executable}", "OUT=modules"]
        if self.sanitize:
            settings.append(f"SANITIZE={SANITIZERS}")
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
        made = subprocess.run(
            ["make", "-C", self.folder, "modules", "MODULES=_emulator", *settings],
            env=environment,
            capture_output=True,
            text=True,
            timeout=3600,
        )
        assert made.returncode == 0, f"mutants must compile:\n{made.stdout}{made.stderr}"

    def test(self, file: str, mutant: Mutant | None = None) -> Outcome:
        """Run the tests of the operations that a kernel file is part of, up to the first failure.

        A failed test and a crashed process are failures; anything else is an error.
        """
        modules = self.folder / "modules"
        if self.sanitize:
            # Bare ends of allocations, which the sanitizer watches to the byte.
            environment = sanitized(modules) | {"CCONVNET_TEST_GUARD": "0"}
        else:
            environment = os.environ | {"CCONVNET_MODULE_PATH": str(modules)}
        environment.pop("PYTEST_XDIST_WORKER", None)
        if mutant:
            environment[CHOICE] = str(mutant.number)
        reached = False
        for name in dependents(file):
            tests, *selection = TESTS[name]
            command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
            command += ["--device", "emulator:0", str(Path(__file__).with_name(tests)), *selection]
            run = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=4 * MOST_SECONDS,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS)),
            )
            reached |= REACHED in run.stderr
            if run.returncode != 0:
                failed = re.search(r"^(FAILED|ERROR) .*", run.stdout, re.MULTILINE)
                # A signal, or the exit code of the sanitizers.
                died = run.returncode < 0 or run.returncode == REPORTED
                assert (run.returncode == 1 and failed) or died, (
                    f"pytest could not run the tests:\n{run.stdout[-3000:]}{run.stderr[-3000:]}"
                )
                report = re.search(r"SUMMARY: .*|runtime error: .*", run.stderr)
                return Outcome((failed or report or ["the process died"])[0], reached)
        return Outcome("", reached)


Build = Callable[[bool], Kernels]


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest) -> Build:
    """Build the kernels with all mutants of this run once, plain or sanitized, for all workers."""
    mutated = {mutant.file for mutant in tried(request.config)}

    @functools.cache
    def build(sanitize: bool) -> Kernels:
        folder = ROOT / "build" / "mutants" / ("sanitized" if sanitize else "plain")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kernels = Kernels(folder, sanitize)
            kernels.build(mutated)
        return kernels

    return build


def test_every_listed_equivalent_exists() -> None:
    assert len(listed()) >= len(equivalents()), "mutants.json names a line that is not there"
    assert all(len(entry["reason"]) > 20 for entry in equivalents())


def test_mutants_are_found() -> None:
    """The search finds every barrier, and guards in every family."""
    found = mutants()
    assert len({mutant.number for mutant in found}) == len(found)
    for name, text in switchable({mutant.file for mutant in found}).items():
        own = [mutant.number for mutant in found if Path("kernels", mutant.file) == name]
        assert re.findall(r"is_mutant\((\d+)\)", text) == [str(number) for number in own], name
    barriers = sum(path.read_text().count("__syncthreads();") for path in files())
    assert sum(mutant.key["gone"] == "__syncthreads();" for mutant in found) == barriers > 5
    guarded = {mutant.file for mutant in found}
    assert guarded >= {
        "column_sums.cuh",
        "gemm/gemm_tile.cuh",
        "lrn.cu",
        "lrn_maxpool.cu",
        "pool.cu",
        "softmax.cu",
    }
    tile = [mutant.key["gone"] for mutant in found if mutant.file == "gemm/tensor_tile.cuh"]
    assert sum("wait_for_copies" in gone for gone in tile) == 2 and "ptx::close_copy_group();" in tile
    assert [tests for tests, *_ in TESTS.values() if not Path(__file__).with_name(tests).exists()] == []


@pytest.mark.long
@needs_compiler
@pytest.mark.parametrize("sanitize", [False, True], ids=["plain", "sanitized"])
@pytest.mark.parametrize("file", sorted(TESTS))
def test_the_original_passes(built: Build, file: str, sanitize: bool) -> None:
    """Otherwise every mutant would be caught."""
    assert built(sanitize).test(file).failure == ""


@pytest.mark.long
@needs_compiler
def test_mutant_is_caught(
    built: Build, mutant: Mutant, record_property: Callable[[str, object], None]
) -> None:
    for sanitize in (False, True):
        outcome = built(sanitize).test(mutant.file, mutant)
        if outcome.failure:
            record_property("sanitized" if sanitize else "plain", outcome.failure)
            return
        assert outcome.reached, f"no test comes to {mutant.key}"
    pytest.fail(f"nothing noticed that {mutant.key} became {mutant.replacement!r}")
