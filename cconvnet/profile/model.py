"""A model of a kernel's time on a GPU: the resource that is busiest, or the path that is longest.

Each multiprocessor has pipes that work at once: tensor cores, the issue of instructions, arithmetic of
floats and of integers, special functions, shared memory, L1, and its share of L2. A kernel takes at least as
long as its busiest pipe, which is busy for a certain share of the time, the constant ``overlap``. DRAM
serves all multiprocessors together. Blocks come in waves; a block alone takes its serial path, in which each
instruction, barrier and wait follows the one before. A wave with few blocks may be as long as that.

Kernels of warp groups (kernels/gemm/wgmma_tile.cuh) launch a block for each multiprocessor, which works on
several tiles. One warp starts copies, ahead of the two groups that multiply. Their serial path is the longer
of two: the instructions of the copies; or the products of a tile and then the way of its sums to memory, tile
after tile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cconvnet.profile.chips import Chip
from cconvnet.profile.facts import Facts, Part
from cconvnet.profile.passages import executed, passages

# Errors of the prediction of one kernel and of a whole step, as shares: before the constants are measured and
# after. The first are an estimate, until a measurement beside a prediction replaces it.
KERNEL_ERROR = {False: 0.35, True: 0.15}
STEP_ERROR = {False: 0.25, True: 0.12}

SECTOR = 32
_WARP = 32
_PIPES = ("tensor", "issue", "fp32", "integer", "special", "shared", "l1", "l2")
RESOURCES = (*_PIPES, "dram", "serial")

_FP32 = ("FFMA", "FADD", "FMUL", "HFMA2", "HADD2", "HMUL2", "FFMA2")
_SPECIAL = ("MUFU", "I2F", "F2I", "F2F", "DIVISION", "POPC", "FLO", "I2I", "FRND")
_MEMORY = ("LD", "ST", "RED", "ATOM")
_CONTROL = (
    "BRA", "BSSY", "BSYNC", "EXIT", "CALL", "RET", "NOP", "WARPSYNC", "DEPBAR", "BAR", "BRX", "YIELD",
    "SYNCS", "WARPGROUP", "FENCE", "MEMBAR", "ACQBULK", "PREEXIT",
)  # fmt: skip
# A product of two tiles by one instruction of a warp: 16 x 8 x 16 multiply-adds, of tf32s half as many. A
# warp's share of a product of a warp group has 16 rows too.
_TENSOR_FLOP = {True: 4096, False: 2048}
_TENSOR_COLUMNS = 8
# The warps of a block of warp groups that do not multiply: the last group, of which one warp copies.
_COPYING_WARPS = 4


def group_of(kind: str) -> str:
    """Return the group of a kind of instruction: a pipe, or memory, uniform or control.

    Source: the names of instructions in NVIDIA's documentation of cuobjdump.
    """
    name = kind.partition(".")[0]
    if name in ("HMMA", "IMMA", "HGMMA"):
        return "tensor"
    if name in _FP32 or name == "IMAD":
        return "fp32"
    if name in _SPECIAL:
        return "special"
    if name in ("LDGDEPBAR", "DEPBAR", *_CONTROL):
        return "control"
    if name.startswith(("LDS", "STS", "SHFL")):
        return "shared"
    if name.startswith(("LDC", "U", "R2UR", "S2UR", "S2R", "CS2R")):
        return "uniform"
    if name.startswith(_MEMORY):
        return "global"
    return "integer"


@dataclass(frozen=True)
class Traffic:
    """Memory traffic of a block, as counted in the emulator or estimated from its instructions.

    Attributes:
        sectors: Sectors of 32 bytes of global memory that its requests touch.
        least_sectors: The fewest that hold the bytes asked for.
        passed: Sectors that L1 does not serve: its misses, copies to shared memory, and stores.
        wavefronts: Passages through shared memory, conflicts included.
        least_wavefronts: Those without conflicts.
    """

    sectors: float
    least_sectors: float
    passed: float
    wavefronts: float
    least_wavefronts: float


@dataclass(frozen=True)
class Work:
    """The work of one launch.

    Attributes:
        grid: Its blocks.
        threads: Threads of a block.
        shared: Bytes of shared memory of a block.
        counted: Accesses, barriers and products of a warp, by kind of instruction.
        traffic: The memory traffic of a block.
        dram_bytes: Bytes from and to device memory of the whole launch.
        busiest: The work of the busiest block over the average.
    """

    grid: int
    threads: int
    shared: int
    counted: Mapping[str, float]
    traffic: Traffic
    dram_bytes: float
    busiest: float = 1.0

    @property
    def warps(self) -> int:
        """Return the warps of a block."""
        return -(-self.threads // _WARP)

    def of_busiest(self) -> Work:
        """Return the work if every block did that of the busiest one."""
        traffic = Traffic(*(number * self.busiest for number in vars(self.traffic).values()))
        counted = {kind: number * self.busiest for kind, number in self.counted.items()}
        return replace(self, counted=counted, traffic=traffic, busiest=1.0)


@dataclass(frozen=True)
class Prediction:
    """The predicted time of a launch.

    Attributes:
        seconds: The time, without the gap to the next kernel.
        cycles: Cycles of each resource in the launch: of the pipes of the busiest multiprocessor, of DRAM, of
            the serial path of all waves.
        blocks: Blocks that a multiprocessor holds at once.
        limit: The resource that allows no more.
        waves: Blocks over the blocks that the GPU holds at once.
        tail: The share of the time that is lost since the last wave is not full.
        instructions: Instructions of a warp, by kind.
        runs: How often a warp runs each part of the kernel.
    """

    seconds: float
    cycles: Mapping[str, float]
    blocks: int
    limit: str
    waves: float
    tail: float
    instructions: Mapping[str, float]
    runs: tuple[float, ...]

    @property
    def order(self) -> list[str]:
        """Return the resources, the one that binds first."""
        return sorted(self.cycles, key=lambda name: -self.cycles[name])


def predict(work: Work, facts: Facts, chip: Chip) -> Prediction:
    """Return the predicted time of a launch of a kernel."""
    if facts.has_warp_groups:
        # Each multiprocessor has one block, and the last one to end decides.
        work = work.of_busiest()
    runs = passages(facts.parts, work.counted)
    instructions = executed(facts.parts, runs)
    is_bf16 = "Tile<bfloat16" in facts.name
    pipes = pipe_cycles(instructions, work, chip, is_bf16)
    held = facts.occupancy(work.threads, work.shared)
    blocks = max(held.blocks, 1)
    overlap = chip["overlap"]
    busy = max(pipes.values()) / overlap
    path = serial_cycles(facts, runs, work, chip, is_bf16)
    sms = int(chip["multiprocessors"])
    full, rest = divmod(work.grid, sms * blocks)
    wave = max(blocks * busy, path)
    last = max(math.ceil(rest / sms) * busy, path) if rest else 0.0
    dram = work.dram_bytes / (chip["dram"] * 1e9 * overlap) * chip.hertz
    cycles = max(full * wave + last, dram)
    waves = work.grid / (sms * blocks)
    busiest = math.ceil(work.grid / sms)
    return Prediction(
        seconds=cycles / chip.hertz,
        cycles={
            **{name: busiest * own / overlap for name, own in pipes.items()},
            "dram": dram,
            "serial": math.ceil(waves) * path,
        },
        blocks=held.blocks,
        limit=held.limit,
        waves=waves,
        tail=max(0.0, 1 - max(waves * wave, dram) / cycles),
        instructions=instructions,
        runs=tuple(runs),
    )


def pipe_cycles(
    instructions: Mapping[str, float], work: Work, chip: Chip, is_bf16: bool = False
) -> dict[str, float]:
    """Return the cycles that a block keeps each pipe of a multiprocessor busy."""
    lanes = work.warps * _WARP
    groups: dict[str, float] = {}
    for kind, number in instructions.items():
        groups[group_of(kind)] = groups.get(group_of(kind), 0.0) + number
    multiplied = instructions.get("IMAD", 0)
    traffic = work.traffic
    return {
        "tensor": tensor_cycles(instructions, chip, is_bf16) * work.warps,
        "issue": sum(instructions.values()) * work.warps / chip["issue"],
        "fp32": lanes
        * ((groups.get("fp32", 0.0) - multiplied) / chip["fp32"] + multiplied / chip["integer"]),
        "integer": lanes * groups.get("integer", 0.0) / chip["integer"],
        "special": lanes * groups.get("special", 0.0) / chip["special"],
        "shared": (traffic.wavefronts + instructions.get("SHFL", 0) * work.warps) * 128 / chip["shared"],
        "l1": traffic.sectors * SECTOR / chip["l1"],
        "l2": traffic.passed * SECTOR / chip["l2"],
    }


def tensor_cycles(instructions: Mapping[str, float], chip: Chip, is_bf16: bool) -> float:
    """Return the cycles in which a multiprocessor's tensor cores do the products of a warp."""
    precision = "bf16" if is_bf16 else "tf32"
    cycles = 0.0
    for kind, number in instructions.items():
        if group_of(kind) == "tensor":
            columns = kind.partition(".")[2]
            rate = chip[f"tensor_{precision}_wgmma" if columns else f"tensor_{precision}"]
            products = int(columns) / _TENSOR_COLUMNS if columns else 1
            cycles += number * products * _TENSOR_FLOP[is_bf16] / rate
    return cycles


def serial_cycles(
    facts: Facts, runs: tuple[float, ...] | list[float], work: Work, chip: Chip, is_bf16: bool = False
) -> float:
    """Return the cycles of a block alone, whose instructions, barriers and waits follow each other."""
    if facts.has_warp_groups:
        return _serial_cycles_of_groups(facts, runs, work, chip, is_bf16)
    of_scheduler = max(1.0, work.warps / 4)
    product = _TENSOR_FLOP[is_bf16] * 4 / chip["tensor_bf16" if is_bf16 else "tensor_tf32"] * of_scheduler
    each = max(chip["alone"], of_scheduler)
    latency = _latency(work, chip)
    total = chip["block_start"]
    if any(kind.startswith("LDGSTS") for part in facts.parts for kind in part.code):
        total += latency
    for part, times in zip(facts.parts, runs, strict=True):
        products = sum(number for kind, number in part.code.items() if group_of(kind) == "tensor")
        passage = (
            products * product + (part.code.total() - products) * each + part.code["BAR"] * chip["barrier"]
        )
        total += times * (passage + _waiting(part, each, latency, chip))
    return total


def _latency(work: Work, chip: Chip) -> float:
    """Return the cycles from a load's start to its arrival."""
    from_dram = work.dram_bytes > work.grid * work.traffic.passed * SECTOR / 2
    return chip["dram_latency" if from_dram else "l2_latency"]


def _waiting(part: Part, each: float, latency: float, chip: Chip) -> float:
    """Return the cycles that a warp waits for loads in a passage of a part."""
    return sum(max(0.0, latency - distance * each) for distance in part.waits) + sum(
        max(0.0, chip["shared_latency"] - distance * each) for distance in part.shared_waits
    )


def _serial_cycles_of_groups(
    facts: Facts, runs: Sequence[float], work: Work, chip: Chip, is_bf16: bool
) -> float:
    """Return the serial path of a block of warp groups: of the warps that multiply, or the one that copies.

    Products run behind the other instructions of their loop, as each waits only for those of the step before.
    """
    multiplying = work.warps - _COPYING_WARPS
    each = max(chip["alone"], multiplying / 4)
    latency = _latency(work, chip)
    overlapped = facts.inside("HGMMA", innermost=True)
    products = tensor_cycles(executed(facts.parts, runs), chip, is_bf16) * work.warps / chip["overlap"]
    outer = {role: facts.inside(role, innermost=False) for role in ("HGMMA", "UTMALDG")}
    copies = stores = 0.0
    for number, (part, times) in enumerate(zip(facts.parts, runs, strict=True)):
        # Passages are an average of all warps of the block.
        if number in outer["UTMALDG"]:
            copies += times * work.warps * part.code.total() * chip["alone"]
        elif number in outer["HGMMA"] and number not in overlapped:
            passage = part.code.total() * each + part.code["BAR"] * chip["barrier"]
            stores += times * work.warps / multiplying * (passage + _waiting(part, each, latency, chip))
    return chip["block_start"] + latency + max(products + stores, copies)
