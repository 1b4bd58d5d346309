"""The profile of a training step as JSON values: facts, counts and predictions for each kernel."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cconvnet.devices import check_precision, get_device, machine
from cconvnet.devices.counting import Access, Launch
from cconvnet.formats.netfiles import AnyNet
from cconvnet.profile import chips, code, model, source
from cconvnet.profile.chips import Chip
from cconvnet.profile.facts import Facts
from cconvnet.profile.machine_code import read, short_name
from cconvnet.profile.model import SECTOR, Prediction, Traffic, Work, group_of
from cconvnet.profile.walk import Called, Observe, Walker, walk

WORST = 5
_KINDS = {
    ("load", "global"): "LDG",
    ("store", "global"): "STG",
    ("copy", "global"): "LDGSTS",
    ("load", "shared"): "LDS",
    ("store", "shared"): "STS",
    ("box_load", "global"): "UTMALDG",
    ("box_store", "global"): "UTMASTG",
}


def profile(
    net: AnyNet,
    *,
    batch: int | None = None,
    precision: str = "fp32",
    size: int | None = None,
    arch: str = chips.DEFAULT_ARCH,
    layer: str = "",
    part: str = "",
    impl: str = "",
    constants: Path | None = None,
    objects: Path | None = None,
    observe: Observe | None = None,
    runners_up: bool = True,
    by_line: bool = False,
    stepped: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Return what each kernel of a training step does, and the time it is predicted to take on a GPU.

    Args:
        net: A network, or its name or file, or the name of one that only `bench kernels` knows.
        batch: Images in a batch; None: the network's own.
        precision: One of cconvnet.devices.PRECISIONS.
        size: Height and width of the images; None: the network's own.
        arch: The architecture, one of those in chips.json.
        layer: Patterns of layers, separated by commas; empty: all.
        part: Patterns of passes.
        impl: A row of the selection tables that serves where it can, in place of the first choice.
        constants: A file of constants in place of the package's.
        objects: A folder of nvcc's objects whose kernels are profiled; None: the checkout's, if it has some.
        observe: Counts the launches of a call; None: nothing is counted, so nothing is predicted.
        runners_up: Whether the row that would be next is predicted too.
        by_line: Whether the instructions of each source line are counted, of kernels whose objects are there.
        stepped: Called with the number of operations counted so far, and that of all.

    Returns:
        ``kernels``, a row for each launch in the order of the step, and ``step``, their sums.
        docs/profiling.md explains the fields.

    Raises:
        ValueError: The text names the argument.
        DeviceUnavailable: The emulator was not built.
    """
    check_precision(precision)
    chip = chips.chip_of(arch, constants)
    known = code.kernels(arch, objects)
    walker = Walker(observe, layer, part, impl, runners_up, int(chip["multiprocessors"]))
    name, batch = walk(net, batch, precision, size, walker)
    if not walker.found:
        raise ValueError(
            f"no operation of {name} is of --layer {layer or '*'} and --pass {part or '*'}; "
            f"its layers are {', '.join(walker.layers)}"
        )
    if impl and not any(called.row == impl for called in walker.found):
        served = dict.fromkeys(
            row for called in walker.found for row in (called.row, called.runner_up) if row
        )
        raise ValueError(
            f"--impl must be a row that serves one of the operations, such as {', '.join(served)}"
        )
    walker.count(stepped)
    kernels = [row for called in walker.found for row in rows(called, known, chip, precision, by_line)]
    return {
        "what": "profile",
        "machine": machine.describe(get_device("emulator:0"), clocks=False),
        "net": name,
        "batch": batch,
        "precision": precision,
        "arch": arch,
        "chip": chips.to_dict(chip),
        "code": known.source,
        "counted": observe is not None,
        "kernels": kernels,
        "step": {"whole": not (layer or part or impl)} | step(kernels, chip),
    }


# ---- one launch -------------------------------------------------------------------------------------------


def rows(
    called: Called, known: code.Kernels, chip: Chip, precision: str, by_line: bool = False
) -> Iterable[dict[str, Any]]:
    """Yield a row for each launch of a call; without launches one for the call."""
    floor = max(called.flops / chip.peak(precision), called.bytes / (chip["dram"] * 1e9))
    base: dict[str, Any] = {
        "layer": called.layer,
        "pass": called.part,
        "operation": called.operation,
        "problem": called.problem,
        "row": called.row,
        "runner_up": {"row": called.runner_up} if called.runner_up else None,
        "flops": called.flops,
        "least_bytes": called.bytes,
        "floor_seconds": floor,
        "beside": called.beside,
        "multiprocessors": called.multiprocessors,
    }
    chip = chip.with_multiprocessors(called.multiprocessors)
    if not called.launches:
        facts = known.of_row(called.row)
        yield base | (_facts_row(facts, None) if facts else {})
        return
    main = largest(called.launches)
    for launch in called.launches:
        row = dict(base)
        if launch is not main:
            row |= {"runner_up": None, "flops": 0, "least_bytes": 0, "floor_seconds": 0.0}
        kernel = short_name(launch.kernel)
        facts = known.find(kernel)
        work = work_of(launch, called.bytes if launch is main else None, chip)
        row |= {"kernel": kernel} | _counted_row(launch, work)
        if facts is None:
            yield row | {"missing": f"no machine code of {kernel} for {chip.arch}"}
            continue
        found = model.predict(work, facts, chip)
        row |= _facts_row(facts, found) | _predicted_row(found, row, chip)
        path = known.object_of(facts.name)
        if by_line and path is not None:
            row["lines"]["instructions"] = _instructions_by_line(path, facts, found)
        if launch is main and called.runner_up_launches:
            seconds = _seconds(called.runner_up_launches, called.bytes, known, chip)
            row["runner_up"] = {"row": called.runner_up, "seconds": seconds}
        yield row


def _instructions_by_line(path: Path, facts: Facts, found: Prediction) -> list[dict[str, Any]]:
    """Return the source lines with the most instructions of a warp."""
    kernel = next(kernel for kernel in read(path, facts.arch) if kernel.name == facts.name)
    lines = source.instructions_by_line(kernel, found.runs, source.lines_of(path, facts.arch, facts.name))
    total = sum(found.instructions.values())
    return [
        {"line": line, "instructions": number, "share": number / total}
        for line, number in lines.most_common(WORST)
    ]


def largest(launches: Sequence[Launch]) -> Launch:
    """Return the launch that does an operation's work; others sum up what it left."""

    def weight(one: Launch) -> tuple[bool, float]:
        multiplies = any(operation.name.startswith("wgmma.") for operation in one.operations)
        return multiplies, sum(_scaled(one, access.requests) for access in one.accesses)

    return max(launches, key=weight)


def _seconds(launches: Sequence[Launch], least_bytes: int, known: code.Kernels, chip: Chip) -> float | None:
    """Return the predicted time of a call; None without the machine code of a kernel."""
    total, main = 0.0, largest(launches)
    for launch in launches:
        facts = known.find(short_name(launch.kernel))
        if facts is None:
            return None
        total += model.predict(
            work_of(launch, least_bytes if launch is main else None, chip), facts, chip
        ).seconds
    return total


def _scaled(launch: Launch, number: float) -> float:
    """Return a number of the blocks that ran for the whole grid."""
    return number * launch.blocks / max(launch.blocks_run, 1)


def work_of(launch: Launch, least_bytes: int | None, chip: Chip) -> Work:
    """Return the work of a launch, each block like the average of those that ran.

    Args:
        launch: The launch.
        least_bytes: The least bytes of the operation, if this launch does its work. DRAM moves no more, since
            what is read again is still in L2. None for a launch that adds up partial results: what L2 holds
            it reads from there.
        chip: The GPU.
    """
    blocks = max(launch.blocks_run, 1)
    warps = blocks * -(-launch.threads // 32)
    counted: dict[str, float] = {}
    for access in launch.accesses:
        one = access.instruction
        kind = "LDSM" if one.kind == "matrix" else _KINDS.get((one.kind, one.space))
        if kind is not None:
            name = kind if kind in _WITHOUT_BYTES else f"{kind}.{one.bytes}"
            counted[name] = counted.get(name, 0.0) + access.requests / warps
    for operation in launch.operations:
        for begin, kind in _OPERATIONS.items():
            if operation.name.startswith(begin):
                name = kind + (_columns(operation.name) if kind == "HGMMA" else "")
                counted[name] = counted.get(name, 0.0) + operation.warps / warps
    traffic = traffic_of(launch.accesses, blocks)
    moved = traffic.passed * SECTOR * launch.blocks
    dram = max(0.0, moved - chip["l2_bytes"]) if least_bytes is None else float(least_bytes)
    return Work(launch.blocks, launch.threads, launch.block_shared, counted, traffic, dram, launch.busiest)


_WITHOUT_BYTES = ("LDSM", "UTMALDG", "UTMASTG")
# How the names of operations of whole warps begin.
_OPERATIONS = {
    "__syncthreads": "BAR", "mma.": "HMMA", "__shfl": "SHFL", "wgmma.mma_async": "HGMMA",
    "mbarrier.try_wait": "SYNCS",
}  # fmt: skip


def _columns(product: str) -> str:
    """Return ".128" of wgmma.mma_async.m64n128k16."""
    found = re.search(r"n(\d+)k", product)
    assert found
    return f".{found[1]}"


def traffic_of(accesses: Iterable[Access], blocks: int) -> Traffic:
    """Return the traffic of a block as the average of some blocks."""
    sectors = least = passed = wavefronts = least_wavefronts = 0
    for access in accesses:
        if access.instruction.space == "global":
            sectors += access.sectors
            least += access.least_sectors
            passed += access.misses if access.instruction.kind == "load" else access.sectors
        else:
            wavefronts += access.wavefronts
            least_wavefronts += access.least_wavefronts
    return Traffic(*(number / blocks for number in (sectors, least, passed, wavefronts, least_wavefronts)))


# ---- parts of a row ---------------------------------------------------------------------------------------


def _counted_row(launch: Launch, work: Work) -> dict[str, Any]:
    """Return what was counted of a launch, for its whole grid."""
    loads = [access for access in launch.accesses if access.instruction.space == "global"]
    shared = [access for access in launch.accesses if access.instruction.space == "shared"]
    traffic, grid = work.traffic, launch.blocks
    return {
        "grid": grid,
        "threads": launch.threads,
        "shared_bytes": launch.block_shared,
        "blocks_run": launch.blocks_run,
        "barriers": work.counted.get("BAR", 0.0),
        "phase_waits": work.counted.get("SYNCS", 0.0),
        "asked_bytes": _scaled(launch, sum(access.bytes for access in loads)),
        "l2_bytes": traffic.passed * SECTOR * grid,
        "dram_bytes": work.dram_bytes,
        "sectors": traffic.sectors * grid,
        "least_sectors": traffic.least_sectors * grid,
        "sectors_per_request": _ratio(sum(a.sectors for a in loads), sum(a.requests for a in loads)),
        "wavefronts": traffic.wavefronts * grid,
        "least_wavefronts": traffic.least_wavefronts * grid,
        "conflict_ways": _ratio(traffic.wavefronts, traffic.least_wavefronts),
        "lines": {
            "sectors": _worst(launch, loads, "sectors", "least_sectors"),
            "conflicts": _worst(launch, shared, "wavefronts", "least_wavefronts"),
        },
    }


def _ratio(value: float, of: float) -> float | None:
    return value / of if of else None


def _worst(launch: Launch, accesses: Iterable[Access], key: str, least: str) -> list[dict[str, Any]]:
    """Return the source lines that lose the most sectors or wavefronts, for the whole grid."""
    lines: dict[tuple[str, str], list[int]] = {}
    for access in accesses:
        own = lines.setdefault((str(access.line), access.instruction.kind), [0, 0, 0])
        for index, number in enumerate((access.requests, getattr(access, key), getattr(access, least))):
            own[index] += number
    ordered = sorted(lines.items(), key=lambda one: (one[1][2] - one[1][1], -one[1][1], one[0]))
    return [
        {
            "line": place,
            "kind": kind,
            "requests": _scaled(launch, requests),
            key: _scaled(launch, number),
            least: _scaled(launch, fewest),
        }
        for (place, kind), (requests, number, fewest) in ordered[:WORST]
    ]


def _facts_row(facts: Facts, found: Prediction | None) -> dict[str, Any]:
    """Return what the machine code shows."""
    held = facts.occupancy(facts.threads, facts.shared)
    mix: dict[str, float] = {}
    hot = facts.hot_loop(found.runs if found else None)
    for kind, number in hot.items():
        mix[group_of(kind)] = mix.get(group_of(kind), 0.0) + number
    return {
        "kernel": facts.name,
        "file": facts.file,
        "registers": facts.registers,
        "code_shared_bytes": facts.shared,
        "blocks_per_multiprocessor": found.blocks if found else held.blocks,
        "limit": found.limit if found else held.limit,
        "follows": facts.follows,
        "hot_loop": dict(sorted(mix.items(), key=lambda one: -one[1])),
        "hot_loop_kinds": dict(hot),
    }


def _predicted_row(found: Prediction, row: Mapping[str, Any], chip: Chip) -> dict[str, Any]:
    error = model.KERNEL_ERROR[chip.measured]
    first, second = found.order[:2]
    return {
        "waves": found.waves,
        "tail": found.tail,
        "instructions": dict(found.instructions),
        "cycles": dict(found.cycles),
        "seconds": found.seconds,
        "least_seconds": found.seconds / (1 + error),
        "most_seconds": found.seconds * (1 + error),
        "binds": first,
        "binds_next": second,
        "lost_seconds": found.seconds - row["floor_seconds"],
        "instructions_per_product": _per_product(found.instructions, row),
    }


def _per_product(instructions: Mapping[str, float], row: Mapping[str, Any]) -> float | None:
    """Return instructions of a thread for each multiply-add that is needed; None without products."""
    threads: int = row["grid"] * row["threads"]
    products: float = row["flops"] / 2
    return sum(instructions.values()) * threads / products if products else None


# ---- the step ---------------------------------------------------------------------------------------------


def step(kernels: Sequence[Mapping[str, Any]], chip: Chip) -> dict[str, Any]:
    """Return the sums of the step; without predictions only the floor."""
    floor = sum(row["floor_seconds"] for row in kernels)
    missing = sorted({row["missing"] for row in kernels if "missing" in row})
    sums: dict[str, Any] = {"floor_seconds": floor, "missing": missing}
    predicted = [row for row in kernels if "seconds" in row]
    if not predicted or missing:
        return sums
    gaps = sum(_gap(row, chip) for row in predicted)
    kernel_seconds = sum(row["seconds"] for row in predicted)
    seconds = elapsed(predicted, chip)
    error = model.STEP_ERROR[chip.measured]
    return sums | {
        "kernels": len(predicted),
        "kernel_seconds": kernel_seconds,
        "gap_seconds": gaps,
        "hidden_seconds": max(0.0, kernel_seconds + gaps - seconds),
        "seconds": seconds,
        "least_seconds": seconds / (1 + error),
        "most_seconds": seconds * (1 + error),
        "lost_seconds": seconds - floor,
    }


def elapsed(kernels: Sequence[Mapping[str, Any]], chip: Chip) -> float:
    """Return the seconds from the first kernel's begin to the last one's end.

    Kernels follow each other, each behind a gap. Those of a branch follow each other beside kernels that use
    a part of the multiprocessors, and share device memory with them. A kernel that uses all of them waits
    until the branch has ended. Where no kernel leaves room, the branch takes turns with the rest.
    """
    divides = any(row["multiprocessors"] for row in kernels)
    rest = branch = in_memory = 0.0
    for row in kernels:
        seconds = row["seconds"] + _gap(row, chip)
        if divides and (row["beside"] or row["multiprocessors"]):
            in_memory = max(in_memory, rest) + row["dram_bytes"] / (chip["dram"] * 1e9 * chip["overlap"])
        if divides and row["beside"]:
            branch = max(branch, rest) + seconds
        elif row["multiprocessors"]:
            rest += seconds
        else:
            rest = max(rest, branch, in_memory) + seconds
    return max(rest, branch, in_memory)


def _gap(row: Mapping[str, Any], chip: Chip) -> float:
    """Return the seconds from the kernel ahead to this one."""
    return min(chip["node"], chip["node_following"] if row["follows"] else chip["node"]) * 1e-6
