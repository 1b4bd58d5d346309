"""Diagnoses of ranks on any hosts, and of two that are here."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import mpi
from helpers.commands import run

from cconvnet.doctor.diagnosis import Finding
from cconvnet.doctor.ranks import RankFacts, examine_ranks, ranges
from cconvnet.system.installation import pip_install

VERSIONS = {
    "cconvnet": "0.1.0",
    "python": "3.11.7",
    "numpy": "2.4.6",
    "mpi4py": "4.1.2",
    "MPI": "MPICH 5.0.2",
}


def ranks(*given: dict[str, Any]) -> list[RankFacts]:
    """Return facts of ranks, each with a core of its own."""
    return [
        RankFacts(**{"rank": rank, "cores": [rank], "versions": VERSIONS} | facts)
        for rank, facts in enumerate(given)
    ]


def the_finding(*given: dict[str, Any]) -> Finding:
    (found,) = examine_ranks(ranks(*given))
    return found


def test_ranks_that_are_alike_have_no_findings() -> None:
    assert examine_ranks(ranks({}, {}, {"host": "other"})) == []


@pytest.mark.parametrize("name", VERSIONS)
def test_other_versions_are_a_problem(name: str) -> None:
    found = the_finding({}, {}, {"host": "other", "versions": VERSIONS | {name: "9"}})
    assert (found.what, found.state) == (name, "problem")
    assert found.text == f"differs: {VERSIONS[name]} on rank 0-1 (node); 9 on rank 2 (other)"
    package = name in ("numpy", "mpi4py")
    wanted = (
        f"on other: {pip_install(f'{name}=={VERSIONS[name]}')}"
        if package
        else "install the same on all hosts"
    )
    assert found.fix == wanted


def test_a_missing_library_is_another_version() -> None:
    found = the_finding({"versions": VERSIONS | {"simplejpeg": "1.9"}}, {"host": "other"})
    assert found.text == "differs: 1.9 on rank 0 (node); none on rank 1 (other)"


def test_ranks_may_not_share_a_gpu_where_there_is_nccl() -> None:
    first, second = {"device": "cuda:0", "gpu": "0000:01"}, {"device": "cuda:1", "gpu": "0000:02"}
    with_nccl = {"versions": VERSIONS | {"NCCL": "2.32.3"}}
    assert (
        examine_ranks(ranks(first | with_nccl, second | with_nccl, first | with_nccl | {"host": "other"}))
        == []
    )
    assert examine_ranks(ranks(first, first)) == []  # MPI moves the gradients
    found = the_finding(first | with_nccl, second | with_nccl, first | with_nccl)
    assert (found.what, found.state) == ("GPUs", "problem")
    assert found.text == "ranks 0, 2 share cuda:0 of node (0000:01), which NCCL refuses"
    assert "mpiexec -ppn 2" in found.fix


def test_threads_must_have_cores() -> None:
    everything = {"cores": range(8)}
    assert examine_ranks(ranks(everything | {"threads": 4}, everything | {"threads": 4})) == []
    found = the_finding(everything | {"threads": 8}, everything | {"threads": 8}, {"host": "other"})
    assert (found.what, found.state) == ("threads", "problem")
    assert found.text == "16 threads of OpenMP in 2 ranks on node, for 8 cores"
    assert found.fix == "export OMP_NUM_THREADS=4"
    assert the_finding({"cores": [0]}, {"cores": [0]}).fix == "start at most 1 ranks on node"


def test_unlike_chips_are_noted() -> None:
    found = the_finding({}, {"chip": "slower", "host": "other"})
    assert (found.what, found.state) == ("chips", "note")
    assert found.text.startswith("CPU (cpu) on rank 0 (node); slower (cpu) on rank 1 (other): ")


def test_a_machine_without_mpi_is_told_the_command() -> None:
    found = the_finding({"versions": {"cconvnet": "0.1.0"}})
    assert (found.what, found.state, found.fix) == ("MPI", "note", pip_install("mpi4py", "mpich"))


def test_numbers_are_shown_as_ranges() -> None:
    assert ranges([]) == ""
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def diagnose(tmp_path: Path, size: int, **variables: str) -> tuple[int, str, dict[str, Any]]:
    out = tmp_path / "ranks.json"
    command = [sys.executable, "-P", "-m", "cconvnet", "doctor", "--ranks", "--json", str(out)]
    done = mpi.run(size, *command, **variables)
    assert done.stderr == ""
    return done.returncode, done.stdout, json.loads(out.read_text())


def test_two_ranks_are_diagnosed_together(tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    code, shown, found = diagnose(tmp_path, 2, OMP_NUM_THREADS="4096")
    assert code == 1
    first, second = found["ranks"]
    assert (first["rank"], second["rank"]) == (0, 1)
    for facts in (first, second):
        assert facts["threads"] == 4096
        assert 0 < facts["latency"] < 1 and 1e6 < facts["bandwidth"] < 1e13
        assert {"cconvnet", "python", "numpy", "mpi4py", "MPI"} <= set(facts["versions"])
    for name in ("host", "chip", "versions"):
        assert first[name] == second[name]
    if len(cores) > 1:
        assert set(first["cores"]) | set(second["cores"]) == cores
        assert not set(first["cores"]) & set(second["cores"])
    assert [finding["what"] for finding in found["findings"] if finding["state"] == "problem"] == ["threads"]
    assert len(re.findall(r" us .* GB/s", shown)) == 2
    assert "8192 threads of OpenMP in 2 ranks" in shown and "to fix it: " in shown


def test_a_process_alone_is_diagnosed(tmp_path: Path) -> None:
    out = tmp_path / "ranks.json"
    done = run("doctor", "--ranks", "--json", out)
    found = json.loads(out.read_text())
    (facts,) = found["ranks"]
    assert (facts["rank"], facts["latency"], facts["bandwidth"]) == (0, None, None)
    problems = [finding for finding in found["findings"] if finding["state"] == "problem"]
    assert done.returncode == bool(problems)
    assert "4 KiB to next" in done.stdout
