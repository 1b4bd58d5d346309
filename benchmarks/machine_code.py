"""Report nvcc's machine code of each kernel, on a machine without a GPU: `make machine-code`.

    python benchmarks/machine_code.py --arch sm_90a --json kernels.json build/*/cuda/conv_fprop.o

Reads the CUDA module, or the given objects and cubins, with cuobjdump. A line of the table describes a
kernel: its registers, its shared memory, how many blocks of it a multiprocessor holds and which resource is
used up first; then its instructions, in all and in its hot loop. Loads and stores are named with their bytes:
LDG.16 is a load of 16 bytes from global memory by each thread. The last lines name the kernels that break
PROMISES. If there are any, the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from occupancy import Occupancy, capability, occupancy  # noqa: E402

from tools.compile_settings import find_nvcc, packaged_file  # noqa: E402

MODULE = ROOT / "cconvnet" / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
ARCH = "sm_90a"


class ToolMissing(Exception):
    """A required program is missing, cuobjdump or c++filt; the text says how to install it."""


# ---- kernels --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instruction:
    """One machine instruction.

    Attributes:
        address: Its address in the kernel.
        opcode: The opcode with its modifiers, LDG.E.128.CONSTANT.
        target: The target of a branch.
    """

    address: int
    opcode: str
    target: int | None = None

    @property
    def kind(self) -> str:
        """Return the kind under which it is counted.

        A load or store has its bytes, all other instructions have no modifiers. A DIVISION is the I2F that
        rounds up, with which a division of integers begins. If the divisor is the same for a whole loop it
        may precede the loop.
        """
        name, *modifiers = self.opcode.split(".")
        if name not in _MEMORY:
            return "DIVISION" if name == "I2F" and "RP" in modifiers else name
        return f"{name}.{next((_BYTES[word] for word in modifiers if word in _BYTES), 4)}"


# Accesses of all memories but constant: local (spills), shared, global, and from global to shared.
_MEMORY = {"LDL", "STL", "LDS", "STS", "LDG", "STG", "LD", "ST", "LDGSTS"}
_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
# Instructions whose results are products.
PRODUCTS = ("FFMA", "FFMA2", "HMMA", "IMMA", "HGMMA")
TENSOR = ("HMMA", "IMMA", "HGMMA")


@dataclass(frozen=True)
class Kernel:
    """A kernel's resources and instructions.

    Attributes:
        file: Its source file; empty for a cubin, which does not name it.
        name: Its name without namespaces and arguments.
        arch: The architecture of its code.
        registers: Registers of a thread.
        stack: Bytes of a thread in local memory for arrays that are not in registers.
        local: Bytes of a thread in local memory for spilled registers.
        shared: Bytes of a block, declared or given at its launch, without those the system reserves.
        threads: The largest block, by its launch bounds; None if it has none.
        code: Its instructions.
    """

    file: str
    name: str
    arch: str
    registers: int
    stack: int
    local: int
    shared: int
    threads: int | None
    code: Sequence[Instruction] = field(repr=False)

    @cached_property
    def counts(self) -> Counter[str]:
        """Count its instructions by kind."""
        return _counts(self.code)

    @cached_property
    def hot_loop(self) -> Counter[str]:
        """Count the instructions of the innermost loop over shared-memory operands with the most products.

        Those of tensor cores come first: a loop that updates weights multiplies too.
        """
        return max(map(_counts, _innermost(self.code)), key=_products, default=Counter())

    @property
    def occupancy(self) -> Occupancy | None:
        """Return its occupancy; None without launch bounds."""
        return occupancy(self.arch, self.registers, self.shared, self.threads) if self.threads else None

    def share(self, kinds: Iterable[str]) -> float:
        """Return the share of these kinds of instructions in the hot loop."""
        return sum(self.hot_loop[kind] for kind in kinds) / (self.hot_loop.total() or 1)


def _counts(code: Iterable[Instruction]) -> Counter[str]:
    return Counter(instruction.kind for instruction in code)


def _products(counts: Counter[str]) -> tuple[int, int]:
    """Return how many products are by tensor cores, and how many in all."""
    return sum(counts[kind] for kind in TENSOR), sum(counts[kind] for kind in PRODUCTS)


def _is_hot(code: Iterable[Instruction]) -> bool:
    """Return whether code multiplies operands from shared memory, which HGMMA reads itself."""
    counts = _counts(code)
    return _has(counts, *PRODUCTS) and any(kind.startswith(("LDS", "HGMMA")) for kind in counts)


def _innermost(code: Sequence[Instruction]) -> list[Sequence[Instruction]]:
    """Return the hot loops that contain no other one."""
    index = {instruction.address: place for place, instruction in enumerate(code)}
    spans = {
        (index[branch.target], place + 1)
        for place, branch in enumerate(code)
        if branch.target is not None and branch.target <= branch.address
    }
    hot = [span for span in spans if _is_hot(code[slice(*span)])]
    return [
        code[begin:end]
        for begin, end in hot
        if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in hot)
    ]


# ---- reading --------------------------------------------------------------------------------------------


def find_tool(name: str) -> str:
    """Find a program of the toolkit: beside nvcc, on the PATH, or in its package on PyPI.

    Raises:
        ToolMissing: There is none.
    """
    nvcc = find_nvcc()
    beside = shutil.which(name, path=nvcc.parent) if nvcc else None
    found = beside or shutil.which(name) or packaged_file(f"nvidia-cuda-{name}", name)
    if found is None:
        raise ToolMissing(f"{name} is missing: pip install nvidia-cuda-{name}")
    return str(found)


def _demangle(names: Iterable[str]) -> list[str]:
    if not shutil.which("c++filt"):
        raise ToolMissing("c++filt is missing: apt-get install binutils (or your system's like)")
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def short_name(demangled: str) -> str:
    """Return `pool_forward<Pooling:1, 4>` of a whole signature; 1 is the second of an enum's values."""
    name = re.sub(r"\(anonymous namespace\)::|\b\w+::|^void ", "", demangled)
    name = re.sub(r"\((\w+)\)(\d+)", r"\1:\2", name)
    return name.split("(")[0].replace("> >", ">>")


# Options of cuobjdump, and the lines that begin the part about a function in its answer. An ELF file has
# attributes and, because of -lineinfo, PTX.
_QUESTIONS = {
    "-res-usage": r"^ Function (?P<name>\S+):$",
    "-elf": r"^(?:\.nv\.info\.|(?:\.\w+ )*\.entry )(?P<name>[^\s(]+)\(?$",
    "-sass": r"^\s+Function : (?P<name>\S+)$",
}
_THREADS = re.compile(r"EIATTR_(?:MAX_THREADS|REQNTID)\s+Format:\s+\S+\s+Value:\s+(\w+) (\w+) (\w+)")
# launch_shared_memory<T>() in kernels/core/launch.cuh records the size of a T in this name.
_LAUNCH_SHARED = re.compile(r"launch_shared_memory_(\d+);")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)
_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")


def _ask(question: str, path: Path, arch: str) -> dict[tuple[str, str], str]:
    """Return cuobjdump's answer about each function, by source and mangled name."""
    command = [find_tool("cuobjdump"), "-arch", arch, question, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{path} cannot be read: {done.stderr.strip()}")
    marks = list(
        re.finditer(rf"^identifier = (?P<source>.*)$|{_QUESTIONS[question]}", done.stdout, re.MULTILINE)
    )
    begins = [*(mark.start() for mark in marks), len(done.stdout)]
    found: dict[tuple[str, str], str] = defaultdict(str)
    source = ""
    for mark, end in zip(marks, begins[1:], strict=True):
        if mark["source"]:
            source = Path(mark["source"]).name
        else:
            found[source, mark["name"]] += done.stdout[mark.end() : end]
    return found


def _code(text: str) -> list[Instruction]:
    code = []
    for address, opcode, operands in _INSTRUCTION.findall(text):
        target = _TARGET.search(operands) if opcode.startswith("BRA") else None
        code.append(Instruction(int(address, 16), opcode, int(target[1], 16) if target else None))
    return code


def read(path: Path, arch: str = ARCH) -> list[Kernel]:
    """Read the kernels for `arch` in a module, an object or a cubin, sorted by source and name; perhaps none.

    Raises:
        ToolMissing: A tool that reads the code is missing.
        ValueError: The file contains no code for GPUs.
    """
    capability(arch)
    with ThreadPoolExecutor() as pool:
        usages, attributes, codes = pool.map(lambda question: _ask(question, path, arch), _QUESTIONS)
    names = dict(zip(codes, map(short_name, _demangle(name for _, name in codes)), strict=True))
    kernels = []
    for key, text in codes.items():
        usage = {
            word: int(number) for word, number in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usages[key])
        }
        threads = _THREADS.search(attributes[key])
        # From Hopper on, the count includes the memory that the system reserves.
        reserved = 1024 if int(capability(arch)) >= 90 else 0
        at_launch = max(map(int, _LAUNCH_SHARED.findall(attributes[key])), default=0)
        kernels.append(
            Kernel(
                file=key[0],
                name=names[key],
                arch=arch,
                registers=usage["REG"],
                stack=usage["STACK"],
                local=usage["LOCAL"],
                shared=max(usage["SHARED"] - reserved, 0) + at_launch,
                threads=int(threads[1], 16) * int(threads[2], 16) * int(threads[3], 16) if threads else None,
                code=_code(text),
            )
        )
    return sorted(kernels, key=lambda kernel: (kernel.file, kernel.name))


# ---- promises -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promise:
    """A promise about the machine code of some kernels.

    Attributes:
        words: The promise in words.
        kernels: A regular expression that matches the names of kernels that promise it.
        kept: Returns whether a kernel keeps it.
        exceptions: Regular expressions of kernels that do not keep it, each with the reason.
    """

    words: str
    kernels: str
    kept: Callable[[Kernel], bool]
    exceptions: Mapping[str, str] = field(default_factory=dict)

    def binds(self, kernel: Kernel) -> bool:
        """Return whether a kernel promises it."""
        return re.search(self.kernels, kernel.name) is not None


def _has(counts: Counter[str], *begins: str) -> bool:
    return any(kind.startswith(begins) for kind in counts)


def _loads(counts: Counter[str]) -> set[str]:
    """Return the kinds of loads from global memory."""
    return {kind for kind in counts if kind.startswith(("LDG.", "LDGSTS."))}


# The shares of the hot loops are those of nvcc 13.0 for sm_90a, less one or two hundredths, since another
# version may order instructions differently. A kernel below its share lost speed.
_TILE = r"_gemm<(Tensor)?Tile<"
_WIDE = (
    r"^(elementwise|limit_rows)<[48]\b",
    r"^column_sums<[48], true, ",
    r"^\w+<\w+:\d+, [48], ",
    r"^lrn_(across_\w+|maxpool_\w+)<\d, true, ",
    r"^lrn_(map|maxpool_ring)<",
)
PROMISES = (
    Promise(
        "no spilled registers and no local memory",
        "",
        lambda kernel: not (kernel.stack or kernel.local or _has(kernel.counts, "LDL", "STL")),
    ),
    Promise("launch bounds", "", lambda kernel: kernel.threads is not None),
    Promise("products by tensor cores", "TensorTile<", lambda kernel: _has(kernel.hot_loop, *TENSOR)),
    Promise("fragments by ldmatrix", "TensorTile<bfloat16,", lambda kernel: _has(kernel.hot_loop, "LDSM")),
    Promise(
        "strict fp32: no tensor-core instruction",
        r"^(?!.*TensorTile<)",
        lambda kernel: not _has(kernel.counts, *TENSOR),
    ),
    Promise(
        "loads and stores of 16 bytes",
        "|".join(_WIDE),
        lambda kernel: kernel.counts["LDG.16"] > 0 and kernel.counts["STG.16"] > 0,
        {
            r"^elementwise<4, SplitReduce<\w+<bfloat16>": "four sums of floats become 8 bytes of bfloat16s",
            r"^lrn_map<Step:(0|2), ": "nvcc splits the stores of its walk",
        },
    ),
    Promise(
        "no load narrower than 16 bytes in the hot loop",
        r"_gemm<(Tile<float, (\d+, ){5}4>|TensorTile<)",
        lambda kernel: _loads(kernel.hot_loop) in ({"LDG.16"}, {"LDGSTS.16"}),
    ),
    Promise("one barrier in each step", _TILE, lambda kernel: kernel.hot_loop["BAR"] == 1),
    Promise(
        "no integer division in the hot loop",
        _TILE,
        lambda kernel: kernel.hot_loop["DIVISION"] == 0,
        {r"^local_dgrad_": "which filters reach a pixel is found by dividing, for each of them"},
    ),
    Promise(
        "at least 12 warps on a multiprocessor",
        "_gemm<Tile<",
        lambda kernel: (held := kernel.occupancy) is not None and held.warps >= 12,
    ),
    Promise(
        "a hot loop of 80% FFMA",
        r"^conv_(fprop|wgrad)_\w+<Tile<float, 128, 128, ",
        lambda kernel: kernel.share(["FFMA", "FFMA2"]) >= 0.80,
    ),
    Promise(
        "a hot loop of 74% FFMA",
        r"^conv_dgrad_\w+<Tile<float, 128, 128, ",
        lambda kernel: kernel.share(["FFMA", "FFMA2"]) >= 0.74,
    ),
)


def broken(kernels: Iterable[Kernel], promises: Iterable[Promise] = PROMISES) -> list[str]:
    """Return a line for each kernel that breaks a promise, and for each exception that is none."""
    lines = []
    for kernel in kernels:
        for promise in filter(lambda promise: promise.binds(kernel), promises):
            excepted = any(re.search(name, kernel.name) for name in promise.exceptions)
            if promise.kept(kernel) == excepted:
                what = "is excepted but keeps" if excepted else "breaks"
                lines.append(f"{kernel.file or 'cubin'}: {kernel.name} {what} its promise: {promise.words}")
    return lines


# ---- the table ------------------------------------------------------------------------------------------

_COLUMNS = (
    "kernel",
    "registers",
    "shared",
    "threads",
    "blocks",
    "warps",
    "limit",
    "spills",
    "LDG.16",
    "LDG",
    "STG.16",
    "STG",
    "divisions",
    "hot loop",
    "barriers",
    "LDS.16",
    "LDSM",
    "FFMA",
    "tensor",
)


def _cells(kernel: Kernel) -> list[str]:
    counts, loop, held = kernel.counts, kernel.hot_loop, kernel.occupancy

    def sum_of(of: Counter[str], *begins: str) -> int:
        return sum(number for kind, number in of.items() if kind.startswith(begins))

    numbers = [
        sum_of(counts, "LDL", "STL"),
        sum_of(counts, "LDG.16", "LDGSTS.16"),
        sum_of(counts, "LDG.", "LDGSTS."),
        counts["STG.16"],
        sum_of(counts, "STG"),
        counts["DIVISION"],
        loop.total(),
        loop["BAR"],
        loop["LDS.16"],
        loop["LDSM"],
    ]
    return [
        kernel.name,
        str(kernel.registers),
        str(kernel.shared),
        str(kernel.threads or "?"),
        str(held.blocks) if held else "?",
        f"{held.share:.0%}" if held else "?",
        held.limit if held else "?",
        *(str(number or "") for number in numbers),
        *(f"{kernel.share(kinds):.0%}" if kernel.share(kinds) else "" for kinds in (("FFMA",), TENSOR)),
    ]


def table(kernels: Sequence[Kernel]) -> str:
    """Return a line for each kernel, below its source.

    Columns from "hot loop" on count instructions of that loop.
    """
    lines = [list(_COLUMNS), *map(_cells, kernels)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    printed, source = text[:1], ""
    for kernel, line in zip(kernels, text[1:], strict=True):
        if kernel.file != source:
            source = kernel.file
            printed += ["", source]
        printed.append(line)
    return "\n".join(printed)


def as_json(kernel: Kernel) -> dict[str, Any]:
    """Return a kernel's properties as JSON values."""
    plain = {key: value for key, value in asdict(replace(kernel, code=())).items() if key != "code"}
    held = kernel.occupancy
    return {
        **plain,
        "occupancy": asdict(held) if held else None,
        "instructions": dict(kernel.counts),
        "hot_loop": dict(kernel.hot_loop),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, default=[MODULE], help="default: the CUDA module")
    parser.add_argument("--arch", default=ARCH, help=f"whose code is read ({ARCH})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all properties to a file")
    options = parser.parse_args(arguments)
    try:
        kernels = [kernel for path in options.files for kernel in read(path, options.arch)]
    except (ToolMissing, ValueError) as error:
        parser.error(str(error))
    if not kernels:
        parser.error(f"there is no kernel for {options.arch}: CCONVNET_ARCHS names what is built")
    print(table(kernels))
    lines = broken(kernels)
    print("", *lines or ["All promises are kept."], sep="\n")
    if options.json:
        value = {"kernels": [as_json(kernel) for kernel in kernels], "broken": lines}
        options.json.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
