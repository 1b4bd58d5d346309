"""Diagnosis of an installation: a finding for each fact, with the command that fixes a problem."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Literal

import cconvnet
from cconvnet.devices.modules import build_command
from cconvnet.devices.proofs import archs_of, runs_on
from cconvnet.doctor.survey import PACKAGES, Facts, Gpu, survey
from cconvnet.system.installation import pip_install, rebuild

State = Literal["ok", "note", "problem"]

_OLDEST_PYTHON = (3, 11)
# Oldest compute capability that a build's portable code runs on.
_PORTABLE = (7, 5)
# First driver of each version of CUDA. Source: CUDA Toolkit release notes, "CUDA Driver".
_DRIVERS = {11: 450, 12: 525, 13: 580}
_DRIVERS_PAGE = "https://www.nvidia.com/drivers"
_ENOUGH_DISK, _ENOUGH_MEMORY = 2e9, 1e9  # bytes
_ENOUGH_OPEN_FILES = 256
_NEEDED = ("numpy", "pillow", "safetensors")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        what: The thing that was examined.
        state: Whether it is fine, worth a note, or a problem.
        text: The finding.
        fix: The command or step that fixes a problem, or nothing.
    """

    what: str
    state: State
    text: str
    fix: str = ""


def examine(facts: Facts | None = None) -> list[Finding]:
    """Diagnose an installation.

    Args:
        facts: The facts; without them this machine is surveyed.

    Returns:
        The findings in reading order.
    """
    facts = facts or survey()
    judges = (_system, _processor, _memory, _disk, _gpus, _toolkit, _modules, _rows, _devices, _packages)
    return [finding for judge in judges for finding in judge(facts)]


def can_train(findings: list[Finding]) -> bool:
    """Return whether any device can train."""
    return any(f.what.startswith("device ") and f.state == "ok" for f in findings)


def _system(facts: Facts) -> Iterator[Finding]:
    yield Finding("cconvnet", "ok", f"{cconvnet.__version__} in {cconvnet.__path__[0]}")
    python = f"{'.'.join(map(str, facts.python))} at {facts.executable}"
    if facts.python >= _OLDEST_PYTHON:
        yield Finding("python", "ok", python)
    else:
        oldest = ".".join(map(str, _OLDEST_PYTHON))
        yield Finding(
            "python", "problem", f"{python}; {oldest} or newer is needed", f"install Python {oldest}"
        )
    yield Finding("platform", "ok", facts.system)
    if facts.open_files < _ENOUGH_OPEN_FILES:
        text = f"only {facts.open_files} files may be open at a time"
        yield Finding("open files", "note", text, "ulimit -n 1024")


def _processor(facts: Facts) -> Iterator[Finding]:
    known = f", {', '.join(facts.instructions)}" if facts.instructions else ""
    yield Finding("cpu", "ok", f"{facts.cores} cores for this process, {facts.processor}{known}")
    usable = facts.cores if facts.quota is None else min(facts.cores, facts.quota)
    threads = facts.variables.get("OMP_NUM_THREADS")
    fitting = max(1, int(usable))
    if facts.quota is not None and facts.quota < facts.cores and threads is None:
        text = f"a quota of {facts.quota:g} of the {facts.cores} cores; more threads wait for each other"
        yield Finding("threads", "note", text, f"export OMP_NUM_THREADS={fitting}")
    elif threads is not None and not threads.split(",")[0].isdecimal():
        text = f"OMP_NUM_THREADS={threads} is not a number"
        yield Finding("threads", "note", text, "unset OMP_NUM_THREADS")
    elif threads is not None and int(threads.split(",")[0]) != fitting:
        text = f"OMP_NUM_THREADS={threads}, but {fitting} cores can be used"
        yield Finding("threads", "note", text, f"export OMP_NUM_THREADS={fitting}")
    if granted := re.search(r"\d+ threads?, of \d+ asked for \((\w+)?.*\)", facts.modules.get("cpu") or ""):
        cause = granted[1] or ""
        fix = f"unset {cause}" if cause.startswith("OMP_") else f"export OMP_NUM_THREADS={fitting}"
        yield Finding("threads", "note", granted[0], fix)
    if facts.variables.get("OMP_WAIT_POLICY", "").lower() == "active":
        text = "OMP_WAIT_POLICY=active: waiting threads keep cores busy that others need"
        yield Finding("threads", "note", text, "unset OMP_WAIT_POLICY")
    if (instructions := facts.variables.get("ONEDNN_MAX_CPU_ISA")) is not None:
        text = f"ONEDNN_MAX_CPU_ISA={instructions} limits the instructions that oneDNN uses"
        yield Finding("cpu", "note", text, "unset ONEDNN_MAX_CPU_ISA")


def _memory(facts: Facts) -> Iterator[Finding]:
    of = facts.memory_limit or f"{facts.memory / 1e9:.1f} GB"
    text = f"{facts.free_memory / 1e9:.1f} GB free of {of}, {facts.malloc}"
    if facts.free_memory < _ENOUGH_MEMORY:
        fix = "close other programs, or train with a smaller --batch"
        yield Finding("memory", "note", f"{text}; AlexNet at batch 128 needs 1.6 GB", fix)
    else:
        yield Finding("memory", "ok", text)


def _disk(facts: Facts) -> Iterator[Finding]:
    text = f"{facts.free_disk / 1e9:.1f} GB free for {facts.runs}"
    fix = "cconvnet train --out FOLDER with a folder on another disk"
    if not facts.runs_writable:
        yield Finding("disk", "problem", f"{facts.runs} cannot be written", fix)
    elif facts.free_disk < _ENOUGH_DISK:
        yield Finding("disk", "note", f"{text}; three checkpoints of AlexNet need 1.5 GB", fix)
    else:
        yield Finding("disk", "ok", text)


def _gpus(facts: Facts) -> Iterator[Finding]:
    if not facts.gpus:
        if facts.gpus_seen:
            text = f"{facts.gpus_seen} NVIDIA GPU(s) in this machine, but no driver responds"
            fix = f"install NVIDIA's driver ({_DRIVERS_PAGE}); in a container: docker run --gpus all"
            yield Finding("driver", "problem", text, fix)
        return
    assert facts.driver is not None
    text = facts.driver
    if facts.driver_cuda is not None:
        text += f", for CUDA up to {facts.driver_cuda[0]}.{facts.driver_cuda[1]}"
    built = _cuda_of(facts.modules.get("cuda"))
    if built is not None and facts.driver_cuda is not None and facts.driver_cuda[0] < built[0]:
        text += f", is too old: this package was built with CUDA {built[0]}.{built[1]}"
        least = f" {_DRIVERS[built[0]]} or newer" if built[0] in _DRIVERS else ""
        older = rebuild(f"CUDA_HOME=/usr/local/cuda-{facts.driver_cuda[0]} CCONVNET_CUDA=on")
        fix = f"install driver{least} ({_DRIVERS_PAGE}), or build with an older toolkit: {older}"
        yield Finding("driver", "problem", text, fix)
    else:
        yield Finding("driver", "ok", text)
    archs = archs_of(facts.modules.get("cuda"))
    for index, gpu in enumerate(facts.gpus):
        yield _gpu(f"gpu {index}", gpu, archs)


def _gpu(what: str, gpu: Gpu, archs: list[str] | None) -> Finding:
    major, minor = gpu.capability
    about = f"{gpu.name}, compute capability {major}.{minor}, {gpu.memory_bytes / 1e9:.1f} GB"
    if gpu.capability < _PORTABLE:
        least = ".".join(map(str, _PORTABLE))
        fix = "train on the CPU: --device cpu:0"
        return Finding(what, "problem", f"{about}; {least} or newer is needed", fix)
    if archs is None or any(runs_on(arch, gpu.capability) for arch in archs):
        return Finding(what, "ok", about)
    # From Hopper on, some instructions exist only under the chip's architecture-specific name.
    wanted = f"{major}{minor}{'a' if gpu.capability == (9, 0) else ''}"
    fix = rebuild(f"CCONVNET_ARCHS={wanted} CCONVNET_CUDA=on")
    if "ptx" in archs:
        text = f"{about}; this package was built for {' '.join(archs)}"
        text += ", so portable code without tensor cores runs"
        return Finding(what, "note", text, fix)
    return Finding(what, "problem", f"{about}; this package was built only for {' '.join(archs)}", fix)


def _cuda_of(build: str | None) -> tuple[int, int] | None:
    found = re.search(r"CUDA (\d+)\.(\d+)", build or "")
    return (int(found[1]), int(found[2])) if found else None


def _toolkit(facts: Facts) -> Iterator[Finding]:
    if facts.nvcc is not None:
        yield Finding("nvcc", "ok", facts.nvcc)
    elif facts.gpus and facts.modules.get("cuda") is None:
        text = "not found; it builds the CUDA module for the GPU"
        yield Finding("nvcc", "problem", text, _INSTALL_TOOLKIT)
    else:
        yield Finding("nvcc", "note", "not found; needed only to build for GPUs", _INSTALL_TOOLKIT)


_INSTALL_TOOLKIT = "install the CUDA toolkit (https://developer.nvidia.com/cuda-downloads)"


def _modules(facts: Facts) -> Iterator[Finding]:
    for kind, build in facts.modules.items():
        what = f"module _{kind}"
        fix = build_command(kind) if kind in _USES else rebuild()
        if kind in facts.broken:
            reason = facts.broken[kind]
            if kind == "cpu" and "libgomp" in reason:
                fix = "apt-get install libgomp1, or your system's package of GCC's OpenMP"
            elif kind == "cpu" and "dnnl" in reason:
                fix = pip_install("onednn-cpu-gomp")
            yield Finding(what, "problem", f"cannot be loaded: {reason}", fix)
        elif build is not None:
            yield Finding(what, "ok", build)
        elif _not_needed(kind, facts):
            yield Finding(what, "note", f"not built; {_USES[kind]}", fix)
        elif kind == "cuda" and facts.nvcc is None:
            yield Finding(what, "problem", "not built", f"{_INSTALL_TOOLKIT}, then: {fix}")
        else:
            yield Finding(what, "problem", "not built", fix)


_USES = {
    "cpu": "it trains fast on the CPU",
    "emulator": "it runs the CUDA kernels without a GPU",
    "cuda": "it trains on GPUs",
}


def _not_needed(kind: str, facts: Facts) -> bool:
    """Return whether this machine trains at full speed without a module that is not built."""
    if kind == "cpu":
        return bool(facts.gpus) and facts.modules.get("cuda") is not None
    return kind == "emulator" or (kind == "cuda" and not facts.gpus)


def _rows(facts: Facts) -> Iterator[Finding]:
    for proof in facts.proofs:
        if not proof.waiting:
            if proof.rows:
                yield Finding("rows", "ok", f"all {len(proof.rows)} are proven on {proof.architecture}")
            continue
        count, proven = len(proof.waiting), len(proof.rows)
        wait, them = ("waits", "it") if count == 1 else ("wait", "them")
        some = f", {proven} {'is' if proven == 1 else 'are'} proven" if proven else ""
        text = f"{count} {wait} for a proof on {proof.architecture}{some}"
        text += f" (CCONVNET_ROWS=unproven opens {them})"
        text += "".join(f"; {reason}" for reason in proof.reasons)
        yield Finding("rows", "note" if facts.gpus else "ok", text, "make gpu-report" if facts.gpus else "")


def _devices(facts: Facts) -> Iterator[Finding]:
    for name, (text, works) in facts.devices.items():
        what = f"device {name}"
        kind = name.partition(":")[0]
        if works:
            yield Finding(what, "ok", text)
            continue
        built = facts.modules.get(kind) is not None or kind in facts.broken
        fix = build_command(kind)
        if kind == "cuda" and built and facts.packages.get("cupy") is None:
            fix = _install_cupy(facts)
        if kind == "cuda" and not facts.gpus:
            yield Finding(what, "note", text)
        elif not built and _not_needed(kind, facts):
            yield Finding(what, "note", text.partition("; to build it: ")[0], fix)
        else:
            yield Finding(what, "problem", text.partition("; to build it: ")[0], fix)
    if facts.default is not None:
        yield Finding("default", "ok", f"{facts.default} is used if no --device is given")


def _install_cupy(facts: Facts) -> str:
    """Return the command that installs CuPy for the newest CUDA that the driver supports.

    CuPy compiles kernels of its own with a CUDA toolkit, or with the libraries of its extra ``ctk``.
    """
    old = facts.driver_cuda is not None and facts.driver_cuda[0] == 12
    package = f"cupy-cuda{12 if old else 13}x"
    return pip_install(package if facts.nvcc is not None else f"'{package}[ctk]'")


def _packages(facts: Facts) -> Iterator[Finding]:
    for what, version in facts.packages.items():
        distributions, use = PACKAGES[what]
        if version is not None:
            yield Finding(what, "ok", version)
        elif what == "oneDNN" and what in (facts.modules.get("cpu") or ""):
            continue  # a wheel contains it, or the system does; the module's line names it
        elif what in _NEEDED:
            yield Finding(what, "problem", "missing", pip_install(distributions[0]))
        elif what == "cupy" and facts.gpus:
            yield Finding(what, "problem", f"missing; needed for {use}", _install_cupy(facts))
        else:
            yield Finding(what, "note", f"missing; needed for {use}", pip_install(distributions[0]))
