"""Mutation tests of ranks: each mutant is a single fault of their Python code that the tests must notice.

A mutant is made in a copy of the package, where its tests run in a process of their own. They must fail by
an assertion. Any other error would only show that the mutant cannot run.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copy2, copytree, ignore_patterns
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "cconvnet"

TREE = "ranks/test_tree.py"
SHARDS = "network/test_sharded_networks.py"
NCCL = "ranks/test_nccl.py"
TEAM = "training/test_team.py"
WHOLE_BATCH = f"{SHARDS}::test_shards_train_as_the_whole_batch"
IN_THE_TREE = f"{SHARDS}::test_gradients_are_added_in_the_tree"
RUN_OF_SHARDS = "training/test_training_shards.py::test_shards_of_a_batch_train_as_the_batch"
BITS_OF_ONE = f"{NCCL}::test_ranks_with_nccl_have_the_bits_of_one"
TOGETHER = f"{NCCL}::test_ranks_that_compute_fc_layers_together_have_the_bits_of_one"
STOPS = f"{TEAM}::test_all_ranks_stop_at_the_signal_of_one"
CHECKPOINTS = f"{TEAM}::test_the_first_rank_decides_on_checkpoints"
TRAINED = "ranks/test_rank_trainings.py::test_any_number_of_ranks_trains_to_the_same_bits[2]"
RESUMED = "ranks/test_rank_trainings.py::test_any_number_of_ranks_resumes_to_the_same_bits[2]"
FLIPPED = "ranks/test_rank_failures.py::test_a_flipped_bit_is_found_and_its_rank_named"


class Mutant(NamedTuple):
    """A fault of one file.

    Attributes:
        name: The fault in words.
        file: The file of the package.
        changes: What replaces texts, each of which occurs once.
        test: The test that must fail.
    """

    name: str
    file: str
    changes: Mapping[str, str]
    test: str

    def text(self) -> str:
        """Return the file with the fault."""
        found = (PACKAGE / self.file).read_text()
        for old, new in self.changes.items():
            count = found.count(old)
            assert count == 1, f"mutant {self.name!r}: {self.file} contains {count} times, not once:\n{old}"
            found = found.replace(old, new)
        return found


MUTANTS = [
    # The order of sums.
    Mutant(
        "the tree is split in the middle",
        "ranks/tree.py",
        {"first + (1 << (last - first - 1).bit_length() - 1)": "(first + last) // 2"},
        f"{TREE}::test_the_tree_is_that_of_a_binary_counter",
    ),
    Mutant(
        "sums are added one after another",
        "ranks/tree.py",
        {"    found[-1] += 1\n    return found": "    return [0] + [1] * (len(operands) - 1)"},
        f"{TREE}::test_any_number_of_ranks_adds_in_the_same_tree",
    ),
    Mutant(
        "the parts of ranks are added one after another",
        "network/shards.py",
        {"tree.merges((0, count), nodes)": "[int(i > 0) for i in range(len(nodes))]"},
        BITS_OF_ONE,
    ),
    Mutant(
        "the shards of a rank are added one after another",
        "network/shards.py",
        {" if share.fast else tree.merges(node, leaves)": ""},
        IN_THE_TREE,
    ),
    Mutant(
        "bfloat16s are sums of shards",
        "network/shards.py",
        {"[tree.leaves(own) for own in each]": "[tree.parts(own, count) for own in each]"},
        IN_THE_TREE,
    ),
    Mutant(
        "the mean is over parts",
        "network/shards.py",
        {"scale=1.0 / count": "scale=1.0 / len(nodes)"},
        WHOLE_BATCH,
    ),
    Mutant(
        "a test is added in the order of ranks",
        "evaluate/tally.py",
        {
            "sorted((one for _, own in each for one in own), key=lambda one: one[0])": (
                "sum((own for _, own in each), [])"
            )
        },
        f"{TEAM}::test_results_of_a_test_are_added_in_the_order_of_its_images",
    ),
    Mutant(
        "a step's results are in another order",
        "training/team.py",
        {"told[:, _HEAD:]": "told[::-1, _HEAD:]"},
        f"{TEAM}::test_results_of_a_step_are_in_the_order_of_its_images",
    ),
    # Agreement.
    Mutant(
        "a bad loss halts its own rank alone",
        "network/shards.py",
        {"self._wanted = self.wires.highest(self.halt)": "self._wanted = None"},
        f"{NCCL}::test_a_bad_loss_on_any_rank_halts_all",
    ),
    Mutant(
        "a bad loss of an earlier shard halts nothing",
        "network/step.py",
        {"first = self._is_first\n": "first = True\n"},
        f"{SHARDS}::test_a_bad_loss_of_any_shard_halts_the_update",
    ),
    Mutant(
        "a signal in a step stops its own rank alone",
        "training/team.py",
        {"int(told[:, 0].max()) or None": "self._signal()"},
        STOPS,
    ),
    Mutant(
        "a signal in a test stops its own rank alone",
        "training/team.py",
        {"int(self.world.highest(self._signal() or 0)) or self._stopped": "self._signal()"},
        STOPS,
    ),
    Mutant(
        "a signal ends a test on its own rank alone",
        "evaluate/tally.py",
        {"if any(ended for ended, _ in each):": "if ended:"},
        f"{TEAM}::test_a_signal_to_one_rank_ends_a_test_on_all",
    ),
    Mutant(
        "each rank decides on checkpoints between steps",
        "training/team.py",
        {"bool(told[0, 1])": "self.due()"},
        CHECKPOINTS,
    ),
    Mutant(
        "each rank decides on checkpoints between epochs",
        "training/team.py",
        {"answer if self.world.size == 1 else bool(self.world.broadcast(answer))": "answer"},
        CHECKPOINTS,
    ),
    Mutant(
        "digests of weights are not compared",
        "training/team.py",
        {"return differing(self.world.share(digest(network)))": "return []"},
        f"{TEAM}::test_replicas_that_differ_are_named",
    ),
    Mutant(
        "no epoch ends with a comparison of weights",
        "training/trainer.py",
        {"            self._check_replicas()\n": "            pass\n"},
        FLIPPED,
    ),
    # The places of a shard's images in the batch.
    Mutant(
        "dropout forgets its first row",
        "layers/dropout.py",
        {"first_row * pixels": "0"},
        WHOLE_BATCH,
    ),
    Mutant(
        "a loaded batch forgets its first row",
        "network/network.py",
        {'count, whole("first_row", first_row, 0)': "count, 0"},
        WHOLE_BATCH,
    ),
    Mutant(
        "a step forgets the first rows of shards",
        "training/step.py",
        {", first_row=part.first_row)": ")"},
        RUN_OF_SHARDS,
    ),
    Mutant(
        "all shards have the colour noise of the first",
        "training/step.py",
        {"shifts[here]": "shifts[:size]"},
        RUN_OF_SHARDS,
    ),
    Mutant(
        "all ranks have the colour noise of the first",
        "training/step.py",
        {" + self._team.rows.start": ""},
        TRAINED,
    ),
    Mutant(
        "all ranks have the crops of the first",
        "data/loader.py",
        {"_philox(self.seed, epoch, _CROP, first)": "_philox(self.seed, epoch, _CROP, begin)"},
        TRAINED,
    ),
    Mutant(
        "all ranks have the images of the first",
        "training/trainer.py",
        {"part=None if self.team.share is None else self.team.rows": "part=None"},
        TRAINED,
    ),
    # The slices of ranks.
    Mutant(
        "all ranks update the first slice",
        "network/shards.py",
        {"slice(first + world.rank * size, first + (world.rank + 1) * size)": "slice(first, first + size)"},
        BITS_OF_ONE,
    ),
    Mutant(
        "weights are not gathered",
        "network/shards.py",
        {"        self._gather(bucket, self.value)\n": ""},
        BITS_OF_ONE,
    ),
    Mutant(
        "gradients are not gathered for LARS",
        "network/shards.py",
        {"self._gather(bucket, self.gradient)": "pass"},
        f"{NCCL}::test_rates_of_whole_gradients_are_those_of_one_rank",
    ),
    Mutant(
        "all ranks have the factors of the first",
        "network/shards.py",
        {"(self.share.own.start + self.pushed)": "self.pushed"},
        BITS_OF_ONE,
    ),
    Mutant(
        "the state has the momentum of the first rank alone",
        "network/shards.py",
        {"            world.collect_array(own, self._whole": "            (own, self._whole"},
        BITS_OF_ONE,
    ),
    Mutant(
        "checkpoints have the momentum of the first rank alone",
        "training/saver.py",
        {
            "        self._network.collect()\n        waits": "        waits",
            "        self._network.collect()\n\n": "\n",
        },
        TRAINED,
    ),
    Mutant(
        "resumed ranks have no momentum",
        "network/shards.py",
        {"self._device.fill(bucket.velocity, self._whole[bucket.own])": "pass"},
        RESUMED,
    ),
    # The columns of ranks.
    Mutant(
        "all ranks compute the first columns",
        "layers/columns.py",
        {"for part in share.own\n        ]": "for part in range(len(share.own))\n        ]"},
        TOGETHER,
    ),
    Mutant(
        "input gradients are those of a rank's own columns",
        "layers/columns.py",
        {"[(rank, gradient.parts[part]) for rank, part in self._others_parts()]": "[]"},
        TOGETHER,
    ),
    Mutant(
        "weights of columns stay where they are",
        "network/shards.py",
        {"        self._weights_are_whole = False\n": ""},
        TOGETHER,
    ),
    Mutant(
        "the state has the momentum of the first rank's columns alone",
        "network/shards.py",
        {"            columns.collect_momentum(self.swap)": "            pass"},
        TOGETHER,
    ),
    # The one writer.
    Mutant(
        "all ranks write the log",
        "training/follower.py",
        {
            'def log(self, line: dict[str, Any]) -> None:\n        """Do nothing."""': (
                "def log(self, line: dict[str, Any]) -> None:\n"
                '        with (self.path / "log.jsonl").open("a") as log:\n'
                '            log.write(f"{line}\\n")'
            )
        },
        TRAINED,
    ),
    Mutant(
        "all ranks write checkpoints",
        "training/trainer.py",
        {", writes=team.first": "", "self._checkpoint if team.first else None": "self._checkpoint"},
        TRAINED,
    ),
    Mutant(
        "all ranks record the data",
        "training/trainer.py",
        {"        if not self.team.first:\n            return\n        with": "        with"},
        TRAINED,
    ),
]

# Of a mutant that cannot run.
_FAULTY = re.compile(r"\b(?:Syntax|Name|UnboundLocal|Import|ModuleNotFound|Attribute|Type)Error\b")
_BY_ASSERTION = re.compile(r"assert |AssertionError|Failed: DID NOT RAISE")


def copy_of_package(folder: Path) -> Path:
    """Copy the package into a folder; its compiled modules are links."""

    def copy(source: str, target: str) -> None:
        if source.endswith(".so"):
            Path(target).symlink_to(source)
        else:
            copy2(source, target)

    copytree(PACKAGE, folder / "cconvnet", ignore=ignore_patterns("__pycache__"), copy_function=copy)
    return folder


def failure(package: Path, tests: Sequence[str]) -> str | None:
    """Run tests on a copy of the package, up to the first failure, and return that; None without one.

    Args:
        package: The folder that contains the copy.
        tests: The tests, by their files within ``tests/``.
    """
    report = package / "report.xml"
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["--device", "cpu:0", f"--junitxml={report}", *(f"tests/{test}" for test in tests)]
    environment = os.environ | {"PYTHONPATH": str(package)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    printed = done.stdout[-3000:] + done.stderr[-3000:]
    assert done.returncode in (0, 1), f"pytest could not run the tests:\n{printed}"
    cases = ET.parse(report).getroot().findall("*/testcase")
    assert cases and not [case for case in cases if case.find("error") is not None], printed
    assert not [case for case in cases if case.find("skipped") is not None], printed
    found = next((one for case in cases if (one := case.find("failure")) is not None), None)
    if found is None:
        return None
    text = found.attrib["message"]
    assert _BY_ASSERTION.match(text) and not _FAULTY.search(text), f"the mutant cannot run:\n{printed}"
    return text


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_can_be_made(mutant: Mutant) -> None:
    """A change of the code that a mutant names needs a change of the mutant."""
    compile(mutant.text(), mutant.file, "exec")
    assert mutant.text() != (PACKAGE / mutant.file).read_text()
    file, name = mutant.test.split("[")[0].split("::")
    tests = ast.parse((ROOT / "tests" / file).read_text()).body
    assert name in {test.name for test in tests if isinstance(test, ast.FunctionDef)}, mutant.test


@pytest.mark.long
def test_the_original_passes(tmp_path: Path) -> None:
    """Otherwise every mutant would be noticed."""
    assert failure(copy_of_package(tmp_path), sorted({mutant.test for mutant in MUTANTS})) is None


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    package = copy_of_package(tmp_path)
    (package / "cconvnet" / mutant.file).write_text(mutant.text())
    assert failure(package, [mutant.test]) is not None, f"{mutant.test} did not notice: {mutant.name}"
