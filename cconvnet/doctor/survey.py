"""Survey of a machine: the facts behind a diagnosis, without any judgement."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cconvnet import devices
from cconvnet.devices.modules import load_onednn
from cconvnet.devices.proofs import Proof, architecture_of, archs_of, find_proof
from cconvnet.system import memory

# By name: the distributions that provide it, of which the first is the one to install, and its use.
PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "numpy": (("numpy",), ""),
    "pillow": (("pillow",), ""),
    "safetensors": (("safetensors",), ""),
    "oneDNN": (("onednn-cpu-gomp",), "fast training on the CPU"),
    "simplejpeg": (("simplejpeg",), "faster JPEG decoding"),
    "matplotlib": (("matplotlib",), "pictures of runs"),
    "tensorboard": (("tensorboard",), "train --tensorboard"),
    "cupy": (("cupy-cuda13x", "cupy-cuda12x", "cupy"), "training on GPUs"),
}
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "ONEDNN_MAX_CPU_ISA")


@dataclasses.dataclass(frozen=True)
class Gpu:
    """GPU that the driver reports.

    Attributes:
        name: Its name.
        capability: Its compute capability, such as (9, 0).
        memory_bytes: Its memory.
    """

    name: str
    capability: tuple[int, int]
    memory_bytes: int


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts about a machine.

    Attributes:
        python: The interpreter's version.
        executable: The interpreter's file.
        system: The operating system.
        modules: Build information of each compiled module by its name without the underscore; None for a
            module that does not exist.
        broken: The reason why a module that exists cannot be loaded, by its name.
        devices: The description of each device by its name, and whether it works.
        default: The device that is used if none is named.
        gpus: The GPUs that the driver reports.
        gpus_seen: The number of NVIDIA GPUs in the machine, with or without a driver.
        driver: The driver's release; None without a driver.
        driver_cuda: The newest CUDA that the driver supports; None without a driver.
        nvcc: The compiler's release and file.
        proofs: What is proven for each architecture with kernels that need a proof, of the GPUs here or else
            of the build.
        packages: Versions by the names in PACKAGES.
        processor: The processor's name.
        instructions: Its instruction sets that matter for speed.
        cores: The number of cores of this process.
        quota: The number of cores that a control group lets it use at a time; None without a limit.
        memory: Bytes of memory.
        free_memory: Bytes of memory that are free.
        memory_limit: The limit that applies, if it is not the machine's memory.
        runs: The folder of runs.
        runs_writable: Whether it can be written to.
        free_disk: Bytes that are free on its disk.
        open_files: The number of files that this process may open.
        malloc: The allocator and its settings.
        variables: Environment variables that affect speed.
    """

    python: tuple[int, ...] = (3, 11)
    executable: str = ""
    system: str = ""
    modules: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    broken: Mapping[str, str] = dataclasses.field(default_factory=dict)
    devices: Mapping[str, tuple[str, bool]] = dataclasses.field(default_factory=dict)
    default: str | None = None
    gpus: tuple[Gpu, ...] = ()
    gpus_seen: int = 0
    driver: str | None = None
    driver_cuda: tuple[int, int] | None = None
    nvcc: str | None = None
    proofs: tuple[Proof, ...] = ()
    packages: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    processor: str = ""
    instructions: tuple[str, ...] = ()
    cores: int = 1
    quota: float | None = None
    memory: int = 0
    free_memory: int = 0
    memory_limit: str = ""
    runs: str = "runs"
    runs_writable: bool = True
    free_disk: int = 0
    open_files: int = 0
    malloc: str = ""
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)


def survey() -> Facts:
    """Collect the facts about this machine."""
    # First, because loading the modules sets variables that are not set.
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    modules, broken = _built()
    gpus, driver = _driver_gpus()
    runs = Path("runs").absolute()
    return Facts(
        python=sys.version_info[:3],
        executable=sys.executable,
        system=platform.platform(),
        modules=modules,
        broken=broken,
        devices=_present_devices(),
        default=_default(),
        gpus=gpus,
        gpus_seen=_pci_gpus(),
        driver=driver,
        driver_cuda=_driver_cuda(),
        nvcc=_nvcc(),
        proofs=_proofs(gpus) if modules["cuda"] else (),
        packages={what: _version(names) for what, (names, _) in PACKAGES.items()},
        **_processor_facts(),
        **_memory_facts(),
        runs=str(runs),
        runs_writable=os.access(runs if runs.exists() else runs.parent, os.W_OK),
        free_disk=shutil.disk_usage(runs if runs.exists() else runs.parent).free,
        open_files=_open_files(),
        malloc=_malloc(),
        variables=variables,
    )


def _built() -> tuple[dict[str, str | None], dict[str, str]]:
    """Return the build information of each module, and the reasons why some cannot be loaded."""
    modules: dict[str, str | None] = {}
    broken = {}
    for kind in ("problem", "pixels", "cpu", "emulator", "cuda"):
        modules[kind] = None
        if importlib.util.find_spec(f"cconvnet._{kind}") is None:
            continue
        try:
            if kind == "cpu":
                load_onednn()
            module = importlib.import_module(f"cconvnet._{kind}")
            modules[kind] = module.build_info() if hasattr(module, "build_info") else "built"
        except ImportError as error:
            broken[kind] = str(error)
    return modules, broken


def _driver_gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """Return the GPUs that the driver reports, and its release."""
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    gpus, driver = [], None
    for line in _output("nvidia-smi", query, "--format=csv,noheader,nounits").splitlines():
        fields = [field.strip() for field in line.split(",")]
        with contextlib.suppress(ValueError):
            name, capability, memory, driver = fields
            major, _, minor = capability.partition(".")
            gpus.append(Gpu(name, (int(major), int(minor)), int(memory) * 2**20))
    return tuple(gpus), driver if gpus else None


def _driver_cuda() -> tuple[int, int] | None:
    """Return the newest CUDA that the driver supports."""
    with contextlib.suppress(OSError, AttributeError):
        version = ctypes.c_int()
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) == 0:
            return version.value // 1000, version.value % 1000 // 10
    return None


def _pci_gpus() -> int:
    """Count the NVIDIA display controllers on the PCI bus."""
    count = 0
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
            count += vendor.strip() == "0x10de" and kind.startswith("0x03")
    return count


def _nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    folders = [f"{home}/bin"] if home else []
    nvcc = next(
        (
            found
            for path in (*folders, None, "/usr/local/cuda/bin")
            if (found := shutil.which("nvcc", path=path))
        ),
        None,
    )
    if nvcc is None:
        return None
    release = next((line for line in _output(nvcc, "--version").splitlines() if "release" in line), "")
    return f"{release.strip()} at {nvcc}"


def _proofs(gpus: tuple[Gpu, ...]) -> tuple[Proof, ...]:
    """Return what is proven of the CUDA module's kernels.

    Kernels that need a proof use instructions of one chip, so they are in code with its own name, as sm_90a.
    """
    module = importlib.import_module("cconvnet._cuda")
    build = module.build_info()
    names = [architecture_of(build, gpu.capability) for gpu in gpus]
    names = names or [f"sm_{arch}" for arch in archs_of(build) or []]
    return tuple(find_proof(module, name) for name in dict.fromkeys(names) if name.endswith("a"))


def _present_devices() -> dict[str, tuple[str, bool]]:
    found = {}
    for name in dict.fromkeys(("cuda:0", "cpu:0", "emulator:0", *devices.present_devices())):
        try:
            device = devices.get_device(name)
            serves = ", ".join(filter(device.serves, devices.PRECISIONS))
            found[name] = (f"{device.reason}; computes in {serves}", True)
        except devices.DeviceUnavailable as error:
            found[name] = (str(error), False)
    return found


def _default() -> str | None:
    with contextlib.suppress(devices.DeviceUnavailable):
        return devices.get_device().name
    return None


def _version(names: tuple[str, ...]) -> str | None:
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def _processor_facts() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    values: dict[str, str] = {}
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            values.setdefault(key.strip(), value.strip())
    flags = (values.get("flags") or values.get("Features") or "").split()
    quota = None
    with contextlib.suppress(OSError, ValueError):
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        quota = None if most == "max" else int(most) / int(period)
    return {
        "processor": values.get("model name") or platform.processor() or platform.machine(),
        "instructions": tuple(name for name in _INSTRUCTIONS if name in flags),
        "cores": cores or 1,
        "quota": quota,
    }


def _memory_facts() -> dict[str, Any]:
    """Return all memory and free memory, of the machine or within a control group's limit."""
    found = memory.host()
    if found is None:
        return {}
    return {"memory": found.in_all, "free_memory": found.fast, "memory_limit": found.limit}


def _open_files() -> int:
    try:
        import resource
    except ImportError:
        return sys.maxsize
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _malloc() -> str:
    """Return the allocator in use and its settings."""
    preloaded = re.search(r"(jemalloc|tcmalloc|mimalloc)", os.environ.get("LD_PRELOAD", ""))
    name = preloaded[1] if preloaded else " ".join(platform.libc_ver()).strip() or "the system"
    settings = [f"{key}={value}" for key, value in os.environ.items() if key.startswith("MALLOC_")]
    return f"malloc of {name}{' with ' if settings else ''}{', '.join(settings)}"


def _output(*command: str) -> str:
    """Return a command's output, or an empty text if it fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout if done.returncode == 0 else ""
    return ""
