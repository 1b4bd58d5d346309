"""The conformance program covers every wrapper, and a reference that is not a GPU's fails it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import conformance
import programs

KERNELS = programs.ROOT / "kernels"
COMPILER = os.environ.get("CXX", "g++").split()[0]
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no host compiler ({COMPILER})")

# Faults in what the emulator says of a GPU, and the check that each must fail.
FAULTS = [
    (
        "core/ptx.cuh",
        "return (bits + 0x1000) & ~Word{0x1fff};",
        "return (bits + 0x0fff) & ~Word{0x1fff};",
        "to_tf32",
    ),
    (
        "core/ptx.cuh",
        "transposed ? element(matrix, 2 * in_group, group)",
        "transposed ? element(matrix, 2 * in_group, group ^ 1)",
        "load_matrices_transposed",
    ),
    (
        "core/ptx.cuh",
        "left[group + 8][k] = value(lanes[lane]->a[2 * half + 1], i);",
        "left[group + 8][k] = value(lanes[lane]->a[3 - 2 * half], i);",
        "multiply_add_bf16",
    ),
    ("core/ptx.cuh", "word & ~Word{0x1fff}", "word", "multiply_add_tf32"),
    ("core/ptx.cuh", "__float_as_uint(a) & __float_as_uint(b)", "__float_as_uint(a)", "maximum"),
    ("core/ptx.cuh", "high_float(a) == high_float(b)", "a >> 16 == b >> 16", "equal_bf16"),
    ("core/ptx.cuh", "low_float(pair) > 0.0f", "low_float(pair) >= 0.0f", "positive_bf16"),
    (
        "core/ptx.cuh",
        "shared, inside ? global : nullptr",
        "shared, inside || global ? global : shared",
        "start_copy, close_copy_group, wait_for_copies",
    ),
    ("core/bfloat16.h", "0x7fff + (bits >> 16 & 1)", "0x8000", "to_bfloat16"),
    ("emulator/synchronization.h", "source >= segment.first", "source >= 0", "__shfl_sync, __shfl_up_sync, "),
    ("emulator/synchronization.h", "operands[i] << i", "operands[i] << (i ^ 1)", "votes and barriers"),
    ("emulator/device_functions.h", "old >= limit ? 0", "old > limit ? 0", "atomics"),
    ("core/vector.cuh", "divisor - 1) / divisor)", "divisor) / divisor + 3)", "Divider"),
    (
        "emulator/copy_engine.h",
        "target + swizzled(swizzle, byte)",
        "target + (swizzled(swizzle, byte) ^ (byte >> 3 & 16))",
        "load_box, lines of 128 bytes swizzled",
    ),
    (
        "emulator/copy_engine.h",
        "line[i] += map_.step[i - 1];",
        "line[i] += map_.step[0];",
        "load_windows",
    ),
    (
        "emulator/copy_engine.h",
        "source + swizzled(swizzle, byte) + first",
        "source + byte + first",
        "store_box, lines of 32 bytes swizzled",
    ),
    ("emulator/wgmma.h", "a.value(warp_of_group * 16 + i, k)", "a.value(i, k)", "start_product of 32 to 256"),
]


# ---- the comparison ---------------------------------------------------------------------------------------


def answer(words: Any, exact: bool = True, floats: bool = False) -> Any:
    return conformance.Answer(exact, floats, np.array(words, np.uint32))


def test_words_are_compared_by_their_bits() -> None:
    same = conformance.compare("a", answer([1, 2]), answer([1, 2]))
    assert same.holds and same.mismatches == 0 and str(same) == "a: 2 words equal"
    other = conformance.compare("a", answer([1, 7, 8]), answer([1, 2, 3]))
    assert not other.holds and other.mismatches == 2
    assert other.first == {"index": 1, "found": "0x00000007", "expected": "0x00000002"}
    measured = conformance.compare("a", answer([1, 7]), answer([1, 2], exact=False))
    assert measured.holds
    assert measured.words == {"found": "0000000100000007", "expected": "0000000100000002"}
    assert not conformance.compare("a", answer([1]), answer([1, 2])).holds


@pytest.mark.parametrize(
    ("found", "expected", "largest"),
    [
        ([0x3F800001], [0x3F800000], 1),
        ([0x00000001], [0x80000001], 2),
        ([0x80000000], [0x00000000], 0),  # a zero of another sign differs by no step
        ([0x3F800000, 0x7FFFFFFF], [0x3F7FFFFE, 0x7FFFFFFF], 2),
        ([0x7F800000], [0x7F7FFFFF], None),  # an infinity is not near a number
    ],
)
def test_floats_differ_by_steps(found: Any, expected: Any, largest: int | None) -> None:
    compared = conformance.compare("a", answer(found), answer(expected, floats=True))
    assert compared.mismatches == 1 and compared.largest_ulp == largest and not compared.holds


def test_a_check_that_ends_its_program_fails_alone(tmp_path: Path) -> None:
    program = tmp_path / "program"
    line = {"check": "one", "exact": True, "float": False, "words": "0000000a"}
    program.write_text(
        f"#!{sys.executable} -I\n"
        "import json, sys\n"
        "for name in sys.argv[1:]:\n"
        "    if name == 'bad': sys.exit('bad: illegal instruction')\n"
        f"    print(json.dumps({line} | dict(check=name)), flush=True)\n"
    )
    program.chmod(0o755)
    found = dict(conformance.answers(program, ["one", "bad", "two"], []))
    assert [name for name, value in found.items() if value.words is not None] == ["one", "two"]
    assert found["one"].words.tolist() == [10] and found["bad"].failure == "bad: illegal instruction"
    # A program that cannot do anything is not started for each.
    program.write_text(f"#!/bin/sh\necho x >> {tmp_path}/starts\necho no driver >&2\nexit 1\n")
    found = dict(conformance.answers(program, list("abcdefgh"), []))
    assert {value.failure for value in found.values()} == {"no driver"} and len(found) == 8
    assert len((tmp_path / "starts").read_text().split()) == 3


@pytest.mark.parametrize("name", ["cpu:0", "cuda:x", "gpu"])
def test_other_devices_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance.main(["--device", name]) == 2
    assert f"device must be cuda:N or emulator:N, not {name!r}" in capsys.readouterr().err


# ---- what is covered --------------------------------------------------------------------------------------


def code(path: Path) -> str:
    return re.sub(r"//[^\n]*", "", path.read_text())


def source_code() -> str:
    headers = sorted(conformance.SOURCE.with_suffix("").glob("*.cuh"))
    assert len(headers) > 4
    return "\n".join(map(code, [conformance.SOURCE, *headers]))


def test_every_wrapper_is_compared() -> None:
    source = source_code()
    wrappers = set()
    for name in ("ptx", "barriers", "cluster", "copy_engine", "dependent", "wgmma"):
        text = code(KERNELS / "core" / f"{name}.cuh")
        wrappers |= set(re.findall(r"__device__ __forceinline__ [\w ]+?\b(\w+)\(", text))
    # Operands of others, for a GPU alone; the argument of one.
    wrappers -= {"shared_address", "in_register", "product_instruction", "hold"}
    assert {"start_copy", "load_matrices", "multiply_add_bf16", "to_tf32"} < wrappers
    assert {"arrive", "meet", "load_windows", "store_box", "start_product", "take_registers"} < wrappers
    assert [name for name in sorted(wrappers) if not re.search(rf"\bptx::{name}\b", source)] == []


def test_every_device_function_that_kernels_use_is_compared() -> None:
    """Of those that the emulator offers in CUDA's place."""
    offered: set[str] = set()
    for header in ("device_functions.h", "synchronization.h"):
        text = code(KERNELS / "emulator" / header)
        offered |= set(re.findall(r"\b(__\w+|atomic[A-Z]\w*|rsqrtf?)\(", text))
    used: set[str] = set()
    for path in [*KERNELS.glob("*.*"), *KERNELS.glob("core/*"), *KERNELS.glob("gemm/*")]:
        used |= set(re.findall(r"\b(\w+)\(", code(path)))
    source = source_code()
    compared = set(re.findall(r"\b(\w+)\(", source))
    without_result = {"__trap", "__attribute__", "__builtin_FILE", "__builtin_LINE"}
    assert {"__shfl_xor_sync", "__fdividef", "__syncwarp"} < offered & used
    assert sorted((offered & used) - compared - without_result) == []
    # The C library's functions are a GPU's own there.
    library = {"fmaf", "fmaxf", "fminf", "expf", "logf", "log1pf", "powf", "tanhf", "sqrtf"}
    assert sorted((library & used) - compared) == []


# ---- dry runs ---------------------------------------------------------------------------------------------


def quickly_built(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXXFLAGS", f"{os.environ.get('CXXFLAGS', '')} -O0")
        return programs.build(conformance.SOURCE, "emulator", folder=folder)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quickly_built(tmp_path_factory.mktemp("program"))


@needs_compiler
def test_the_emulator_equals_itself_in_any_order(
    emulator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(conformance, "_build", lambda device, archs: {"emulator": emulator})
    out = tmp_path / "conformance.jsonl"
    assert conformance.main(["--device", "emulator:0", "--json", str(out)]) == 0
    *checks, summary = map(json.loads, out.read_text().splitlines())
    assert summary["what"] == "conformance" and summary["failed"] == [] and summary["checks"] == len(checks)
    assert all(check["mismatches"] == 0 and not check["failure"] for check in checks)
    assert sum(check["exact"] for check in checks) > 25
    assert capsys.readouterr().out.endswith("all required words are equal\n")
    # No check's words are nearly all the same.
    names = [check["check"] for check in checks]
    for name, found in conformance.answers(emulator, names, []):
        words = found.words
        # A comparison of pairs has four answers.
        most = 4 if name in ("equal_bf16", "positive_bf16") else 17
        assert words is not None and np.unique(words).size >= min(most, words.size // 3), name


@needs_compiler
def test_a_wrong_reference_is_noticed(
    emulator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program with faults stands in for the GPU: the checks of what is at fault fail, and no other."""
    kernels = shutil.copytree(KERNELS, tmp_path / "kernels")
    for header, right, wrong, _ in FAULTS:
        text = (kernels / header).read_text()
        assert text.count(right) == 1, right
        (kernels / header).write_text(text.replace(right, wrong))
    monkeypatch.setattr(programs, "ROOT", tmp_path)
    faulty = quickly_built(tmp_path)
    monkeypatch.setattr(conformance, "_build", lambda device, archs: {"cuda": faulty, "emulator": emulator})
    out = tmp_path / "conformance.jsonl"
    assert conformance.main(["--device", "cuda:0", "--json", str(out)]) == 1
    *checks, summary = map(json.loads, out.read_text().splitlines())
    failed = {check["check"] for check in checks if check["exact"] and check["mismatches"]}
    assert failed == set(summary["failed"])
    for *_, name in FAULTS:
        assert any(check.startswith(name) for check in failed), name
    sound = {"load_matrices", "to_float", "__fadd_rn", "fmaf", "larger", "__umulhi", "philox_word"}
    assert not sound & failed
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    "archs", ["90a", pytest.param("80", marks=pytest.mark.long), pytest.param("120", marks=pytest.mark.long)]
)
def test_the_program_is_compiled_for_gpus_without_a_warning(tmp_path: Path, archs: str) -> None:
    if programs.find_nvcc() is None:
        pytest.skip("nvcc is not installed")
    words = programs.command(conformance.SOURCE, "cuda", tmp_path / "program", archs)
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr
