"""Blocks of a kernel that a multiprocessor of a compute capability holds at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Multiprocessor:
    """Resources of one multiprocessor of a compute capability. All have 65,536 registers in four partitions.

    Sources: "Technical Specifications per Compute Capability" in NVIDIA's CUDA C++ Programming Guide; the
    granularity of allocation from the toolkit's cuda_occupancy.h.
    """

    warps: int
    blocks: int
    shared: int
    # Bytes that the system takes from each block's share.
    reserved: int = 1024


_KIB = 1024
MULTIPROCESSORS = {
    "75": Multiprocessor(warps=32, blocks=16, shared=64 * _KIB, reserved=0),
    "80": Multiprocessor(warps=64, blocks=32, shared=164 * _KIB),
    "86": Multiprocessor(warps=48, blocks=16, shared=100 * _KIB),
    "89": Multiprocessor(warps=48, blocks=24, shared=100 * _KIB),
    "90": Multiprocessor(warps=64, blocks=32, shared=228 * _KIB),
    "100": Multiprocessor(warps=64, blocks=32, shared=228 * _KIB),
    "120": Multiprocessor(warps=48, blocks=24, shared=100 * _KIB),
}


def capability(arch: str) -> str:
    """Return `90` of `sm_90a`.

    Raises:
        ValueError: The architecture is not in MULTIPROCESSORS.
    """
    number = arch.removeprefix("sm_").rstrip("af")
    if number not in MULTIPROCESSORS:
        known = ", ".join(f"sm_{name}" for name in MULTIPROCESSORS)
        raise ValueError(f"arch must be one of {known}, perhaps with an a; not {arch!r}")
    return number


@dataclass(frozen=True)
class Occupancy:
    """Use of a multiprocessor by the blocks of one kernel.

    Attributes:
        blocks: Blocks that a multiprocessor holds at once; 0 if not even one fits.
        warps: The warps of those blocks.
        share: Their share of the warps it could hold.
        limit: The resource that is used up first: warps, blocks, registers or shared memory.
    """

    blocks: int
    warps: int
    share: float
    limit: str


def occupancy(arch: str, registers: int, shared: int, threads: int) -> Occupancy:
    """Return the occupancy of a block of `threads`, each with `registers`, and `shared` bytes."""
    chip = MULTIPROCESSORS[capability(arch)]
    warps = -(-threads // 32)
    # A warp takes registers in units of 256, all from the partition on which it runs.
    warp_registers = -(-registers * 32 // 256) * 256
    warps_of_partition = 65536 // 4 // warp_registers
    block_shared = -(-(shared + chip.reserved) // 128) * 128
    limits = {
        "warps": chip.warps // warps,
        "blocks": chip.blocks,
        "registers": 4 * warps_of_partition // warps,
        "shared memory": chip.shared // block_shared if block_shared else chip.blocks,
    }
    # Warps come first: if all are in use, no other limit matters.
    limit = min(limits, key=lambda name: limits[name])
    held = limits[limit] * warps
    return Occupancy(limits[limit], held, held / chip.warps, limit)
