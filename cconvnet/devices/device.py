"""A device: its arrays, its module and its stream; off the GPU there is no stream."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cconvnet.devices.modules import load_module

# Two threads fill the memory's bandwidth of a desktop's processor, a few that of a server's; pieces small
# enough that all of them end together.
_COPYING_THREADS = 8

_BYTES_PER_COPY = 1 << 25


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
        self.module, self.reason = self._loaded()

    def _loaded(self) -> tuple[Any, str]:
        """The module and what it is; see load_module()."""
        return load_module(self.kind)

    def __repr__(self) -> str:
        return f"Device({self.name!r})"

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    # Off the GPU there is one memory and no stream, so there is nothing to select or to order.

    def selected(self) -> contextlib.AbstractContextManager[Any]:
        """Makes this device the one that arrays are allocated on, in the caller's own stream."""
        return contextlib.nullcontext()

    def capturing(self) -> bool:
        """True if work that the caller gives is captured instead of done."""
        return False

    def ordered(self) -> contextlib.AbstractContextManager[Any]:
        """Work given inside runs behind the caller's earlier work and before the caller's later work."""
        return contextlib.nullcontext()

    def serves(self, precision: str) -> bool:
        """Whether this device's products can be of a precision, one of PRECISIONS."""
        return bool(self.module.serves(precision, self.ordinal))

    @property
    def prefers_blocks(self) -> bool:
        """Whether a strided convolution of images of few channels is faster over blocks of pixels."""
        return self.kind in ("cuda", "emulator")

    def _dtype(self, dtype: Any) -> Any:
        return self.float_type if np.dtype(dtype) == np.float32 else dtype

    def empty(self, shape: Sequence[int] | int, dtype: Any = np.float32) -> Any:
        """An uninitialised C-contiguous array on this device."""
        with self.ordered(), self:
            return self.xp.empty(shape, self._dtype(dtype))

    def zeros(self, shape: Sequence[int] | int, dtype: Any = np.float32) -> Any:
        """A C-contiguous array of zeros on this device."""
        with self.ordered(), self:
            return self.xp.zeros(shape, self._dtype(dtype))

    def array(self, host: Any) -> Any:
        """A copy of a host array on this device, C-contiguous, of the same type (float64 becomes float32)."""
        source = np.asarray(host)
        dtype = np.float32 if source.dtype == np.float64 else source.dtype
        with self.ordered(), self:
            return self.xp.array(source, dtype=self._dtype(dtype), order="C")

    def host(self, array: Any) -> np.ndarray[Any, Any]:
        """A copy on the host of an array of this device, once all work before it is done."""
        return np.array(array)

    def host_later(self, array: Any) -> Callable[[], np.ndarray[Any, Any]]:
        """Begins a copy to the host behind the work given so far; the result waits for it and returns it."""
        copied = np.array(array)
        return lambda: copied

    def host_memory(self, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        """Host memory that is there, page by page, for copies out of this device again and again."""
        # Fresh memory costs more when it is first written than the copy into it does.
        return np.full(shape, 0, dtype)

    def copy_out(self, pairs: Iterable[tuple[Any, np.ndarray[Any, Any]]]) -> Callable[[], None]:
        """Begins to copy arrays of this device into ``host_memory()`` of their shapes and types.

        It stands behind the work given so far, and work given later may change the arrays. What it returns
        waits until the copies are there; any thread may call it.
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
        """Writes a host array into an array of this device of the same shape."""
        array[...] = host

    def staging(self, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        """An uninitialised host array that a Feed of this device takes without copying it on the host."""
        return np.empty(shape, dtype)

    def feed(self, target: Any) -> Feed:
        """Makes ready to fill `target`, an array of this device, from the host again and again."""
        return Feed(self, target)

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Work of this device alone that is repeated with the same arguments, as one launch where possible.

        It must have been done once before, and neither allocates nor waits.
        """
        return work

    def synchronize(self) -> None:
        """Waits until all work given to this device is done."""

    def moment(self) -> Any:
        """When the work given to this device so far is done, for seconds_between()."""
        return time.perf_counter()

    def seconds_between(self, begin: Any, end: Any) -> float:
        """From one moment of this device to another, once both have come."""
        return float(end - begin)

    # Off the GPU every call returns when its work is done, so there is nothing to wait for.

    def mark(self) -> Any:
        """The end of the work given to this device so far, for another queue to wait for."""

    def wait(self, mark: Any) -> None:
        """Later work of this device begins when what `mark` stands for is done; None is done already."""

    def transfer(self, target: Any, target_device: Device, source: Any) -> Transfer:
        """Makes ready to copy `source`, an array of this device, into `target` again and again."""
        return Transfer(target, source)


class Feed:
    """An array of a device that is filled from the host for every step; see :class:`CudaFeed`."""

    def __init__(self, device: Device, target: Any) -> None:
        self._device, self._target = device, target

    def start(self, host: np.ndarray[Any, Any]) -> None:
        """Fills the first rows with `host`, which must not change any more, and the others with zeros."""
        self._target[: len(host)] = host
        self._target[len(host) :] = 0

    def wait(self) -> None:
        """Later work of the device finds the array filled."""

    def been_read(self) -> None:
        """The next filling need only wait for the work that the device has been given so far."""


class Transfer:
    """A copy from one device to another that is repeated every step; see :class:`CudaTransfer`.

    Attributes
        seconds: how long all copies so far took.
        last: what the last copy was made of: whose moments these are (None: any device's), begin, end.
    """

    def __init__(self, target: Any, source: Any) -> None:
        self._target, self._source = target, source.reshape(target.shape)
        self._seconds = 0.0
        self.last: list[tuple[Device | None, Any, Any]] = []

    def start(self, *after: Any) -> Any:
        """Copies once the marks `after` are reached; returns the mark at which it is done."""
        begin = time.perf_counter()
        self._target[...] = self._source
        end = time.perf_counter()
        self._seconds += end - begin
        self.last = [(None, begin, end)]
        return None

    @property
    def seconds(self) -> float:
        return self._seconds


class ReferenceDevice(Device):
    float_type = np.float64
