"""Devices, and which compiled module serves them.

A device is named ``cuda:0``, ``cpu:0``, ``emulator:0``, ...; several logical devices may lie on one physical
one, so a network split over two devices runs anywhere. ``CCONVNET_CUDA_DEVICES=0,0`` maps ``cuda:0`` and
``cuda:1`` to physical GPU 0. ``reference:0`` computes in float64 with NumPy: the oracle of the tests and of
gradcheck.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from cconvnet.errors import CudaError, DeviceUnavailable

__all__ = ["CudaError", "Device", "DeviceUnavailable", "copy", "get_device", "present_devices"]

KINDS = ("cuda", "cpu", "emulator", "reference")

# An instrumented or altered build of a module is tried by naming its folder here.
if _folder := os.environ.get("CCONVNET_MODULE_PATH"):
    sys.modules["cconvnet"].__path__.insert(0, _folder)


@functools.cache
def _load_onednn() -> None:
    """Loads libdnnl of this Python environment, so that ``_cpu`` finds it wherever it was installed.

    Threads that wait for each other sleep unless the user says otherwise: OpenMP's default is to spin, and
    where another process wants a core too, spinning made training several times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("onednn-cpu-gomp") or []:
            if file.name == "libdnnl.so.3":
                ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)


@functools.cache
def _module(kind: str) -> tuple[Any, str]:
    """The module that serves a kind of device, and one line that says what it is."""
    if kind in ("reference", "cpu-numpy"):
        from cconvnet.testing.numpy_module import NumpyModule

        return NumpyModule(), "NumPy reference"
    if kind == "cpu":
        _load_onednn()
    try:
        module = importlib.import_module(f"cconvnet._{kind}")
    except ModuleNotFoundError as error:
        if error.name != f"cconvnet._{kind}":
            raise
        if kind == "cpu":
            module, what = _module("cpu-numpy")
            return module, f"{what}: slow, this package was built without oneDNN"
        raise DeviceUnavailable(
            f"this package was built without its {kind} module; "
            + (
                "install the CUDA toolkit and build again with CCONVNET_CUDA=on"
                if kind == "cuda"
                else "build it again"
            )
        ) from None
    except ImportError as error:
        raise DeviceUnavailable(f"the {kind} module cannot be loaded: {error}") from error
    return module, module.build_info()


class Device:
    """A place where layers live: its arrays, its module, its stream.

    Attributes
        name, kind, index: ``"cpu:0"``, ``"cpu"``, ``0``.
        module: the functions of ``kernels/api.h`` for this device's arrays.
        xp: ``numpy`` or ``cupy``.
        stream: the stream every operation of this device is enqueued on, as an integer (0 off the GPU).
        reason: one line: what the device runs on, or why it was chosen.
    """

    xp: Any = np
    stream: int = 0
    ordinal: int = 0
    float_type: Any = np.float32

    def __init__(self, kind: str, index: int) -> None:
        self.kind = kind
        self.index = index
        self.name = f"{kind}:{index}"
        self.module, self.reason = _module(kind)

    def __repr__(self) -> str:
        return f"Device({self.name!r})"

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def _dtype(self, dtype: Any) -> Any:
        return self.float_type if np.dtype(dtype) == np.float32 else dtype

    def empty(self, shape: Sequence[int] | int, dtype: Any = np.float32) -> Any:
        """An uninitialised C-contiguous array on this device."""
        with self:
            return self.xp.empty(shape, self._dtype(dtype))

    def zeros(self, shape: Sequence[int] | int, dtype: Any = np.float32) -> Any:
        """A C-contiguous array of zeros on this device."""
        with self:
            return self.xp.zeros(shape, self._dtype(dtype))

    def array(self, host: Any) -> Any:
        """A copy of a host array on this device, C-contiguous, of the same type (float64 becomes float32)."""
        source = np.asarray(host)
        dtype = np.float32 if source.dtype == np.float64 else source.dtype
        with self:
            return self.xp.array(source, dtype=self._dtype(dtype), order="C")

    def host(self, array: Any) -> np.ndarray[Any, Any]:
        """A copy on the host of an array of this device, once all work before it is done."""
        return np.array(array)

    def fill(self, array: Any, host: Any) -> None:
        """Writes a host array into an array of this device of the same shape."""
        array[...] = host

    def synchronize(self) -> None:
        """Waits until all work given to this device is done."""


class ReferenceDevice(Device):
    float_type = np.float64


class CudaDevice(Device):
    """A logical GPU: an ordinal and a stream of its own."""

    def __init__(self, index: int) -> None:
        cupy = import_cupy()
        super().__init__("cuda", index)
        ordinals = _cuda_ordinals()
        if index >= len(ordinals):
            raise DeviceUnavailable(
                f"there is no cuda:{index}: this machine offers "
                + ", ".join(f"cuda:{i}" for i in range(len(ordinals)))
                + "; CCONVNET_CUDA_DEVICES=0,0 makes two devices of one GPU"
            )
        self.xp = cupy
        self.ordinal = ordinals[index]
        with cupy.cuda.Device(self.ordinal):
            self._stream = cupy.cuda.Stream(non_blocking=True)
            properties = cupy.cuda.runtime.getDeviceProperties(self.ordinal)
        self.stream = int(self._stream.ptr)
        self.reason = f"{properties['name'].decode()}, {self.reason}"
        self._entered: list[Any] = []

    def __enter__(self) -> Device:
        device = self.xp.cuda.Device(self.ordinal)
        device.__enter__()
        self._stream.__enter__()
        self._entered.append(device)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.__exit__(kind, error, trace)
        self._entered.pop().__exit__(kind, error, trace)

    def host(self, array: Any) -> np.ndarray[Any, Any]:
        with self:
            return np.asarray(self.xp.asnumpy(array, stream=self._stream))

    def fill(self, array: Any, host: Any) -> None:
        with self:
            array.set(np.ascontiguousarray(host, dtype=array.dtype), stream=self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()


def import_cupy() -> Any:
    """CuPy, if it can reach a GPU."""
    try:
        import cupy
    except ImportError as error:
        raise DeviceUnavailable(
            "a cuda device needs CuPy, which is missing: pip install 'cconvnet[cuda]'"
        ) from error
    if not cupy.cuda.is_available():
        raise DeviceUnavailable(
            "no usable NVIDIA GPU: none is visible or its driver is missing; `nvidia-smi` tells. "
            "Without --device the CPU is used"
        )
    return cupy


def _cuda_ordinals() -> list[int]:
    """The physical ordinal of each logical CUDA device."""
    count = import_cupy().cuda.runtime.getDeviceCount()
    text = os.environ.get("CCONVNET_CUDA_DEVICES")
    if text is None:
        return list(range(count))
    try:
        ordinals = [int(part) for part in text.split(",")]
    except ValueError:
        ordinals = [-1]
    if any(not 0 <= ordinal < count for ordinal in ordinals):
        raise DeviceUnavailable(
            f"CCONVNET_CUDA_DEVICES must list GPUs from 0 to {count - 1}, such as 0,0; not {text!r}"
        )
    return ordinals


@functools.cache
def _make(kind: str, index: int) -> Device:
    if kind == "cuda":
        return CudaDevice(index)
    return ReferenceDevice(kind, index) if kind == "reference" else Device(kind, index)


@functools.cache
def _default() -> Device:
    try:
        device = _make("cuda", 0)
    except DeviceUnavailable as error:
        device = Device("cpu", 0)
        device.reason = f"{device.reason} (not a GPU: {str(error).split(';')[0].split(':')[0]})"
    return device


def get_device(name: str | Device | None = None) -> Device:
    """The device called `name`; with no name a usable GPU, else the CPU (``reason`` says which and why).

    Raises
        ValueError or TypeError: the name is not of the form kind:index.
        DeviceUnavailable: the device cannot be used here; the text says why and what mends it.
    """
    if isinstance(name, Device):
        return name
    if name is None:
        return _default()
    if not isinstance(name, str):
        raise TypeError(f"device must be a name such as cpu:0 or a Device, not {name!r}")
    kind, _, index = name.partition(":")
    if kind not in KINDS or not (index or "0").isdigit():
        raise ValueError(f"device must be cuda:N, cpu:N or emulator:N, not {name!r}")
    return _make(kind, int(index or "0"))


def present_devices() -> list[str]:
    """The names of the physical devices that can be used now."""
    names = ["cpu:0"]
    with contextlib.suppress(DeviceUnavailable):
        _module("emulator")
        names.append("emulator:0")
    with contextlib.suppress(DeviceUnavailable):
        _module("cuda")
        names = [f"cuda:{index}" for index in range(len(_cuda_ordinals()))] + names
    return names


def copy(target: Any, target_device: Device, source: Any, source_device: Device) -> None:
    """Copies `source` into `target`, an array of the same size on another (or the same) device.

    The copy is ordered behind all work of the source's device, and later work of the target's device behind
    it. Devices of different kinds are refused: a network lies on one kind.
    """
    if source_device.kind != target_device.kind:
        raise ValueError(
            f"cannot copy from {source_device.name} to {target_device.name}: devices of one kind only"
        )
    if source_device.kind != "cuda":
        target[...] = source.reshape(target.shape)
        return
    cuda = source_device.xp.cuda
    with source_device:
        ready = cuda.Event(disable_timing=True)
        ready.record()
    with target_device:
        cuda.get_current_stream().wait_event(ready)
        target_device.module.copy(
            target, target_device.ordinal, source, source_device.ordinal, target_device.stream
        )
        done = cuda.Event(disable_timing=True)
        done.record()
    # The source may not be overwritten before it has been read.
    with source_device:
        cuda.get_current_stream().wait_event(done)
