"""What of this package works on this machine, why the rest does not, and the command that mends it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import cconvnet
from cconvnet import backends

State = Literal["ok", "note", "problem"]

_EXTRAS = {
    "matplotlib": ("plot", "training curves"),
    "simplejpeg": ("fast-jpeg", "faster JPEG decoding"),
    "cupy": ("cuda", "GPU arrays"),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what mends it where something is wrong."""

    what: str
    state: State
    text: str
    mend: str = ""


def examine() -> list[Finding]:
    """Looks at everything; the order is that of reading."""
    return [*_system(), *_modules(), *_devices(), *_packages()]


def can_train(findings: list[Finding]) -> bool:
    """Whether any device can train."""
    return any(f.what.startswith("device ") and f.state == "ok" for f in findings)


def _system() -> list[Finding]:
    version = sys.version_info
    python = f"{platform.python_version()} at {sys.executable}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [
        Finding("cconvnet", "ok", f"{cconvnet.__version__} in {cconvnet.__path__[0]}"),
        Finding("python", "ok", python)
        if version >= (3, 11)
        else Finding("python", "problem", f"{python}; 3.11 or newer is needed", "install Python 3.11"),
        Finding("platform", "ok", platform.platform()),
        Finding("cpu", "ok", f"{cores} cores for this process, {_processor()}"),
    ]
    return found


def _processor() -> str:
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _modules() -> list[Finding]:
    found = []
    for kind in ("cpu", "emulator", "cuda"):
        what = f"module _{kind}"
        mend = _rebuild("CCONVNET_CUDA=on" if kind == "cuda" else "")
        spec = importlib.util.find_spec(f"cconvnet._{kind}")
        if spec is None:
            # Without a GPU nobody misses the CUDA module.
            state: State = "note" if kind == "cuda" and not _gpu_present() else "problem"
            found.append(Finding(what, state, "not built", mend))
            continue
        try:
            if kind == "cpu":
                backends._load_onednn()
            module = importlib.import_module(f"cconvnet._{kind}")
        except ImportError as error:
            found.append(Finding(what, "problem", f"cannot be loaded: {error}", mend))
        else:
            found.append(Finding(what, "ok", module.build_info()))
    return found


def _rebuild(setting: str) -> str:
    """The command that compiles the modules again, in a checkout or where the package was installed."""
    checkout = Path(cconvnet.__path__[0]).parent
    command = f"make -C {checkout} venv"
    if not (checkout / "Makefile").exists():
        command = "pip install --force-reinstall --no-deps --no-cache-dir --no-binary cconvnet cconvnet"
    return f"{setting} {command}".strip()


def _gpu_present() -> bool:
    """Whether the NVIDIA driver knows a GPU."""
    return shutil.which("nvidia-smi") is not None and _output("nvidia-smi", "-L").startswith("GPU")


def _devices() -> list[Finding]:
    found = []
    for name in ("cuda:0", "cpu:0", "emulator:0"):
        what = f"device {name}"
        try:
            found.append(Finding(what, "ok", _about(name)))
        except backends.DeviceUnavailable as error:
            state: State = "note" if name == "cuda:0" and not _gpu_present() else "problem"
            found.append(Finding(what, state, str(error), "" if state == "note" else _rebuild("")))
    for name in backends.present_devices():
        if name not in ("cuda:0", "cpu:0", "emulator:0"):
            found.append(Finding(f"device {name}", "ok", _about(name)))
    with contextlib.suppress(backends.DeviceUnavailable):
        default = backends.get_device()
        found.append(Finding("default", "ok", f"{default.name} is used where no --device is given"))
    return found


def _about(name: str) -> str:
    device = backends.get_device(name)
    return f"{device.reason}; computes in {', '.join(filter(device.serves, backends.PRECISIONS))}"


def _packages() -> list[Finding]:
    found = []
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    release = (
        next((line for line in _output(nvcc, "--version").splitlines() if "release" in line), "")
        if nvcc
        else ""
    )
    found.append(
        Finding("nvcc", "ok", f"{release.strip()} at {nvcc}")
        if nvcc
        else Finding("nvcc", "note", "not found; only building for GPUs needs it", "install the CUDA toolkit")
    )
    found.append(_package("oneDNN", ("onednn-cpu-gomp",), "fast training on the CPU", "onednn-cpu-gomp"))
    for module, (extra, use) in _EXTRAS.items():
        names = ("cupy-cuda13x", "cupy-cuda12x", "cupy") if module == "cupy" else (module,)
        found.append(_package(module, names, use, f"'cconvnet[{extra}]'"))
    return found


def _package(what: str, names: tuple[str, ...], use: str, install: str) -> Finding:
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return Finding(what, "ok", importlib.metadata.version(name))
    return Finding(what, "note", f"missing; it gives {use}", f"pip install {install}")


def _output(*command: str) -> str:
    """What a command prints, or nothing where it fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout
    return ""
