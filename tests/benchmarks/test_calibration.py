"""Loops of the calibration contain the timed work, which needs no GPU to check."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import calibration
import machine_code
import programs

from cconvnet.profile import chips

COMPILER = os.environ.get("CXX", "g++").split()[0]

# Of each kernel's loop: the instructions that are timed, and at most how many others there may be for each.
STEPS, CHAINS = 16, 8
LOOPS = {
    "fused_multiply_add": ({"FFMA": STEPS * CHAINS}, 0.1),
    "mixed_issue": ({"FFMA": STEPS * CHAINS}, 1.1),
    "special_function": ({"MUFU": STEPS * CHAINS}, 1.1),
    "round_pairs": ({"F2FP": STEPS * CHAINS // 2}, 7),
    "round_to_tf32": ({"FSETP": STEPS * CHAINS}, 3.1),
    "warp_products<true, 4>": ({"HMMA": STEPS * 4}, 0.1),
    "warp_products<false, 4>": ({"HMMA": STEPS * 4}, 0.1),
    "warp_products<true, 1>": ({"HMMA": STEPS}, 1.5),
    "warp_products<false, 1>": ({"HMMA": STEPS}, 1.5),
    "fed_products<true>": ({"HMMA": 4 * 16, "LDSM": 4 * 6}, 0.2),
    "fed_products<false>": ({"HMMA": 4 * 16, "LDSM": 4 * 6}, 0.2),
    "shared_loads": ({"LDS.16": STEPS}, 3),
    "matrix_loads<false>": ({"LDSM": STEPS}, 3),
    "matrix_loads<true>": ({"LDSM": STEPS}, 3),
    "shuffles": ({"SHFL": STEPS * CHAINS}, 0.1),
    "barriers<128>": ({"BAR": STEPS}, 0.5),
    "barriers<512>": ({"BAR": STEPS}, 0.5),
    "l2_loads": ({"LDG.16": STEPS}, 8),
    "l2_copies": ({"LDGSTS.16": STEPS}, 8),
    "copy_latency": ({"LDGSTS.16": STEPS}, 3),
    "load_chain<false>": ({"LDG.4": STEPS}, 5),
    "load_chain<true>": ({"LDG.4": STEPS}, 5),
    "shared_chain": ({"LDS.4": STEPS}, 3),
    "memory_traffic<Traffic:0>": ({"LDG.16": 4, "STG.16": 4}, 10),
    "memory_traffic<Traffic:1>": ({"LDG.16": 4}, 20),
    "memory_traffic<Traffic:2>": ({"STG.16": 4}, 20),
}


@pytest.fixture
def emulator(tmp_path: Path) -> Path:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no host compiler ({COMPILER})")
    return tmp_path


def test_a_dry_run_names_what_would_be_measured(
    emulator: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = programs.build
    monkeypatch.setattr(programs, "build", lambda source, kind, archs: build(source, kind, archs, emulator))
    out = emulator / "calibration.json"
    assert calibration.main(["--device", "emulator:0", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["what"] == "calibration" and result["machine"]["device"] == "emulator:0"
    measurements = result["measurements"]
    names = [value["name"] for value in measurements]
    assert len(names) == len(set(names)) > 20
    assert all(value["value"] is None and value["unit"] for value in measurements)
    assert {
        "mma.m16n8k16.bf16",
        "ldmatrix",
        "memory, copy (read and written)",
        "graph node, in a chain",
    } < set(names)
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


def test_what_was_measured_stays_where_the_rest_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = json.dumps({"name": "one", "unit": "cycles", "value": 2.5, "clock_ghz": 1.98})
    program, out = tmp_path / "program", tmp_path / "calibration.json"
    monkeypatch.setattr(programs, "build", lambda *arguments: program)
    monkeypatch.setattr(calibration, "machine", lambda device: {"device": device})
    program.write_text(f"#!/bin/sh\necho '{line}'\necho 'no memory' >&2\nexit 1\n")
    program.chmod(0o755)
    assert calibration.main(["--device", "cuda:0", "--json", str(out)]) == 1
    result = json.loads(out.read_text())
    assert result["measurements"] == [json.loads(line)] and result["failure"] == "no memory"
    assert "one" in capsys.readouterr().out
    # One that hangs is ended, with half a line.
    program.write_text(f"#!/bin/sh\necho '{line}'\nprintf '{{\"na'\nexec sleep 60\n")
    found: list[object] = []
    why = calibration.measured(program, "cuda:0", 1, 0.5, found.append)
    assert found == [json.loads(line)] and why.startswith("still running")


def test_constants_are_written_from_what_was_measured(tmp_path: Path) -> None:
    # A made-up calibration of a GPU that does not exist.
    made_up = {
        "machine": {
            "chip": "a made-up GPU",
            "compute_capability": "8.0",
            "date": "2001-02-03",
            "l2_bytes": 9,
        },
        "measurements": [{"name": "L2, cp.async by all SMs", "unit": "bytes/cycle/SM", "value": 7.0}],
    }
    calibration.write_constants(made_up, tmp_path / "constants.json")
    chip = chips.chip_of("sm_80", tmp_path / "constants.json")
    assert chip["l2"] == 7 and chip.constants["l2"].status == "measured" and chip["l2_bytes"] == 9
    assert chip.constants["dram"].status == "assumed"
    made_up["machine"] = {"compute_capability": "1.1"}
    with pytest.raises(ValueError, match=r"capability 1\.1|capability 11"):
        calibration.write_constants(made_up, tmp_path / "constants.json")


@pytest.mark.parametrize("arguments", [["--device", "cpu:0"], ["--device", "emulator:0", "--seconds", "nan"]])
def test_bad_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration.main(arguments) == 2
    assert "must be" in capsys.readouterr().err


def loop(kernel: machine_code.Kernel) -> Counter[str]:
    """The instructions of a kernel's longest loop that holds no other."""
    index = {instruction.address: place for place, instruction in enumerate(kernel.code)}
    loops = []
    for place, instruction in enumerate(kernel.code):
        if instruction.target is not None and instruction.target < instruction.address:
            loops.append(kernel.code[index[instruction.target] : place + 1])
    innermost = [
        code for code in loops if not any(set(other) < set(code) for other in loops)
    ]  # addresses tell instructions apart
    return Counter(instruction.kind for instruction in max(innermost, key=len))


def test_loops_hold_what_they_are_timed_for(tmp_path: Path) -> None:
    """Nothing is left out of them, and little else is in them."""
    try:
        words = programs.command(calibration.SOURCE, "cuda", tmp_path / "program", "90a")
        programs.build(calibration.SOURCE, "cuda", "90a", tmp_path)
        kernels = {
            kernel.name: kernel for kernel in machine_code.read(tmp_path / "calibration-cuda", "sm_90a")
        }
    except (programs.CannotBuild, machine_code.ToolMissing) as error:
        if programs.find_nvcc() is not None and isinstance(error, programs.CannotBuild):
            raise
        pytest.skip(str(error))
    assert "-Werror=all-warnings" in words
    assert set(kernels) == {*LOOPS, "write_chains", "nothing"}
    for name, (timed, others) in LOOPS.items():
        found = loop(kernels[name])
        assert {kind: found[kind] for kind in timed} == timed, name
        count = sum(timed.values())
        assert found.total() - count <= others * count, f"{name}: {found}"
        assert kernels[name].stack == kernels[name].local == 0, name
