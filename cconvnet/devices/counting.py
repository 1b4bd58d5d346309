"""Counts of memory accesses, and races, of the CUDA kernels in the emulator.

Within ``counting()`` the calls on ``emulator:0`` run on a second build of the emulator, ``make counting``,
which sees every access of a kernel to memory:

    >>> with counting(blocks=3) as record:
    ...     ops.lrn_forward(x, device="emulator:0")
    >>> for access in record.launches[0].accesses:
    ...     print(access.line, access.sectors / access.requests)

A request is one instruction of a warp: the accesses of its lanes by the same machine instruction, the n-th of
each since the last barrier. They are those of the host compiler's code. It leaves out and moves loads by the
same rules as nvcc, but not always the same ones.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cconvnet.devices.registry import get_device
from cconvnet.errors import DeviceUnavailable
from cconvnet.system.installation import rebuild

# A line in these files is no place of its own: it is part of whatever calls it.
_HELPERS = (
    *(
        f"kernels/core/{name}"
        for name in ("vector.cuh", "ptx.cuh", "bfloat16.h", "cluster.cuh", "copy_engine.cuh", "wgmma.cuh")
    ),
    "kernels/emulator/",
)


class RaceError(AssertionError):
    """Two threads access the same byte without a barrier between them, at least one writing."""


@dataclass(frozen=True)
class Line:
    """A line of source code, as ``kernels/lrn.cu:81``, and the function around it."""

    file: str
    number: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


@dataclass(frozen=True)
class Instruction:
    """One instruction that accesses memory.

    Attributes:
        offset: Its address in the module.
        kind: ``load``, ``store``, ``atomic``, ``copy`` (asynchronous), ``matrix`` (a row for ldmatrix),
            ``box_load`` and ``box_store`` (boxes of the copy engine) or ``factor`` (what a warp's share of a
            product of a warp group reads).
        space: ``global`` or ``shared``.
        bytes: Bytes for each lane, 16 at most. Of boxes and factors each 16 bytes count as a lane.
        chain: Its line, the line that calls it, and so on up to the kernel, as far as functions are inlined.
    """

    offset: int
    kind: str
    space: str
    bytes: int
    chain: tuple[Line, ...] = ()

    @property
    def line(self) -> Line:
        """The first line of the chain outside the helpers for vectors and instructions."""
        return next((line for line in self.chain if not line.file.startswith(_HELPERS)), self.chain[0])

    def __str__(self) -> str:
        return f"{self.kind} of {self.bytes} bytes, {self.line}"


@dataclass(frozen=True)
class Access:
    """The requests of warps by one instruction into one array, in all blocks that ran.

    Attributes:
        instruction: The instruction.
        array: The name of the argument in global memory; empty if unknown, and for shared memory.
        requests: How many times warps executed the instruction.
        lanes: Active lanes of all requests.
        sectors: 32-byte sectors of global memory touched by all requests.
        least_sectors: The fewest sectors that hold the bytes of each request.
        misses: Sectors that a first-level cache would miss, empty at each block's start. Only loads find
            something in it: asynchronous copies pass it by.
        wavefronts: Wavefronts of shared memory.
        least_wavefronts: Their number without conflicts of banks.
    """

    instruction: Instruction
    array: str
    requests: int
    lanes: int
    sectors: int
    least_sectors: int
    misses: int
    wavefronts: int
    least_wavefronts: int

    @property
    def line(self) -> Line:
        """The line of the instruction."""
        return self.instruction.line

    @property
    def bytes(self) -> int:
        """The bytes that all lanes asked for."""
        return self.lanes * self.instruction.bytes


@dataclass(frozen=True)
class WarpOperation:
    """A barrier, a warp's operation or its wait for a phase, by line, and how many warps executed it."""

    name: str
    file: str
    line: int
    warps: int


@dataclass(frozen=True)
class RacingAccess:
    """One side of a race: an instruction, and the numbers of its block and thread, x fastest."""

    instruction: Instruction
    block: int
    thread: int

    def __str__(self) -> str:
        return f"thread {self.thread} of block {self.block} ({self.instruction})"


@dataclass(frozen=True)
class Race:
    """Two accesses to one byte with nothing to order them, at least one of them a write.

    Attributes:
        kernel: The kernel's name.
        first: The access that the emulator made first.
        second: The other one.
        array: The argument's name, or ``shared`` or ``launch shared``; empty if unknown.
        position: The place of the byte in the array.
        occurrences: How often the same two instructions raced in the launch.
    """

    kernel: str
    first: RacingAccess
    second: RacingAccess
    array: str
    position: int
    occurrences: int

    def __str__(self) -> str:
        place = f"byte {self.position} of {self.array or 'global memory'}"
        return f"{self.kernel}: {self.second} and {self.first} race for {place}, {self.occurrences} times"


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: The kernel's name with its template arguments and parameters, demangled.
        site: The line of the launch.
        grid: Blocks in x, y and z.
        block: Threads of a block in x, y and z.
        shared_bytes: Shared memory of a block's own objects.
        launch_bytes: Shared memory that the launch gives each block.
        blocks_run: How many blocks ran; all counts are those of these blocks.
        busiest: Requests and operations of the busiest of these blocks over their average.
        cut_blocks: How many of them were ended at the limit of barriers.
        barriers: Barriers that these blocks passed.
        accesses: Counts by instruction and array.
        operations: Counts of barriers and warp operations.
        races: Races of these blocks.
    """

    kernel: str
    site: Line
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    launch_bytes: int
    blocks_run: int
    busiest: float
    cut_blocks: int
    barriers: int
    accesses: tuple[Access, ...]
    operations: tuple[WarpOperation, ...]
    races: tuple[Race, ...]

    @property
    def blocks(self) -> int:
        """The number of blocks in the grid."""
        return math.prod(self.grid)

    @property
    def threads(self) -> int:
        """The number of threads of a block."""
        return math.prod(self.block)

    @property
    def block_shared(self) -> int:
        """Bytes of shared memory of a block, from its own objects and from the launch."""
        return self.shared_bytes + self.launch_bytes


@dataclass
class Record:
    """The launches within ``counting()``, complete at its end."""

    launches: list[Launch] = field(default_factory=list)

    @property
    def races(self) -> list[Race]:
        """The races of all launches."""
        return [race for launch in self.launches for race in launch.races]

    def raise_races(self) -> None:
        """Raise a RaceError that lists all races, if there are any."""
        if races := self.races:
            raise RaceError("\n".join(map(str, races)))


@contextlib.contextmanager
def counting(
    blocks: int | None = None,
    *,
    barriers: int | None = None,
    races: bool = True,
    cache_bytes: int = 128 * 1024,
    multiprocessors: int | None = None,
    device: str = "emulator:0",
) -> Iterator[Record]:
    """Count the memory accesses of all launches on an emulated device within.

    Args:
        blocks: How many blocks of each launch run, spread evenly from the first to the last; None: all. What
            the others would write keeps its contents. Then products of warp groups are not computed.
        barriers: After how many barriers a block is ended, for kernels that are long; None: never.
        races: Look for races too, which takes several times as long.
        cache_bytes: The size of the first-level cache.
        multiprocessors: Those of the GPU, for kernels that launch a block for each; None: a few.
        device: The device whose calls are counted.

    Yields:
        The record, which receives its launches at the end.

    Raises:
        DeviceUnavailable: The module was not built.
        ValueError: The device is no emulator, or its calls are being counted already.
    """
    emulator = get_device(device)
    module = counting_module()
    if emulator.kind != "emulator" or emulator.module is module:
        raise ValueError(f"{device} cannot be counted: it is no emulator, or is being counted already")
    record = Record()
    usual, emulator.module = emulator.module, module
    if multiprocessors is not None:
        module.set_multiprocessors(multiprocessors)
    module.start_counting(blocks, barriers, races, cache_bytes)
    try:
        yield record
    finally:
        emulator.module = usual
        module.set_multiprocessors()
        record.launches += described(module.stop_counting(), Path(module.__file__))


@functools.cache
def counting_module() -> Any:
    """Return the emulator's second build.

    Raises:
        DeviceUnavailable: It was not built.
    """
    try:
        return importlib.import_module("cconvnet._counting")
    except ModuleNotFoundError as error:
        if error.name != "cconvnet._counting":
            raise
        raise DeviceUnavailable(
            f"this package was built without its counting module; to build it: {rebuild('', 'counting')}"
        ) from None


# ---- names and lines ------------------------------------------------------------------------------------


def described(launches: list[dict[str, Any]], module: Path) -> list[Launch]:
    """Return launches as the module gives them, with the names and lines of its addresses."""
    offsets = {launch["kernel"] + 1 for launch in launches}
    for launch in launches:
        offsets |= {access["instruction"]["offset"] for access in launch["accesses"]}
        offsets |= {race[side]["offset"] for race in launch["races"] for side in ("first", "second")}
    chains = source_lines(module, offsets)

    def instruction(fields: dict[str, Any]) -> Instruction:
        offset = fields["offset"]
        return Instruction(offset, fields["kind"], fields["space"], fields["bytes"], chains[offset])

    def side(fields: dict[str, Any]) -> RacingAccess:
        return RacingAccess(instruction(fields), fields["block"], fields["thread"])

    def one(fields: dict[str, Any]) -> Launch:
        kernel = chains[fields["kernel"] + 1][-1].function
        return Launch(
            kernel=kernel,
            site=Line(short_file(fields["file"]), fields["line"], ""),
            accesses=tuple(
                Access(**access | {"instruction": instruction(access["instruction"])})
                for access in fields["accesses"]
            ),
            operations=tuple(
                WarpOperation(**operation | {"file": short_file(operation["file"])})
                for operation in fields["operations"]
            ),
            races=tuple(
                Race(
                    **race | {"kernel": kernel, "first": side(race["first"]), "second": side(race["second"])}
                )
                for race in fields["races"]
            ),
            **{
                name: fields[name]
                for name in (
                    "grid",
                    "block",
                    "shared_bytes",
                    "launch_bytes",
                    "blocks_run",
                    "busiest",
                    "cut_blocks",
                    "barriers",
                )
            },
        )

    return [one(launch) for launch in launches]


def short_file(file: str) -> str:
    """Return a kernel's file as it is below the checkout, another one without its folder."""
    place = file.rfind("kernels/")
    return file[place:] if place >= 0 else file.rpartition("/")[2]


_known: dict[tuple[Path, int, int], tuple[Line, ...]] = {}


def source_lines(module: Path, offsets: Iterable[int]) -> dict[int, tuple[Line, ...]]:
    """Return the chain of lines of each return address in a program or module, the innermost first.

    Raises:
        DeviceUnavailable: addr2line, a part of binutils, is missing.
    """
    built = module.stat().st_mtime_ns
    wanted = sorted(offset for offset in set(offsets) if (module, built, offset) not in _known)
    if wanted:
        for offset, chain in zip(wanted, _asked(module, wanted), strict=True):
            _known[module, built, offset] = chain
    return {offset: _known[module, built, offset] for offset in set(offsets)}


def _asked(module: Path, offsets: list[int]) -> list[tuple[Line, ...]]:
    """Return addr2line's answer about each return address."""
    if shutil.which("addr2line") is None:
        raise DeviceUnavailable("addr2line is missing: apt-get install binutils")
    # The call is before the address it returns to.
    asked = "".join(f"{offset - 1:#x}\n" for offset in offsets)
    command = ["addr2line", "--exe", str(module), "--addresses", "--functions", "--inlines", "--demangle"]
    answer = subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout
    chains: list[list[Line]] = []
    lines = iter(answer.splitlines())
    for line in lines:
        if line.startswith("0x"):
            chains.append([])
        else:
            file, _, number = next(lines).partition(" ")[0].rpartition(":")
            chains[-1].append(Line(short_file(file), int(number) if number.isdigit() else 0, line))
    return [tuple(chain) for chain in chains]
