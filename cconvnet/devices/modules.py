"""Loading of the compiled module, or NumPy's, of a kind of device."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
import mmap
import os
import shutil
from pathlib import Path
from typing import Any

import cconvnet
from cconvnet.errors import DeviceUnavailable
from cconvnet.system.installation import rebuild


@functools.cache
def load_onednn() -> None:
    """Load libdnnl of this Python environment, so that ``_cpu`` finds it wherever it was installed.

    A module that was built with another oneDNN finds it by itself, and nothing is loaded. Waiting threads
    sleep, unless the user sets ``OMP_WAIT_POLICY``. OpenMP's default is to spin, which made training several
    times slower when another process wanted a core too.

    Raises:
        ImportError: The library cannot be loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if any(Path(cconvnet.__file__).resolve().parents[1].glob("cconvnet.libs/libdnnl*")):
        return  # a wheel's `_cpu` has its own, and another in the process would bring a second OpenMP
    if _finds_its_own_onednn():
        return
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("onednn-cpu-gomp") or []:
            if file.name == "libdnnl.so.3":
                # Not RTLD_GLOBAL: it would serve a `_cpu` that is linked with another version, too.
                try:
                    ctypes.CDLL(str(file.locate()))
                except OSError as error:
                    raise ImportError(str(error)) from error


def _finds_its_own_onednn() -> bool:
    """Return whether the CPU module contains the mark of kernels/cpu/runtime.cpp."""
    spec = importlib.util.find_spec("cconvnet._cpu")
    if spec is None or spec.origin is None:
        return False
    with (
        Path(spec.origin).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(b"cconvnet: this module finds its own oneDNN") >= 0


def build_command(kind: str) -> str:
    """Return the command that builds the module of a kind of device."""
    return rebuild("CCONVNET_CUDA=on" if kind == "cuda" else "", kind)


@functools.cache
def load_module(kind: str) -> tuple[Any, str]:
    """Return the module of a kind of device, and one line that describes it.

    Raises:
        DeviceUnavailable: The module was not built or cannot be loaded.
    """
    if kind in ("reference", "cpu-numpy"):
        from cconvnet.devices.numpy_module import NumpyModule

        return NumpyModule(), "NumPy reference"
    try:
        if kind == "cpu":
            load_onednn()
        module = importlib.import_module(f"cconvnet._{kind}")
    except ModuleNotFoundError as error:
        if error.name != f"cconvnet._{kind}":
            raise
        command = build_command(kind)
        if kind == "cpu":
            module, what = load_module("cpu-numpy")
            slow = f"slow, this package was built without its cpu module; to build it: {command}"
            return module, f"{what}: {slow}"
        if kind == "cuda" and shutil.which("nvcc") is None:
            command = f"install the CUDA toolkit, then {command}"
        raise DeviceUnavailable(
            f"this package was built without its {kind} module; to build it: {command}"
        ) from None
    except ImportError as error:
        raise DeviceUnavailable(f"the {kind} module cannot be loaded: {error}") from error
    return module, module.build_info()
