"""Diagnoses of machines in any state, and the survey of this one."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import succeed

from cconvnet import cli, devices
from cconvnet.devices.modules import build_command
from cconvnet.devices.proofs import Proof
from cconvnet.doctor import PACKAGES, Facts, Finding, Gpu, can_train, examine, survey
from cconvnet.errors import DeviceUnavailable
from cconvnet.system.installation import pip_install

CUDA = "CUDA 13.0, nvcc 13.0.88, architectures 80 90a 120 ptx, host compiler 12.2.0"
H100 = Gpu("NVIDIA H100", (9, 0), 80 * 10**9)

# A machine on which nothing is missing but a GPU.
HEALTHY = Facts(
    modules={
        "problem": "built",
        "pixels": "built",
        "cpu": "oneDNN 3.2.0",
        "emulator": "threads",
        "cuda": CUDA,
    },
    devices={
        "cuda:0": ("no usable NVIDIA GPU", False),
        "cpu:0": ("oneDNN", True),
        "emulator:0": ("slow", True),
    },
    default="cpu:0",
    nvcc="release 13.0 at /usr/local/cuda/bin/nvcc",
    packages=dict.fromkeys(PACKAGES, "1.0"),
    cores=8,
    memory=10**11,
    free_memory=10**11,
    free_disk=10**12,
    open_files=1024,
)
WITH_GPU = dataclasses.replace(
    HEALTHY,
    gpus=(H100,),
    gpus_seen=1,
    driver="580.65",
    driver_cuda=(13, 0),
    devices={"cuda:0": ("H100", True), "cpu:0": ("oneDNN", True)},
    default="cuda:0",
)


def of(findings: list[Finding], what: str) -> Finding:
    (found,) = [finding for finding in findings if finding.what == what]
    return found


def problems(facts: Facts) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(facts) if finding.state == "problem"}


def notes(facts: Facts) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(facts) if finding.state == "note"}


def without(facts: Facts, **packages_or_modules: None) -> Facts:
    return dataclasses.replace(
        facts,
        modules={**facts.modules, **{k: v for k, v in packages_or_modules.items() if k in facts.modules}},
        packages={**facts.packages, **{k: v for k, v in packages_or_modules.items() if k in facts.packages}},
    )


# ---- situations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("facts", [HEALTHY, WITH_GPU])
def test_nothing_is_wrong(facts: Facts) -> None:
    assert not problems(facts)
    assert can_train(examine(facts))


def test_no_gpu_and_no_nvcc() -> None:
    facts = without(dataclasses.replace(HEALTHY, nvcc=None), cuda=None, cupy=None)
    assert not problems(facts)
    assert can_train(examine(facts))
    assert {"nvcc", "module _cuda", "cupy", "device cuda:0"} <= set(notes(facts))


def test_kernels_that_wait_for_a_proof() -> None:
    waiting = Proof("sm_90a", (), ("a", "b"), ("report/sm_90a.json: is of other kernels",))
    found = of(examine(dataclasses.replace(WITH_GPU, proofs=(waiting,))), "rows")
    assert found.state == "note" and "make gpu-report" in found.fix
    assert found.text == (
        "2 wait for a proof on sm_90a (CCONVNET_ROWS=unproven opens them); "
        "report/sm_90a.json: is of other kernels"
    )
    # Without a GPU there is nothing to do about it.
    found = of(examine(dataclasses.replace(HEALTHY, proofs=(Proof("sm_90a", ("a",), ("b",)),))), "rows")
    assert (found.state, found.fix) == ("ok", "")
    assert found.text == "1 waits for a proof on sm_90a, 1 is proven (CCONVNET_ROWS=unproven opens it)"
    found = of(examine(dataclasses.replace(WITH_GPU, proofs=(Proof("sm_90a", ("a", "b")),))), "rows")
    assert (found.state, found.text) == ("ok", "all 2 are proven on sm_90a")
    assert "rows" not in {finding.what for finding in examine(WITH_GPU)}


def test_a_module_that_training_does_not_need() -> None:
    """After `make train` the emulator is missing, or a GPU machine's CPU module: one command builds it."""
    text = "this package was built without its emulator module"
    command = build_command("emulator")
    devices = {"cpu:0": ("oneDNN", True), "emulator:0": (f"{text}; to build it: {command}", False)}
    facts = dataclasses.replace(without(HEALTHY, emulator=None, cuda=None), devices=devices)
    assert not problems(facts)
    found = notes(facts)
    assert found["module _emulator"].fix == command and "make -C" in command and "emulator" in command
    assert (found["device emulator:0"].text, found["device emulator:0"].fix) == (text, command)
    assert found["module _cuda"].fix == build_command("cuda")
    assert not problems(without(WITH_GPU, cpu=None, emulator=None))
    assert "module _cpu" in problems(without(HEALTHY, cpu=None))
    assert {"module _cuda", "module _cpu"} <= set(problems(without(WITH_GPU, cpu=None, cuda=None)))


def test_nvcc_and_no_gpu() -> None:
    assert not problems(HEALTHY)
    assert of(examine(HEALTHY), "module _cuda").state == "ok"
    assert of(examine(HEALTHY), "device cuda:0").state == "note"


def test_a_gpu_and_no_nvcc() -> None:
    facts = without(dataclasses.replace(WITH_GPU, nvcc=None), cuda=None)
    facts = dataclasses.replace(
        facts, devices={"cuda:0": ("without its cuda module", False), "cpu:0": ("", True)}
    )
    found = problems(facts)
    assert set(found) == {"nvcc", "module _cuda", "device cuda:0"}
    assert "install the CUDA toolkit" in found["module _cuda"].fix
    assert "CCONVNET_CUDA=on" in found["module _cuda"].fix
    assert can_train(examine(facts))
    # Once it is built nobody needs nvcc.
    assert not problems(dataclasses.replace(WITH_GPU, nvcc=None))


@pytest.mark.parametrize(
    ("built", "capability", "state", "archs"),
    [
        ("80 90a 120 ptx", (9, 0), "ok", None),
        ("80", (8, 6), "ok", None),
        ("80 90a", (8, 9), "ok", None),
        ("86", (8, 0), "problem", "80"),
        ("80", (9, 0), "problem", "90a"),
        ("90a", (12, 0), "problem", "120"),
        ("80 ptx", (9, 0), "note", "90a"),
        ("90a ptx", (7, 5), "note", "75"),
        ("80 90a 120", (12, 1), "ok", None),
    ],
)
def test_a_build_without_the_gpus_architecture(
    built: str, capability: tuple[int, int], state: str, archs: str | None
) -> None:
    module = f"CUDA 13.0, nvcc 13.0.88, architectures {built}, host compiler 12.2.0"
    facts = dataclasses.replace(
        WITH_GPU, gpus=(dataclasses.replace(H100, capability=capability),), modules={"cuda": module}
    )
    found = of(examine(facts), "gpu 0")
    assert found.state == state
    assert ("CCONVNET_ARCHS" in found.fix) == (archs is not None)
    if archs is not None:
        assert f"CCONVNET_ARCHS={archs} CCONVNET_CUDA=on" in found.fix


def test_a_gpu_that_is_too_old() -> None:
    facts = dataclasses.replace(WITH_GPU, gpus=(Gpu("GTX 1080", (6, 1), 8 * 10**9),))
    assert "7.5 or newer" in problems(facts)["gpu 0"].text


def test_cupy_is_missing_with_a_gpu() -> None:
    facts = dataclasses.replace(without(WITH_GPU, cupy=None), devices={"cuda:0": ("needs CuPy", False)})
    found = problems(facts)
    assert set(found) == {"cupy", "device cuda:0"}
    assert {finding.fix for finding in found.values()} == {pip_install("cupy-cuda13x")}
    older = dataclasses.replace(facts, driver_cuda=(12, 4))
    assert problems(older)["cupy"].fix == pip_install("cupy-cuda12x")
    assert problems(dataclasses.replace(older, nvcc=None))["cupy"].fix == pip_install("'cupy-cuda12x[ctk]'")


def test_one_dnn_is_missing() -> None:
    built_without = dataclasses.replace(
        without(HEALTHY, cpu=None, oneDNN=None), devices={"cpu:0": ("NumPy reference: slow", True)}
    )
    found = problems(built_without)
    assert set(found) == {"module _cpu"}
    assert "make" in found["module _cpu"].fix
    assert can_train(examine(built_without))
    gone = dataclasses.replace(
        without(HEALTHY, cpu=None, oneDNN=None),
        broken={"cpu": "libdnnl.so.3: cannot open shared object file"},
        devices={"cpu:0": ("the cpu module cannot be loaded", False)},
    )
    assert problems(gone)["module _cpu"].fix == pip_install("onednn-cpu-gomp")
    assert not can_train(examine(gone))
    without_openmp = dataclasses.replace(gone, broken={"cpu": "libgomp.so.1: cannot open shared object file"})
    assert "apt-get install libgomp1" in problems(without_openmp)["module _cpu"].fix


@pytest.mark.parametrize(
    ("driver", "state"), [((13, 0), "ok"), ((13, 1), "ok"), ((14, 0), "ok"), ((12, 8), "problem")]
)
def test_a_driver_that_is_too_old(driver: tuple[int, int], state: str) -> None:
    """Within one major version every driver runs what every toolkit built."""
    found = of(examine(dataclasses.replace(WITH_GPU, driver_cuda=driver)), "driver")
    assert found.state == state
    if state == "problem":
        assert "too old: this package was built with CUDA 13.0" in found.text
        assert "580 or newer" in found.fix
        assert "CUDA_HOME=/usr/local/cuda-12" in found.fix


def test_a_gpu_without_a_driver() -> None:
    found = problems(dataclasses.replace(HEALTHY, gpus_seen=2))
    assert set(found) == {"driver"}
    assert found["driver"].text.startswith("2 NVIDIA GPU(s)")


def test_nothing_can_train() -> None:
    facts = dataclasses.replace(HEALTHY, devices={"cpu:0": ("gone", False)})
    assert not can_train(examine(facts))


def _granted(threads: str) -> dict[str, Any]:
    return {"modules": {**HEALTHY.modules, "cpu": f"oneDNN 3.2.0 with AVX2, {threads}"}}


@pytest.mark.parametrize(
    ("changes", "what", "fix"),
    [
        ({"variables": {"OMP_NUM_THREADS": "1"}}, "threads", "export OMP_NUM_THREADS=8"),
        ({"variables": {"OMP_NUM_THREADS": "16"}}, "threads", "export OMP_NUM_THREADS=8"),
        ({"variables": {"OMP_NUM_THREADS": "many"}}, "threads", "unset OMP_NUM_THREADS"),
        ({"variables": {"OMP_WAIT_POLICY": "ACTIVE"}}, "threads", "unset OMP_WAIT_POLICY"),
        ({"quota": 2.5}, "threads", "export OMP_NUM_THREADS=2"),
        (_granted("1 thread, of 2 asked for (OMP_THREAD_LIMIT=1)"), "threads", "unset OMP_THREAD_LIMIT"),
        (_granted("4 threads, of 9 asked for (the system starts no more)"), "threads", "export OMP_NUM"),
        ({"variables": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}, "cpu", "unset ONEDNN_MAX_CPU_ISA"),
        ({"free_memory": 5 * 10**8}, "memory", "--batch"),
        ({"free_disk": 10**9}, "disk", "--out FOLDER"),
        ({"open_files": 64}, "open files", "ulimit -n 1024"),
        ({"python": (3, 10, 2)}, "python", "install Python 3.11"),
        ({"runs_writable": False}, "disk", "--out FOLDER"),
    ],
)
def test_what_makes_it_slow_or_fail(changes: dict[str, Any], what: str, fix: str) -> None:
    (found,) = [f for f in examine(dataclasses.replace(HEALTHY, **changes)) if f.state != "ok" and f.fix]
    assert found.what == what
    assert fix in found.fix


@pytest.mark.parametrize("variables", [{}, {"OMP_NUM_THREADS": "8"}, {"OMP_NUM_THREADS": "8,1"}])
def test_threads_that_fit_are_not_mentioned(variables: dict[str, str]) -> None:
    assert "threads" not in notes(dataclasses.replace(HEALTHY, variables=variables))


def test_every_problem_has_what_mends_it() -> None:
    worst = dataclasses.replace(
        Facts(packages=dict.fromkeys(PACKAGES), modules=dict.fromkeys(HEALTHY.modules)),
        gpus=(H100,),
        driver="1",
        devices={"cuda:0": ("no", False), "cpu:0": ("no", False)},
        runs_writable=False,
        python=(3, 9),
    )
    found = problems(worst)
    assert len(found) >= 10
    assert all(finding.fix for finding in found.values())


# ---- looking ---------------------------------------------------------------------------------------------


def program(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_gpus_are_asked_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert survey._driver_gpus() == ((), None)
    program(
        tmp_path, "nvidia-smi", "echo 'NVIDIA H100, 9.0, 81559, 580.65.06\nTesla T4, 7.5, 15360, 580.65.06'"
    )
    gpus, driver = survey._driver_gpus()
    assert driver == "580.65.06"
    assert gpus == (
        Gpu("NVIDIA H100", (9, 0), 81559 * 2**20),
        Gpu("Tesla T4", (7, 5), 15360 * 2**20),
    )
    program(tmp_path, "nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    assert survey._driver_gpus() == ((), None)
    program(tmp_path, "nvidia-smi", "echo 'No devices were found'")
    assert survey._driver_gpus() == ((), None)


def test_nvcc_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    program(tmp_path / "bin", "nvcc", "echo 'Cuda compilation tools, release 12.4, V12.4.131'")
    assert survey._nvcc() == f"Cuda compilation tools, release 12.4, V12.4.131 at {tmp_path}/bin/nvcc"


def test_this_machine_is_seen() -> None:
    facts = survey.survey()
    assert facts.cores >= 1
    assert facts.memory > facts.free_memory > 0
    assert facts.free_disk > 0
    assert facts.packages["numpy"] is not None
    assert facts.modules["emulator"] is not None
    assert facts.processor


def test_the_command_as_json(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cconvnet", "doctor", "--json", "-"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "99999"},
        timeout=200,
    )
    found = json.loads(done.stdout)
    assert found["can_train"] is True
    threads = next(finding for finding in found["findings"] if finding["what"] == "threads")
    assert threads["state"] == "note"
    assert threads["mend"].startswith("export OMP_NUM_THREADS=")


def test_doctor_knows_that_the_cpu_trains() -> None:
    text = succeed("doctor")
    assert re.search(r"^ok +device cpu:0 +\S", text, re.M)
    assert re.search(r"^ok +python +3\.\d+", text, re.M)
    for line in text.splitlines():
        if line.startswith("problem"):
            assert "to fix it: " in line


def test_doctor_fails_where_nothing_can_train(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unavailable(name: str | None = None) -> None:
        raise DeviceUnavailable("gone; switch it on")

    monkeypatch.setattr(devices, "get_device", unavailable)
    monkeypatch.setattr(devices, "present_devices", list)
    monkeypatch.setattr(sys, "argv", ["cconvnet", "doctor"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 1
    output = capsys.readouterr().out
    assert "no device can train" in output
    assert re.search(r"^problem +device cpu:0 +gone; switch it on; to fix it: .*make", output, re.M)
