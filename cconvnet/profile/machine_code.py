"""The machine code of kernels: resources, instructions and loops, as cuobjdump prints them."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from cconvnet.profile.loops import Jump, Region, find_regions
from cconvnet.profile.occupancy import Occupancy, capability, occupancy
from cconvnet.system.installation import pip_install

ARCH = "sm_90a"


class ToolMissing(Exception):
    """A required program is missing, cuobjdump, nvdisasm or c++filt; the text says how to install it."""


# ---- kernels --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instruction:
    """One machine instruction.

    Attributes:
        address: Its address in the kernel.
        opcode: The opcode with its modifiers, LDG.E.128.CONSTANT.
        target: The target of a branch.
        always: Whether the next instruction never follows: an exit or a branch without a condition.
        operands: The operands as printed: "R4, [R2+0x10]".
    """

    address: int
    opcode: str
    target: int | None = None
    always: bool = False
    operands: str = field(default="", repr=False)

    @property
    def kind(self) -> str:
        """Return the kind under which it is counted.

        A load or store has its bytes, a product of a warp group its columns, HGMMA.128; all other
        instructions have no modifiers. A DIVISION is the I2F that rounds up, with which a division of
        integers begins. If the divisor is the same for a whole loop it may precede the loop.
        """
        return _kind(self.opcode)


# Accesses of all memories but constant: local (spills), shared, global, and from global to shared.
_MEMORY = {"LDL", "STL", "LDS", "STS", "LDG", "STG", "LD", "ST", "LDGSTS"}
_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


@cache
def _kind(opcode: str) -> str:
    name, *modifiers = opcode.split(".")
    if name == "HGMMA":
        return f"HGMMA.{modifiers[0].split('x')[1]}"
    if name not in _MEMORY:
        return "DIVISION" if name == "I2F" and "RP" in modifiers else name
    return f"{name}.{next((_BYTES[word] for word in modifiers if word in _BYTES), 4)}"


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
    def regions(self) -> list[Region]:
        """Return the code that branches reach, then its loops and sections, outer ones first."""
        index = {instruction.address: place for place, instruction in enumerate(self.code)}
        jumps = {
            place: Jump(None if one.target is None else index[one.target], one.always)
            for place, one in enumerate(self.code)
            if one.target is not None or one.always
        }
        return find_regions(len(self.code), jumps)

    @cached_property
    def hot(self) -> int | None:
        """Return the number of the innermost loop over shared-memory operands with the most products.

        Those of tensor cores come first: a loop that updates weights multiplies too.
        """
        loops = {number: region for number, region in enumerate(self.regions) if region.repeats}
        counts = {number: self._counts_at(loop.places) for number, loop in loops.items()}
        hot = [number for number, counted in counts.items() if _is_hot(counted)]
        innermost = [
            number
            for number in hot
            if not any(set(loops[other].places) < set(loops[number].places) for other in hot)
        ]
        return max(innermost, key=lambda number: _products(counts[number]), default=None)

    @cached_property
    def hot_loop(self) -> Counter[str]:
        """Count the instructions of the hot loop."""
        return Counter() if self.hot is None else self._counts_at(self.regions[self.hot].places)

    @property
    def before_products(self) -> int:
        """Count the instructions of the hot loop between its barrier and its first product."""
        kinds = [self.code[place].kind for place in sorted(self.regions[self.hot].places)] if self.hot else []
        after = kinds[kinds.index("BAR") + 1 :] if "BAR" in kinds else kinds
        return next((number for number, kind in enumerate(after) if kind in PRODUCTS), len(after))

    def _counts_at(self, places: Iterable[int]) -> Counter[str]:
        return _counts(self.code[place] for place in places)

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
    return _sum_of(TENSOR, counts), _sum_of(PRODUCTS, counts)


def _sum_of(names: Iterable[str], counts: Counter[str]) -> int:
    return sum(number for kind, number in counts.items() if kind.partition(".")[0] in names)


def _is_hot(counts: Counter[str]) -> bool:
    """Return whether code multiplies operands from shared memory, which HGMMA reads itself."""
    multiplies = _sum_of(PRODUCTS, counts) > 0
    return multiplies and any(kind.startswith(("LDS", "HGMMA")) for kind in counts)


# ---- reading --------------------------------------------------------------------------------------------


def find_tool(name: str) -> str:
    """Find a program of the toolkit: in CUDA_HOME, on the PATH, or in its package on PyPI.

    Raises:
        ToolMissing: There is none.
    """
    home = os.environ.get("CUDA_HOME")
    found = shutil.which(name, path=str(Path(home, "bin"))) if home else None
    found = found or shutil.which(name) or _packaged(name) or shutil.which(name, path="/usr/local/cuda/bin")
    if found is None:
        raise ToolMissing(f"{name} is missing: {pip_install(f'nvidia-cuda-{name}')}")
    return found


def _packaged(name: str) -> str | None:
    try:
        files = importlib.metadata.files(f"nvidia-cuda-{name}") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(Path(str(file.locate())).resolve()) for file in files if file.name == name), None)


def demangle(names: Iterable[str]) -> list[str]:
    """Return names as they are written in the source.

    Raises:
        ToolMissing: c++filt is missing.
    """
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
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?\w+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)
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
    for address, predicate, opcode, operands in _INSTRUCTION.findall(text):
        branches = opcode.startswith("BRA")
        target = _TARGET.search(operands) if branches else None
        # A branch or an exit may have a second condition among its operands.
        condition = predicate or (len(operands.split(",")) > 1 if branches else operands.strip())
        always = not condition and opcode.startswith(("BRA", "EXIT", "RET", "BRX"))
        code.append(
            Instruction(
                int(address, 16), opcode, int(target[1], 16) if target else None, always, operands.strip()
            )
        )
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
    names = dict(zip(codes, map(short_name, demangle(name for _, name in codes)), strict=True))
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
