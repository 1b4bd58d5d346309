"""Mutation tests: every barrier and every bounds guard of the kernels is removed in turn.

A mutant is built for the emulator, and the tests of its operations run on it in a process of its own. It is
caught if they fail or crash. If they pass, they run again with the address and undefined-behaviour
sanitizers. The usual long run takes a sample; `--mutants all` takes all, `--mutants 3` takes three.
mutants.json lists the mutants that compute the same as the original, with reasons.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import COMPILER, REPORTED, SANITIZERS, sanitized
from helpers.mutants import KERNELS, Mutant, dependents, equivalents, files, mutants

ROOT = Path(__file__).parents[2]
# Another number draws another sample.
SEED = 2012

EPILOGUES = "tests/kernels/test_input_epilogue.py"

# The tests of each kernel file: those of its name, unless others are better.
TESTS: dict[str, list[str]] = {
    str(path.relative_to(KERNELS)): [f"test_{path.stem}.py"] for path in files() if path.suffix == ".cu"
} | {
    "conv_dgrad.cu": ["test_conv.py", EPILOGUES, "-k", "conv_dgrad or products or same_arithmetic"],
    "conv_fprop.cu": ["test_conv.py", "-k", "conv_fprop or bias or on_the_way"],
    "conv_wgrad.cu": ["test_conv.py", "-k", "conv_wgrad or update"],
    "conv_few_channels.cu": ["test_conv.py", "-k", "(fprop or wgrad) and (rgb or tail or groups)"],
    "gemm/split_reduce.cu": ["test_conv.py"],
    "lrn_maxpool.cu": ["test_lrn_maxpool.py", EPILOGUES, "-k", "lrn_maxpool or normalisation"],
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mutant" not in metafunc.fixturenames:
        return
    worth = [mutant for mutant in mutants() if mutant not in listed()]
    asked = metafunc.config.getoption("--mutants")
    if asked != "all":
        worth = random.Random(SEED).sample(worth, min(int(asked), len(worth)))
    metafunc.parametrize("mutant", worth, ids=str)


class Tree:
    """A copy of the sources of a module, and the module built from it."""

    def __init__(self, folder: Path, sanitize: bool) -> None:
        self.folder, self.sanitize = folder, sanitize

    def copy(self, folder: Path) -> Tree:
        # Objects keep their times, so that only what depends on a change is compiled again.
        shutil.copytree(self.folder, folder, copy_function=shutil.copy2)
        return Tree(folder, self.sanitize)

    def build(self) -> None:
        settings = ["CCONVNET_CUDA=off", "CCONVNET_CPU=off", f"PYTHON={sys.executable}", "OUT=modules"]
        if self.sanitize:
            settings.append(f"SANITIZE={SANITIZERS}")
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
        made = subprocess.run(
            ["make", "-C", self.folder, "modules", *settings],
            env=environment,
            capture_output=True,
            text=True,
            timeout=3600,
        )
        assert made.returncode == 0, f"a mutant must compile:\n{made.stdout}{made.stderr}"

    def test(self, file: str) -> subprocess.CompletedProcess[str]:
        """Run the tests of the operations that a kernel file is part of, up to the first failure."""
        modules = self.folder / "modules"
        if self.sanitize:
            # Bare ends of allocations, which the sanitizer watches to the byte.
            environment = sanitized(modules) | {"CCONVNET_TEST_GUARD": "0"}
        else:
            environment = os.environ | {"CCONVNET_MODULE_PATH": str(modules)}
        environment.pop("PYTEST_XDIST_WORKER", None)
        for name in dependents(file):
            tests, *selection = TESTS[name]
            command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
            command += ["--device", "emulator:0", str(Path(__file__).with_name(tests)), *selection]
            run = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200
            )
            if run.returncode != 0:
                break
        return run

    def passes(self, file: str) -> bool:
        """Return whether the tests pass.

        A failed test and a crashed process are failures; anything else is an error.
        """
        try:
            run = self.test(file)
        except subprocess.TimeoutExpired:
            return False
        failed = run.returncode == 1 and re.search(r"\d+ (failed|error)", run.stdout)
        # A signal, or the exit code of the sanitizers.
        died = run.returncode < 0 or run.returncode == REPORTED
        assert run.returncode == 0 or failed or died, (
            f"pytest could not run the tests:\n{run.stdout[-3000:]}{run.stderr[-3000:]}"
        )
        return run.returncode == 0


def original(root: Path, sanitize: bool) -> Tree:
    """Return the unchanged kernels, built once for all workers of a run."""
    folder = root / ("original-sanitized" if sanitize else "original")
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tree = Tree(folder, sanitize)
        if not folder.exists():
            folder.mkdir()
            shutil.copy2(ROOT / "Makefile", folder)
            for name in ("kernels", "bindings", "tools"):
                shutil.copytree(ROOT / name, folder / name)
            if (ROOT / "build").exists():
                ignored = shutil.ignore_patterns("cuda", "cpu")
                shutil.copytree(ROOT / "build", folder / "build", ignore=ignored)
            tree.build()
    return tree


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def test_every_listed_equivalent_exists() -> None:
    assert len(listed()) >= len(equivalents()), "mutants.json names a line that is not there"
    assert all(len(entry["reason"]) > 20 for entry in equivalents())


def test_mutants_are_found() -> None:
    """The search finds every barrier, and guards in every family."""
    found = mutants()
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
@pytest.mark.parametrize("file", sorted(TESTS))
def test_the_original_passes(root: Path, file: str) -> None:
    """Otherwise every mutant would be caught."""
    assert original(root, sanitize=False).passes(file)


@pytest.mark.long
@needs_compiler
def test_mutant_is_caught(root: Path, tmp_path: Path, mutant: Mutant) -> None:
    for sanitize in (False, True):
        folder = tmp_path / ("sanitized" if sanitize else "plain")
        tree = original(root, sanitize).copy(folder)
        (folder / "kernels" / mutant.file).write_text(mutant.mutated())
        tree.build()
        passed = tree.passes(mutant.file)
        shutil.rmtree(folder)
        if not passed:
            return
    pytest.fail(f"nothing noticed that {mutant.key} became {mutant.replacement!r}")
