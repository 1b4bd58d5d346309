"""Programs of tests/emulator, built by a host compiler: with the assembly switch, ucontext, or sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PROGRAMS_FOLDER = Path(__file__).parents[1] / "emulator"
KERNELS = Path(__file__).parents[2] / "kernels"
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-psabi", "-pthread"]
BUILDS = {
    "assembly": ["-O1"],
    "ucontext": ["-O1", "-DCCONVNET_EMULATOR_UCONTEXT"],
    "sanitized": ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}
PROGRAMS = [("barriers", b) for b in BUILDS] + [("warp", b) for b in BUILDS]
PROGRAMS += [("tensor", b) for b in BUILDS] + [("warp_groups", b) for b in BUILDS]
PROGRAMS += [("clusters", b) for b in BUILDS]
PROGRAMS += [("errors", b) for b in BUILDS] + [("bounds", "sanitized")]
# Beside the program.
MORE_SOURCES = {name: [KERNELS / "gemm" / "tensor_map.cu"] for name in ("clusters", "warp_groups")}


def compile_cuda(source: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [*COMPILER.split(), *FLAGS, f"-I{KERNELS}", "-x", "c++", str(source), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def execute(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)


def compile_program(program: str, kind: str, target: Path) -> subprocess.CompletedProcess[str]:
    """Compile a program in one of the builds."""
    more = [str(source) for source in MORE_SOURCES.get(program, [])]
    return compile_cuda(PROGRAMS_FOLDER / f"{program}.cu", [*more, *BUILDS[kind], "-o", str(target)])
