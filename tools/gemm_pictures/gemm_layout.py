"""The layout of tiles in registers and shared memory, computed by the kernels' own classes."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels"


@dataclass
class Layout:
    """The output of gemm_layout.cu.

    Attributes:
        threads: By tile, for each thread: the rows of its outputs, and the first columns of its groups.
        swizzles: By tile and operand, for each line: the position of each chunk of 16 bytes.
        results: By tile, for each row of a warp's finished sums: the position of each chunk.
    """

    threads: dict[str, list[tuple[list[int], list[int]]]] = field(default_factory=dict)
    swizzles: dict[str, list[list[int]]] = field(default_factory=dict)
    results: dict[str, list[list[int]]] = field(default_factory=dict)


def printed_by(name: str, folder: Path, *more: Path) -> list[str]:
    """Compile NAME.cu, with more sources, into a folder with the host compiler; return what it prints.

    Raises:
        subprocess.CalledProcessError: It does not compile.
    """
    program = folder / name
    compiler = os.environ.get("CXX", "g++").split()
    flags = ["-std=c++17", "-O1", "-DCCONVNET_EMULATOR", "-Wno-psabi", f"-I{KERNELS}", "-pthread"]
    sources = [HERE / f"{name}.cu", *more]
    subprocess.run([*compiler, *flags, "-x", "c++", *sources, "-o", program], check=True)
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()


def read(folder: Path) -> Layout:
    """Compile gemm_layout.cu into a folder with the host compiler, run it, and return what it prints.

    Raises:
        subprocess.CalledProcessError: It does not compile.
    """
    layout = Layout()
    for line in printed_by("gemm_layout", folder):
        head, numbers = line.split(":")
        kind, name, _ = head.split()
        if kind in ("swizzle", "result"):
            lines = layout.swizzles if kind == "swizzle" else layout.results
            lines.setdefault(name, []).append([int(number) for number in numbers.split()])
        else:
            rows, columns = ([int(number) for number in part.split()] for part in numbers.split("|"))
            layout.threads.setdefault(name, []).append((rows, columns))
    return layout
