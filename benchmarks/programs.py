"""Build the programs of this folder: one source, for a GPU or for the emulator."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.compile_settings import find_nvcc, gencode, present_archs  # noqa: E402

FOLDER = ROOT / "build" / "programs"
KINDS = ("cuda", "emulator")
NVCC_FLAGS = ["-std=c++17", "-O3", "-lineinfo", "-cudart=static", "-Werror=all-warnings"]
# Files of kernels/ that a program is linked with.
MORE_SOURCES = {"conformance": ("gemm/tensor_map.cu",)}
CXX_FLAGS = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DCCONVNET_EMULATOR"]


class CannotBuild(Exception):
    """A compiler is missing or failed; the text says which and why."""


def kind_of(device: str) -> str:
    """Return the kind of a device for which programs are built.

    Raises:
        ValueError: The device is of another kind.
    """
    kind, _, index = device.partition(":")
    if kind not in KINDS or not (index or "0").isdigit():
        raise ValueError(f"device must be cuda:N or emulator:N, not {device!r}")
    return kind


def ordinal_of(device: str) -> int:
    """Return the number of the GPU with a name such as cuda:1, as CCONVNET_CUDA_DEVICES maps it."""
    index = int(device.partition(":")[2] or "0")
    ordinals = os.environ.get("CCONVNET_CUDA_DEVICES", "").split(",")
    return int(ordinals[index]) if index < len(ordinals) and ordinals[index].isdigit() else index


def command(source: Path, kind: str, program: Path, archs: str | None = None) -> list[str]:
    """Return the command that builds a program for `archs` such as "80 90a", or for the present GPUs."""
    more = (str(ROOT / "kernels" / name) for name in MORE_SOURCES.get(source.stem, ()))
    common = [f"-I{ROOT / 'kernels'}", "-o", str(program), str(source), *more]
    if kind == "emulator":
        compiler = shlex.split(os.environ.get("CXX", "g++"))
        return [*compiler, *CXX_FLAGS, *shlex.split(os.environ.get("CXXFLAGS", "")), "-x", "c++", *common]
    nvcc = find_nvcc()
    if nvcc is None:
        raise CannotBuild("nvcc was not found: install the CUDA toolkit or set CUDA_HOME")
    archs = archs or os.environ.get("CCONVNET_ARCHS") or present_archs()
    if not archs:
        raise CannotBuild(
            "no GPU was found to build for: nvidia-smi lists none; CCONVNET_ARCHS=90a names one"
        )
    named = f'-DCCONVNET_ARCHS="{archs}"'
    return [str(nvcc), *NVCC_FLAGS, named, *shlex.split(gencode(archs)), *common]


def build(source: Path, kind: str, archs: str | None = None, folder: Path = FOLDER) -> Path:
    """Build the program of a source and return its path.

    Raises:
        CannotBuild: The compiler failed; the text is its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"{source.stem}-{kind}"
    words = command(source, kind, program, archs)
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotBuild(f"{words[0]} cannot be run: {error}") from error
    # C75xx: ptxas made the code slower than written, which is no warning of its own.
    if done.returncode != 0 or re.search(r"\(C75\d+\)", done.stdout + done.stderr):
        raise CannotBuild(f"{shlex.join(words)}\n{done.stdout}{done.stderr}".rstrip())
    return program


def chip() -> dict[str, str]:
    """Return the first GPU's name and its driver from nvidia-smi; nothing if there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(("chip", "driver"), done.stdout.splitlines()[0].split(", "), strict=False))


def parser(about: str | None, json_help: str) -> argparse.ArgumentParser:
    """Return a command line with the options that all programs share."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--device", default="cuda:0", metavar="KIND:N", help="cuda:N or emulator:N (cuda:0)")
    found.add_argument("--json", type=Path, metavar="FILE", help=json_help)
    found.add_argument("--arch", metavar="LIST", help='GPUs to build for, as in "90a" (those present)')
    return found


def exit_status(device: str, work: Callable[[], int]) -> int:
    """Return the exit status of `work` on a device; if it cannot be done, print why and return 2."""
    try:
        kind_of(device)
        return work()
    except (CannotBuild, ValueError, OSError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 2
