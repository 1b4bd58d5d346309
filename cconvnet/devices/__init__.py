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
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cconvnet.checks import is_number
from cconvnet.errors import CudaError, DeviceUnavailable

__all__ = ["CudaError", "Device", "DeviceUnavailable", "get_device", "present_devices"]

KINDS = ("cuda", "cpu", "emulator", "reference")
PRECISIONS = ("fp32", "tf32", "bf16")

# Two threads fill the memory's bandwidth of a desktop's processor, a few that of a server's; pieces small
# enough that all of them end together.
_COPYING_THREADS = 8
_BYTES_PER_COPY = 1 << 25

# What a device must have for a precision.
_NEEDED = {
    "fp32": "oneDNN or a GPU",
    "tf32": "a GPU of compute capability 8.0 or newer",
    "bf16": "a GPU of compute capability 8.0 or newer, or a CPU with instructions for bfloat16 (AVX512_BF16, "
    "AMX or AVX-NE-CONVERT) and a package built with oneDNN",
}


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
        from cconvnet.devices.numpy_module import NumpyModule

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
        self.module, self.reason = self._loaded()

    def _loaded(self) -> tuple[Any, str]:
        """The module and what it is; see _module()."""
        return _module(self.kind)

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

    def require(self, precision: str) -> None:
        """Raises ValueError, naming the devices that can, if this one cannot compute in a precision."""
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        if self.serves(precision):
            return
        able = [name for name in present_devices() if get_device(name).serves(precision)]
        here = f"of the devices here {', '.join(able)} can" if able else "no device here can"
        raise ValueError(
            f"precision {precision} is not for {self.name}: {_NEEDED[precision]} is needed; {here}"
        )

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


class _Pinned(np.ndarray[Any, Any]):
    """Host memory that a GPU reads by itself. A copy of it may be called so too, which is then copied while
    the host waits: slower, but right."""


class CudaDevice(Device):
    """A logical GPU: an ordinal and a stream of its own.

    Callers have a stream too, CuPy's current one. Methods that take or return arrays, and all of
    ``cconvnet.ops``, order the two with events: see :meth:`ordered`. Inside ``with device:`` the device's
    stream is the current one, and nothing needs an order. Feeds, transfers and captured work are ordered by
    marks alone.

    An array of a device returns to the pool of the device's stream. Whoever gave work on it to another stream
    makes any call outside ``with device:`` before dropping it, or waits.
    """

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
        self._staged: list[tuple[Any, Any]] = []  # what copies to the GPU may still read

    def __enter__(self) -> Device:
        device = self.xp.cuda.Device(self.ordinal)
        device.__enter__()
        self._stream.__enter__()
        self._entered.append(device)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stream.__exit__(*exception)
        self._entered.pop().__exit__(*exception)

    def selected(self) -> contextlib.AbstractContextManager[Any]:
        device: contextlib.AbstractContextManager[Any] = self.xp.cuda.Device(self.ordinal)
        return device

    @contextlib.contextmanager
    def ordered(self) -> Iterator[None]:
        """Work given inside to this device's stream runs in order with CuPy's current stream.

        The device's stream waits for the current stream on entry, and the current stream for the device's on
        exit. Where they are the same stream no event is recorded, so work can be captured. A current stream
        that is being captured takes the work inside into its graph.

        It also makes memory safe to reuse. CuPy's pool hands a freed array's memory to the next allocation
        on the stream it was allocated on, while other streams may still use it.
        """
        with self.selected():  # events and streams belong to a GPU
            current = self.xp.cuda.get_current_stream()
            if current.ptr == self._stream.ptr:
                yield
                return
            self._follow(self._stream, current)
            try:
                yield
            except BaseException:
                # Part of the work may be running; what stopped it is the error to raise.
                with contextlib.suppress(self.xp.cuda.runtime.CUDARuntimeError):
                    self._follow(current, self._stream)
                raise
            self._follow(current, self._stream)

    def capturing(self) -> bool:
        """True while CuPy's current stream of this GPU is being captured."""
        with self.selected():
            current = self.xp.cuda.get_current_stream()
            return bool(current.ptr and current.is_capturing())  # the default stream cannot be

    def _require_here(self, array: Any) -> None:
        """Raises ValueError if an array is on another GPU."""
        if array.device.id != self.ordinal:
            raise ValueError(
                f"array is on GPU {array.device.id}, but {self.name} is GPU {self.ordinal}: copy it there"
            )

    def _follow(self, later: Any, earlier: Any) -> None:
        """Later work of one stream begins when the present work of another is done."""
        event = self.xp.cuda.Event(disable_timing=True)
        event.record(earlier)
        later.wait_event(event)

    def host(self, array: Any) -> np.ndarray[Any, Any]:
        self._require_here(array)
        with self.ordered(), self:
            return np.asarray(self.xp.asnumpy(array, stream=self._stream))

    def host_later(self, array: Any) -> Callable[[], np.ndarray[Any, Any]]:
        self._require_here(array)
        target = self._pinned(array.shape, array.dtype)
        with self.ordered(), self:
            self.xp.asnumpy(array, stream=self._stream, out=target, blocking=False)
        copied = self.mark()

        def wait() -> np.ndarray[Any, Any]:
            copied.synchronize()
            return target

        return wait

    def host_memory(self, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        return self._pinned(tuple(shape), dtype)

    def copy_out(self, pairs: Iterable[tuple[Any, np.ndarray[Any, Any]]]) -> Callable[[], None]:
        # On the stream of all work: the next step finds the copies done, and the host need not wait for them.
        with self.ordered(), self:
            for source, target in pairs:
                self._require_here(source)
                self.xp.asnumpy(source, stream=self._stream, out=target, blocking=False)
        copied = self.mark()
        return lambda: copied.synchronize()

    def _pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """A host array that the GPU copies from or to by itself; its memory returns to CuPy's pool."""
        count, dtype = math.prod(shape), np.dtype(dtype)
        memory = self.xp.cuda.alloc_pinned_memory(count * dtype.itemsize)
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def fill(self, array: Any, host: Any) -> None:
        self._require_here(array)
        staged = self.staged(host, array.shape, array.dtype)
        with self.ordered(), self:
            array.set(staged, stream=self._stream)
        self.keep(staged, self.mark())

    def staged(self, host: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """A host array in memory that the GPU reads by itself; from other memory the host would wait for the
        stream."""
        if isinstance(host, _Pinned) and host.flags.c_contiguous and host.dtype == dtype:
            return host
        pinned = self._pinned(shape, dtype)
        pinned[...] = host
        return pinned

    def keep(self, staged: Any, mark: Any) -> None:
        """Keeps what a copy reads until that copy, behind which `mark` stands, is done."""
        self._staged = [(other, kept) for other, kept in self._staged if not other.done]
        self._staged.append((mark, staged))

    def staging(self, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        return self._pinned(tuple(shape), dtype).view(_Pinned)

    def feed(self, target: Any) -> Feed:
        return CudaFeed(self, target)

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        with self:
            self._stream.begin_capture()
            try:
                work()
            finally:
                graph = self._stream.end_capture()

        def replay() -> None:
            with self:
                graph.launch(stream=self._stream)

        return replay

    def synchronize(self) -> None:
        self._stream.synchronize()

    def mark(self) -> Any:
        return self._recorded(timed=False)

    def moment(self) -> Any:
        return self._recorded(timed=True)

    def _recorded(self, timed: bool) -> Any:
        with self:  # an event and its stream must be of one GPU
            event = self.xp.cuda.Event(disable_timing=not timed)
            event.record(self._stream)
        return event

    def seconds_between(self, begin: Any, end: Any) -> float:
        end.synchronize()
        return float(self.xp.cuda.get_elapsed_time(begin, end)) / 1e3

    def wait(self, mark: Any) -> None:
        if mark is not None:
            self._stream.wait_event(mark)

    def transfer(self, target: Any, target_device: Device, source: Any) -> Transfer:
        assert isinstance(target_device, CudaDevice)
        return CudaTransfer(target, target_device, source, self)

    @functools.cached_property
    def copy_stream(self) -> Any:
        """The stream on which copies leave this device, beside its own work."""
        with self:
            return self.xp.cuda.Stream(non_blocking=True)


class CudaFeed(Feed):
    """Copies to a GPU on a stream of its own, so that the next batch goes there while a step computes.

    The array has one place, since captured work reads fixed addresses, and needs no second one: what reads it
    is the step's first operation, behind which it may be filled anew. That operation stands outside what is
    captured, where marks can be waited for.
    """

    _device: CudaDevice

    def __init__(self, device: CudaDevice, target: Any) -> None:
        super().__init__(device, target)
        with device:
            self._stream = device.xp.cuda.Stream(non_blocking=True)
        # The mark behind the last reader; before the first, behind whoever had this memory before.
        self._read = device.mark()
        self._filled: Any = None

    def start(self, host: np.ndarray[Any, Any]) -> None:
        device, target, count = self._device, self._target, len(host)
        staged = device.staged(host, target[:count].shape, target.dtype)
        with device, self._stream:
            self._stream.wait_event(self._read)
            target[:count].set(staged, stream=self._stream)
            if count < len(target):
                target[count:] = 0
            self._filled = device.xp.cuda.Event(disable_timing=True)
            self._filled.record(self._stream)
        device.keep(staged, self._filled)

    def wait(self) -> None:
        self._device.wait(self._filled)

    def been_read(self) -> None:
        self._read = self._device.mark()


class CudaTransfer(Transfer):
    """A copy between GPUs on the source's copy stream, beside all other work.

    Where one GPU can reach the other's memory it is one cudaMemcpyPeerAsync. Otherwise (or with
    CCONVNET_PEER_ACCESS=off) it goes through pinned host memory: out on the source's copy stream, in on the
    target's. Source: CUDA programming guide, "Peer-to-Peer Memory Copy".
    """

    def __init__(self, target: Any, target_device: CudaDevice, source: Any, device: CudaDevice) -> None:
        self._target, self._source = target, source
        self._to, self._from = target_device, device
        cuda = device.xp.cuda
        self.last: list[tuple[Device | None, Any, Any]] = []
        self._counted = True  # whether the last copy's time is in _seconds
        self._seconds = 0.0
        self._pinned = None
        if not _can_reach(cuda, device.ordinal, target_device.ordinal):
            self._pinned = cuda.alloc_pinned_memory(source.nbytes)

    def start(self, *after: Any) -> Any:
        self._add_times()
        self.last, self._counted = [], False
        source, target = self._from, self._to
        if self._pinned is None:

            def across(stream: int) -> None:
                source.module.copy(self._target, target.ordinal, self._source, source.ordinal, stream)

            return self._timed(source, across, after)
        runtime, host, size = source.xp.cuda.runtime, self._pinned.ptr, self._source.nbytes

        def leave(stream: int) -> None:
            runtime.memcpyAsync(host, self._source.data.ptr, size, runtime.memcpyDeviceToHost, stream)

        def land(stream: int) -> None:
            runtime.memcpyAsync(self._target.data.ptr, host, size, runtime.memcpyHostToDevice, stream)

        done = self._timed(target, land, [self._timed(source, leave, after)])
        # The host memory is free for the next copy only then.
        source.copy_stream.wait_event(done)
        return done

    def _timed(self, device: CudaDevice, copy: Callable[[int], None], after: Iterable[Any]) -> Any:
        """Puts a copy on a device's copy stream behind the marks `after`; returns its end."""
        cuda, stream = device.xp.cuda, device.copy_stream
        with device:
            for mark in after:
                if mark is not None:
                    stream.wait_event(mark)
            begin, end = cuda.Event(), cuda.Event()
            begin.record(stream)
            copy(int(stream.ptr))
            end.record(stream)
        self.last.append((device, begin, end))
        return end

    def _add_times(self) -> None:
        if not self._counted:
            # Reached long ago, in the step before.
            self._seconds += sum(self._from.seconds_between(begin, end) for _, begin, end in self.last)
            self._counted = True

    @property
    def seconds(self) -> float:
        self._add_times()
        return self._seconds


def _can_reach(cuda: Any, source: int, target: int) -> bool:
    """Whether one GPU can write into another's memory; if so, it may from now on."""
    if os.environ.get("CCONVNET_PEER_ACCESS") == "off":
        return False
    if source == target:
        return True
    if not cuda.runtime.deviceCanAccessPeer(source, target):
        return False
    with contextlib.suppress(cuda.runtime.CUDARuntimeError), cuda.Device(source):
        cuda.runtime.deviceEnablePeerAccess(target)  # fails where it is enabled already
    return True


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
    if kind not in KINDS or not is_number(index or "0"):
        raise ValueError(f"device must be cuda:N, cpu:N or emulator:N, not {name!r}")
    return _make(kind, int(index or "0"))


def devices_of(names: list[str] | None) -> list[Device]:
    """The devices of these names; of none, the default."""
    return [get_device(name) for name in names] if names else [get_device()]


def check_precision(precision: str | None) -> None:
    """Refuses what is no precision; whether a device can do it is the network's to say."""
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")


def cuda_device_on(ordinal: int) -> Device:
    """The first logical CUDA device on a physical GPU.

    Raises DeviceUnavailable where CCONVNET_CUDA_DEVICES leaves that GPU out.
    """
    ordinals = _cuda_ordinals()
    if ordinal not in ordinals:
        raise DeviceUnavailable(
            f"CCONVNET_CUDA_DEVICES={os.environ['CCONVNET_CUDA_DEVICES']} leaves GPU {ordinal} out"
        )
    return _make("cuda", ordinals.index(ordinal))


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
