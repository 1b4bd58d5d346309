"""Device, the base class: arrays, copies and marks of devices without streams."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cconvnet.devices.modules import load_module

# Two threads use all the memory bandwidth of a desktop processor, a few that of a server's. Pieces are small,
# so that all threads end together.
_COPYING_THREADS = 8

_BYTES_PER_COPY = 1 << 25


class Device:
    """A device with its arrays, its module and its stream.

    The host's memory and the device's are the same here, and every call returns when its work is done.
    CudaDevice overrides what differs on a GPU.

    Attributes:
        name: ``"cpu:0"``.
        kind: ``"cpu"``.
        index: ``0``.
        module: The functions of ``kernels/api.h`` for this device's arrays.
        xp: ``numpy`` or ``cupy``.
        stream: The stream of all operations of this device, as an integer (0 off the GPU).
        ordinal: The number of the physical GPU (0 off the GPU).
        float_type: The type of the arrays that are asked for as float32.
        reason: One line: the hardware and the module, or why the device was chosen.
        runs_beside: True if work given to :meth:`beside` runs at the same time as later work.
    """

    xp: Any = np
    stream: int = 0
    ordinal: int = 0
    float_type: Any = np.float32
    runs_beside: bool = False

    def __init__(self, kind: str, index: int) -> None:
        self.kind = kind
        self.index = index
        self.name = f"{kind}:{index}"
        self.module, self.reason = self._loaded()

    def _loaded(self) -> tuple[Any, str]:
        """Return the module and its description; see load_module()."""
        return load_module(self.kind)

    def __repr__(self) -> str:
        return f"Device({self.name!r})"

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    # Off the GPU there is one memory and no stream: nothing must be selected or ordered.

    def selected(self) -> contextlib.AbstractContextManager[Any]:
        """Allocate arrays inside on this device, in the caller's own stream."""
        return contextlib.nullcontext()

    def capturing(self) -> bool:
        """Return True if the caller's work is being captured instead of done."""
        return False

    def ordered(self) -> contextlib.AbstractContextManager[Any]:
        """Order the work inside behind the caller's earlier work and before the caller's later work."""
        return contextlib.nullcontext()

    def serves(self, precision: str) -> bool:
        """Return True if this device can multiply in a precision, one of PRECISIONS.

        A module that was built before the precision existed does not know its name, and cannot.
        """
        with contextlib.suppress(ValueError):
            return bool(self.module.serves(precision, self.ordinal))
        return False

    def prefers_blocks(self, precision: str) -> bool:
        """Return True if a strided convolution of images of few channels is faster over blocks of pixels.

        On a CPU it is in bfloat16, whose products need many channels.
        """
        return self.kind in ("cuda", "emulator") or (self.kind == "cpu" and precision == "bf16")

    def _dtype(self, dtype: Any) -> Any:
        return self.float_type if np.dtype(dtype) == np.float32 else dtype

    def empty(self, shape: Sequence[int] | int, dtype: Any = np.float32) -> Any:
        """Allocate an uninitialised C-contiguous array on this device."""
        with self.ordered(), self:
            return self.xp.empty(shape, self._dtype(dtype))

    def zeros(self, shape: Sequence[int] | int, dtype: Any = np.float32) -> Any:
        """Allocate a C-contiguous array of zeros on this device."""
        with self.ordered(), self:
            return self.xp.zeros(shape, self._dtype(dtype))

    def array(self, host: Any) -> Any:
        """Copy a host array to this device, C-contiguous, of the same type (float64 becomes float32)."""
        source = np.asarray(host)
        dtype = np.float32 if source.dtype == np.float64 else source.dtype
        with self.ordered(), self:
            return self.xp.array(source, dtype=self._dtype(dtype), order="C")

    def host(self, array: Any) -> np.ndarray[Any, Any]:
        """Copy an array of this device to the host, once all work before it is done."""
        return np.array(array)

    def host_later(self, array: Any) -> Callable[[], np.ndarray[Any, Any]]:
        """Begin a copy to the host behind the work so far; the result waits for it and returns it."""
        copied = np.array(array)
        return lambda: copied

    def host_memory(self, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        """Allocate host memory for repeated copies out of this device, every page of it present."""
        # The first write to a fresh page costs more than the copy into it.
        return np.full(shape, 0, dtype)

    def copy_out(self, pairs: Iterable[tuple[Any, np.ndarray[Any, Any]]]) -> Callable[[], None]:
        """Begin to copy arrays of this device into ``host_memory()`` of their shapes and types.

        The copies follow the work so far, and later work may change the arrays. The function that is returned
        waits for the copies; any thread may call it.
        """
        pieces: list[tuple[Any, Any]] = []
        for source, target in pairs:
            count = _BYTES_PER_COPY // target.itemsize
            for start in range(0, target.size, count):
                part = slice(start, start + count)
                pieces.append((target.reshape(-1)[part], source.reshape(-1)[part]))
        with ThreadPoolExecutor(min(_COPYING_THREADS, os.cpu_count() or 1)) as threads:
            list(threads.map(np.copyto, *zip(*pieces, strict=True)))
        return lambda: None

    def fill(self, array: Any, host: Any) -> None:
        """Copy a host array into an array of this device of the same shape."""
        array[...] = host

    def staging(self, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        """Allocate a host array that a Feed of this device reads without another copy on the host."""
        return np.empty(shape, dtype)

    def feed(self, target: Any) -> Feed:
        """Prepare to fill `target`, an array of this device, from the host again and again."""
        return Feed(self, target)

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that repeats work of this device alone, as one launch where possible.

        The work has always the same arguments, was done once before, and neither allocates nor waits.
        """
        return work

    def beside(self, work: Callable[[], None]) -> None:
        """Do work behind the work so far, where possible at the same time as later work until :meth:`join`.

        Work that is given by several calls runs in their order. It neither allocates nor waits. Captured work
        must be joined before its end.
        """
        work()

    def use(self, share: float) -> None:
        """Let kernels with a block for each multiprocessor use a share of these, until :meth:`join` or 1.0.

        Work beside them has room then. No result depends on it.
        """

    def join(self) -> None:
        """Let later work follow that given to :meth:`beside`."""

    def synchronize(self) -> None:
        """Wait until all work of this device is done."""

    def moment(self) -> Any:
        """Return the moment at which the work so far is done, for seconds_between()."""
        return time.perf_counter()

    def seconds_between(self, begin: Any, end: Any) -> float:
        """Wait for two moments of this device, and return the seconds between them."""
        return float(end - begin)

    # Off the GPU every call returns when its work is done: nothing must be waited for.

    def mark(self) -> Any:
        """Return a mark behind the work so far, which another queue can wait for."""

    def wait(self, mark: Any) -> None:
        """Begin later work of this device when a mark is reached; None is reached already."""

    def transfer(self, target: Any, target_device: Device, source: Any) -> Transfer:
        """Prepare to copy `source`, an array of this device, into `target` again and again."""
        return Transfer(target, source)


def used_multiprocessors(count: int, share: float) -> int:
    """Return a share of `count` multiprocessors, an even number, as pairs of blocks need two; 0: all."""
    return 0 if share == 1 else max(2, int(count * share) // 2 * 2)


class Feed:
    """An array of a device that is filled from the host for every step; CudaFeed for a GPU's."""

    def __init__(self, device: Device, target: Any) -> None:
        self._device, self._target = device, target

    def start(self, host: np.ndarray[Any, Any]) -> None:
        """Fill the first rows with `host`, which must not change any more, and the others with zeros."""
        self._target[: len(host)] = host
        self._target[len(host) :] = 0

    def wait(self) -> None:
        """Make later work of the device wait until the array is filled."""

    def been_read(self) -> None:
        """Let the next filling wait only for the work of the device so far."""


class Transfer:
    """A copy from one device to another that is repeated every step; CudaTransfer between GPUs.

    Attributes:
        last: The parts of the last copy: the device whose moments they are (None for the host's clock), the
            begin and the end.
    """

    def __init__(self, target: Any, source: Any) -> None:
        self._target, self._source = target, source.reshape(target.shape)
        self._seconds = 0.0
        self.last: list[tuple[Device | None, Any, Any]] = []

    def start(self, *after: Any) -> Any:
        """Copy once the marks `after` are reached, and return the mark at which the copy is done."""
        begin = time.perf_counter()
        self._target[...] = self._source
        end = time.perf_counter()
        self._seconds += end - begin
        self.last = [(None, begin, end)]
        return None

    @property
    def seconds(self) -> float:
        """The time of all copies so far."""
        return self._seconds


class ReferenceDevice(Device):
    """A device of float64 arrays that the NumPy reference computes on."""

    float_type = np.float64
