"""GPUs: streams, events, pinned memory, and copies between devices."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from cconvnet.devices.device import Device, Feed, Transfer, used_multiprocessors
from cconvnet.devices.proofs import open_proven_rows
from cconvnet.errors import DeviceUnavailable
from cconvnet.system.installation import pip_install


class Pinned(np.ndarray[Any, Any]):
    """Pinned host memory.

    Copies keep this type without being pinned. They are transferred synchronously: slower but correct.
    """


class CudaDevice(Device):
    """A logical GPU: an ordinal and a stream of its own.

    Callers have a stream too, CuPy's current one. Methods that take or return arrays, and all of
    ``cconvnet.ops``, order the two streams with events: see :meth:`ordered`. Inside ``with device:`` the
    device's stream is the current one, and no events are needed. Feeds, transfers and captured work are
    ordered by marks alone.

    The memory of a device's array returns to the pool of the device's stream. If another stream has work on
    the array, make any call outside ``with device:`` before dropping it, or wait.
    """

    def __init__(self, index: int) -> None:
        cupy = import_cupy()
        super().__init__("cuda", index)
        ordinals = cuda_ordinals()
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
        self.runs_beside = os.environ.get("CCONVNET_BESIDE") != "off"
        self.reason = f"{properties['name'].decode()}, {self.reason}"
        open_proven_rows(self.module, (properties["major"], properties["minor"]))
        self._entered: list[Any] = []
        self._used = 0  # multiprocessors of kernels with a block for each; 0: all
        self._forked = False  # True if the second stream has work that the first does not wait for
        self._staged: list[tuple[Any, Any]] = []  # host arrays that copies to the GPU may still read

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
        """Select this GPU inside; the stream stays the caller's."""
        device: contextlib.AbstractContextManager[Any] = self.xp.cuda.Device(self.ordinal)
        return device

    @contextlib.contextmanager
    def ordered(self) -> Iterator[None]:
        """Order the work inside, on this device's stream, with CuPy's current stream.

        The device's stream waits for the current stream on entry, and the current stream for the device's on
        exit. If they are the same stream, no event is recorded, so work can be captured. A current stream
        that is being captured takes the work inside into its graph.

        This order also makes memory safe to reuse. CuPy's pool gives the memory of a freed array to the next
        allocation on the stream of that array, while other streams may still use it.
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
                # Part of the work may be running. The error to raise is the one that stopped it.
                with contextlib.suppress(self.xp.cuda.runtime.CUDARuntimeError):
                    self._follow(current, self._stream)
                raise
            self._follow(current, self._stream)

    def capturing(self) -> bool:
        """Return True while CuPy's current stream of this GPU is being captured."""
        with self.selected():
            current = self.xp.cuda.get_current_stream()
            return bool(current.ptr and current.is_capturing())  # the default stream cannot be

    def _require_here(self, array: Any) -> None:
        """Raise ValueError if an array is on another GPU."""
        if array.device.id != self.ordinal:
            raise ValueError(
                f"array is on GPU {array.device.id}, but {self.name} is GPU {self.ordinal}: copy it there"
            )

    def _follow(self, later: Any, earlier: Any) -> None:
        """Make later work of one stream wait for the present work of another."""
        event = self.xp.cuda.Event(disable_timing=True)
        event.record(earlier)
        later.wait_event(event)

    def host(self, array: Any) -> np.ndarray[Any, Any]:
        """Copy an array of this GPU to the host, and wait for it."""
        self._require_here(array)
        with self.ordered(), self:
            return np.asarray(self.xp.asnumpy(array, stream=self._stream))

    def host_later(self, array: Any) -> Callable[[], np.ndarray[Any, Any]]:
        """Begin a copy to pinned memory; the result waits for it and returns it."""
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
        """Allocate pinned memory for repeated copies out of this GPU."""
        return self._pinned(tuple(shape), dtype)

    def copy_out(self, pairs: Iterable[tuple[Any, np.ndarray[Any, Any]]]) -> Callable[[], None]:
        """Begin to copy arrays of this GPU into pinned memory; the result waits for the copies."""
        # On the stream of all work, so that the next step follows the copies and the host need not wait.
        with self.ordered(), self:
            for source, target in pairs:
                self._require_here(source)
                self.xp.asnumpy(source, stream=self._stream, out=target, blocking=False)
        copied = self.mark()
        return lambda: copied.synchronize()

    def _pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Allocate a host array in pinned memory, which returns to CuPy's pool."""
        count, dtype = math.prod(shape), np.dtype(dtype)
        memory = self.xp.cuda.alloc_pinned_memory(count * dtype.itemsize)
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def fill(self, array: Any, host: Any) -> None:
        """Copy a host array into an array of this GPU; the host array may change at once."""
        self._require_here(array)
        staged = self.staged(host, array.shape, array.dtype)
        with self.ordered(), self:
            array.set(staged, stream=self._stream)
        self.keep(staged, self.mark())

    def staged(self, host: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Return a host array in pinned memory, copied there if needed: other memory makes the host wait."""
        if isinstance(host, Pinned) and host.flags.c_contiguous and host.dtype == dtype:
            return host
        pinned = self._pinned(shape, dtype)
        pinned[...] = host
        return pinned

    def keep(self, staged: Any, mark: Any) -> None:
        """Keep a host array until the copy that reads it, with `mark` behind it, is done."""
        self._staged = [(other, kept) for other, kept in self._staged if not other.done]
        self._staged.append((mark, staged))

    def staging(self, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        """Allocate pinned memory that feeds read directly."""
        return self._pinned(tuple(shape), dtype).view(Pinned)

    def feed(self, target: Any) -> Feed:
        """Prepare to fill `target` from the host on a stream of its own."""
        return CudaFeed(self, target)

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture work of this GPU as a graph, and return a function that launches it."""
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

    def beside(self, work: Callable[[], None]) -> None:
        """Do work on a second stream; captured, it is a parallel branch of the graph.

        Source: CUDA programming guide, "Cross-stream Dependencies and Events" of stream capture.
        """
        stream, branch = self._stream, self._branch
        with self:
            self._follow(branch, stream)
        self._stream, self.stream, self._forked = branch, int(branch.ptr), True
        try:
            work()
        finally:
            self._stream, self.stream = stream, int(stream.ptr)

    def use(self, share: float) -> None:
        """Let later kernels with a block for each multiprocessor have a share of them."""
        count = used_multiprocessors(self._multiprocessors, share)
        if count != self._used:
            self.module.set_multiprocessors(count)
            self._used = count

    def join(self) -> None:
        """Make this device's stream wait for the second one."""
        if self._forked:
            with self:
                self._follow(self._stream, self._branch)
            self.use(1.0)
            self._forked = False

    @functools.cached_property
    def _branch(self) -> Any:
        """The stream of work beside the device's other work."""
        with self:
            return self.xp.cuda.Stream(non_blocking=True)

    @functools.cached_property
    def _multiprocessors(self) -> int:
        with self.selected():
            properties = self.xp.cuda.runtime.getDeviceProperties(self.ordinal)
        return int(properties["multiProcessorCount"])

    def synchronize(self) -> None:
        """Wait until all work on this device's stream is done."""
        self._stream.synchronize()

    def mark(self) -> Any:
        """Record an event behind the work so far."""
        return self._recorded(timed=False)

    def moment(self) -> Any:
        """Record an event that keeps its time."""
        return self._recorded(timed=True)

    def _recorded(self, timed: bool) -> Any:
        with self:  # an event and its stream must be of one GPU
            event = self.xp.cuda.Event(disable_timing=not timed)
            event.record(self._stream)
        return event

    def seconds_between(self, begin: Any, end: Any) -> float:
        """Wait for the event `end`, and return the seconds between two events."""
        end.synchronize()
        return float(self.xp.cuda.get_elapsed_time(begin, end)) / 1e3

    def wait(self, mark: Any) -> None:
        """Make this device's stream wait for an event, unless it is None."""
        if mark is not None:
            self._stream.wait_event(mark)

    def transfer(self, target: Any, target_device: Device, source: Any) -> Transfer:
        """Prepare to copy `source` to another GPU again and again."""
        assert isinstance(target_device, CudaDevice)
        return CudaTransfer(target, target_device, source, self)

    @functools.cached_property
    def copy_stream(self) -> Any:
        """The stream of copies out of this device, which run in parallel to its other work."""
        with self:
            return self.xp.cuda.Stream(non_blocking=True)


class CudaFeed(Feed):
    """Copies to a GPU on a stream of its own, so that the next batch arrives while a step computes.

    The array has one address, since captured work reads fixed addresses. It needs no second one: its reader
    is the step's first operation, behind which the array may be filled anew. That operation is not part of
    the captured work, so marks can be waited for.
    """

    _device: CudaDevice

    def __init__(self, device: CudaDevice, target: Any) -> None:
        super().__init__(device, target)
        with device:
            self._stream = device.xp.cuda.Stream(non_blocking=True)
        # The mark behind the last reader; before the first, behind the memory's last user.
        self._read = device.mark()
        self._filled: Any = None

    def start(self, host: np.ndarray[Any, Any]) -> None:
        """Begin to fill the first rows with `host` and the others with zeros."""
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
        """Make the device's stream wait until the array is filled."""
        self._device.wait(self._filled)

    def been_read(self) -> None:
        """Let the next filling wait for the work of the device so far."""
        self._read = self._device.mark()


class CudaTransfer(Transfer):
    """A copy between GPUs on the source's copy stream, in parallel to all other work.

    If one GPU can reach the other's memory, it is one cudaMemcpyPeerAsync. Otherwise, or with
    CCONVNET_PEER_ACCESS=off, it goes through pinned host memory: out on the source's copy stream, in on the
    target's. Source: CUDA programming guide, "Peer-to-Peer Memory Copy".
    """

    def __init__(self, target: Any, target_device: CudaDevice, source: Any, device: CudaDevice) -> None:
        self._target, self._source = target, source
        self._to, self._from = target_device, device
        cuda = device.xp.cuda
        self.last: list[tuple[Device | None, Any, Any]] = []
        self._counted = True  # True if the time of the last copy is in _seconds
        self._seconds = 0.0
        self._pinned = None
        if not _can_reach(cuda, device.ordinal, target_device.ordinal):
            self._pinned = cuda.alloc_pinned_memory(source.nbytes)

    def start(self, *after: Any) -> Any:
        """Copy once the marks `after` are reached, and return the mark at which the copy is done."""
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
        # Only then is the host memory free for the next copy.
        source.copy_stream.wait_event(done)
        return done

    def _timed(self, device: CudaDevice, copy: Callable[[int], None], after: Iterable[Any]) -> Any:
        """Enqueue a copy on a device's copy stream behind the marks `after`, and return its end."""
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
            # These events were reached long ago, in the previous step.
            self._seconds += sum(self._from.seconds_between(begin, end) for _, begin, end in self.last)
            self._counted = True

    @property
    def seconds(self) -> float:
        """The time of all copies so far."""
        self._add_times()
        return self._seconds


def _can_reach(cuda: Any, source: int, target: int) -> bool:
    """Return True if one GPU can write into another's memory, and enable it."""
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
    """Return CuPy.

    Raises:
        DeviceUnavailable: CuPy is missing, or finds no GPU.
    """
    try:
        import cupy
    except ImportError as error:
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise DeviceUnavailable(
                "no driver of an NVIDIA GPU was found; a cuda device needs it and CuPy, which is missing "
                f"too: {pip_install('cupy-cuda13x')}"
            ) from error
        raise DeviceUnavailable(
            f"a cuda device needs CuPy, which is missing: {pip_install('cupy-cuda13x')}"
        ) from error
    if not cupy.cuda.is_available():
        raise DeviceUnavailable(
            "no usable NVIDIA GPU: none is visible or its driver is missing; try `nvidia-smi`. "
            "Without --device the CPU is used"
        )
    return cupy


def cuda_ordinals() -> list[int]:
    """Return the physical ordinal of each logical CUDA device."""
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
