"""As much of CuPy as devices and operations use, over queues that advance at random.

A call puts work into the queue of its stream and returns. Freed memory goes back to the stream it was
allocated on, and the next array of that size there has it, as in CuPy's pool. What CUDA refuses is refused:
work on a stream of a GPU that is not the current one, and waiting in captured work for what was not captured.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.queued_streams import Machine, Mark, Queue, Work

from cconvnet.devices import cuda, registry
from cconvnet.devices import device as device_module
from cconvnet.ops import arrays as arrays_module

_FIRST_HANDLE = 1 << 48  # no number that an operation is given looks like a stream
_AT_ONCE = ("serves", "rows_to_prove", "prove_rows", "set_multiprocessors")  # functions that launch nothing
_GRANULE = 512  # bytes that the pool rounds sizes up to


class CudaRefused(RuntimeError):
    """CuPy's CUDARuntimeError."""


class Memory:
    """A block of one stream's pool, while arrays use it."""

    def __init__(self, cupy: QueuedCupy, size: int) -> None:
        granules = -(-size // _GRANULE)
        self.gpu, self.blocks = cupy.gpu, cupy.pools[cupy.gpu, cupy.current.ptr, granules]
        self.block = self.blocks.pop() if self.blocks else np.full(granules * _GRANULE, 0xFF, np.uint8)

    def __del__(self) -> None:
        self.blocks.append(self.block)


class QueuedArray(np.ndarray[Any, Any]):
    """An array on a GPU, written when its stream gets there; read it with asnumpy."""

    __module__ = "cupy"
    memory: Memory | None = None
    cupy: Any = None

    def __array_finalize__(self, other: Any) -> None:
        self.memory, self.cupy = getattr(other, "memory", None), getattr(other, "cupy", None)

    @property
    def device(self) -> Any:
        assert self.memory
        return SimpleNamespace(id=self.memory.gpu)

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def set(self, host: Any, stream: Any) -> None:
        """Copy from pinned memory, which is read when the copy runs."""
        target = seen(self)
        stream.give(lambda: np.copyto(target, host))


def seen(value: Any) -> Any:
    """A kernel's view of an argument: an array's address, which does not keep its memory from reuse."""
    if not isinstance(value, QueuedArray):
        return value
    assert value.memory
    block = value.memory.block
    return np.ndarray(value.shape, value.dtype, block.data, value.ctypes.data - block.ctypes.data)


class Graph:
    """Captured work; what several streams were given is in no other order than that of events."""

    def __init__(self, origin: Stream) -> None:
        self.origin = origin
        self.work: list[Work] = []
        self.forks: set[Stream] = set()  # other streams whose last work the first one has not waited for
        # What each stream was given: work, or whether an event is recorded or waited for, and its mark.
        self.given: list[tuple[Stream, Work | tuple[bool, Any]]] = []

    def launch(self, stream: Stream) -> None:
        marks: dict[Any, Mark] = {}
        for captured, entry in self.given:
            queue = (stream if captured is self.origin else captured).queue
            if not isinstance(entry, tuple):
                queue.entries.append(entry)
            elif entry[0]:
                marks[entry[1]] = queue.mark()
            else:
                queue.entries.append(marks[entry[1]])
        stream.passed()


class Event:
    def __init__(self, cupy: QueuedCupy) -> None:
        self._cupy, self.gpu = cupy, cupy.gpu
        self.mark: Mark | None = None
        self.captured: tuple[Graph, Stream, object] | None = None

    def record(self, stream: Stream) -> None:
        stream.check()
        if stream.at != self.gpu:
            raise CudaRefused("an event is recorded on a stream of another GPU")
        self._cupy.events += 1
        if stream.graph:
            self.captured = stream.graph, stream, object()
            stream.graph.given.append((stream, (True, self.captured[2])))
        else:
            self.mark, self.captured = stream.queue.mark(), None

    def synchronize(self) -> None:
        if self.mark is not None:
            mark = self.mark
            self._cupy.machine.run(lambda: mark.reached)

    @property
    def done(self) -> bool:
        return self.mark is None or self.mark.reached


class Stream:
    def __init__(self, cupy: QueuedCupy, gpu: int | None = None) -> None:
        self._cupy, self._gpu = cupy, gpu
        # The default stream is one of each GPU.
        self.queues = [cupy.machine.queue() for _ in range(cupy.gpus if gpu is None else 1)]
        self.ptr = 0 if gpu is None else _FIRST_HANDLE + len(cupy.streams)
        self.graph: Graph | None = None
        cupy.streams[self.ptr] = self

    @property
    def at(self) -> int:
        """The GPU of this stream; the default stream is that of the current one."""
        return self._cupy.gpu if self._gpu is None else self._gpu

    @property
    def queue(self) -> Queue:
        return self.queues[self.at if self._gpu is None else 0]

    def check(self) -> None:
        if self.at != self._cupy.gpu:
            raise CudaRefused(f"a stream of GPU {self.at} is used on GPU {self._cupy.gpu}")

    def give(self, work: Work) -> None:
        self.check()
        if self.graph:
            self.graph.work.append(work)
            self.graph.given.append((self, work))
            self._fork()
            return
        self.queue.entries.append(work)
        self.passed()

    def passed(self) -> None:
        self._cupy.passed()

    def _fork(self) -> None:
        assert self.graph
        if self.graph is not self._cupy.captures.get(self):
            self.graph.forks.add(self)

    def wait_event(self, event: Event) -> None:
        self.check()
        if event.captured:
            graph, source, mark = event.captured
            if self.graph is None:
                self.graph = graph
            if self is not source:
                graph.given.append((self, (False, mark)))
            if self is not source and graph is self._cupy.captures.get(self):
                graph.forks.discard(source)
            else:
                self._fork()
        elif self.graph:
            raise CudaRefused("captured work waits for work that is not captured")
        elif event.mark is not None:
            self.queue.entries.append(event.mark)

    def begin_capture(self) -> None:
        if not self.ptr:
            raise CudaRefused("the default stream cannot be captured")
        self._cupy.captures[self] = self.graph = Graph(self)

    def end_capture(self) -> Graph:
        graph = self._cupy.captures.pop(self)
        if graph.forks:
            raise CudaRefused("a stream that joined the capture was not waited for")
        for stream in self._cupy.streams.values():
            if stream.graph is graph:
                stream.graph = None
        return graph

    def is_capturing(self) -> bool:
        return self.graph is not None

    def synchronize(self) -> None:
        mark = self.queue.mark()
        self._cupy.machine.run(lambda: mark.reached)

    def __enter__(self) -> Stream:
        self.check()
        self._cupy.entered[self.at].append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self._cupy.entered[self.at].pop()


class _Streams:
    """The class `cupy.cuda.Stream`."""

    def __init__(self, cupy: QueuedCupy) -> None:
        self._cupy, self.null = cupy, cupy.null

    def __call__(self, **options: Any) -> Stream:
        return Stream(self._cupy, self._cupy.gpu)


class QueuedCupy:
    """The module `cupy`. With `at_once` every stream's work is done when it is given."""

    def __init__(self, machine: Machine, gpus: int = 1, at_once: bool = False) -> None:
        self.machine, self.gpus, self.at_once = machine, gpus, at_once
        self.gpu, self.events = 0, 0
        self.streams: dict[int, Stream] = {}
        self.captures: dict[Stream, Graph] = {}
        self.pools: dict[Any, list[Any]] = defaultdict(list)
        self.null = Stream(self)
        self.entered: list[list[Stream]] = [[self.null] for _ in range(gpus)]
        self.cuda = SimpleNamespace(
            Device=self._device,
            Event=lambda **options: Event(self),
            Stream=_Streams(self),
            ExternalStream=lambda pointer, gpu: self.streams[pointer],
            get_current_stream=lambda: self.current,
            alloc_pinned_memory=self._pinned,
            is_available=lambda: True,
            runtime=SimpleNamespace(
                CUDARuntimeError=CudaRefused,
                getDeviceCount=lambda: gpus,
                getDeviceProperties=lambda gpu: {
                    "name": b"queues",
                    "major": 9,
                    "minor": 0,
                    "multiProcessorCount": 8,
                },
            ),
        )

    @property
    def current(self) -> Stream:
        return self.entered[self.gpu][-1]

    def passed(self) -> None:
        """Let some time pass, since work was enqueued."""
        if self.at_once:
            self.machine.drain()
        else:
            self.machine.advance(self.machine.random.choice((0, 0, 1, 3)))

    @contextmanager
    def _device(self, gpu: int) -> Iterator[None]:
        before, self.gpu = self.gpu, gpu
        try:
            yield
        finally:
            self.gpu = before

    def _pinned(self, size: int) -> Any:
        return ctypes.create_string_buffer(size)

    def empty(self, shape: Any, dtype: Any = np.float32) -> QueuedArray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = Memory(self, size)
        array = np.ndarray(shape, dtype, memory.block.data).view(QueuedArray)
        array.memory, array.cupy = memory, self
        return array

    def launch(self, kernel: Callable[..., Any], target: QueuedArray, *sources: Any) -> QueuedArray:
        """Enqueue a user's kernel on the current stream: target = kernel(*sources)."""
        written, read = seen(target), [seen(source) for source in sources]
        self.current.give(lambda: np.copyto(written, kernel(*read)))
        return target

    def zeros(self, shape: Any, dtype: Any = np.float32) -> QueuedArray:
        return self.launch(lambda: 0, self.empty(shape, dtype))

    def array(self, host: Any, dtype: Any = None, order: str = "C") -> QueuedArray:
        value = np.array(host, dtype)
        return self.launch(lambda: value, self.empty(value.shape, value.dtype))

    def asnumpy(self, array: Any, stream: Any = None, out: Any = None, blocking: bool = True) -> Any:
        stream, source = stream or self.current, seen(array)
        target = np.empty(source.shape, source.dtype) if out is None else out
        stream.give(lambda: np.copyto(target, source))
        if blocking:
            stream.synchronize()
        return target

    def from_dlpack(self, producer: Any) -> Any:
        return producer.as_cupy(self.current)


class QueuedModule:
    """A compiled module whose kernels go to the stream among their arguments."""

    def __init__(self, module: Any, cupy: QueuedCupy) -> None:
        self._module, self._cupy = module, cupy

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)
        if name.endswith(("_impls", "_workspace")) or name in _AT_ONCE:
            # A workspace that is written, so that one which somebody else still uses shows.
            return (lambda *arguments: 512) if name == "bias_grad_workspace" else function

        def launch(*arguments: Any, **options: Any) -> None:
            streams = [a for a in arguments if type(a) is int and a >= _FIRST_HANDLE]
            stream = self._cupy.streams[streams[0] if streams else 0]
            read = [seen(argument) for argument in arguments]
            stream.give(lambda: function(*read, **options))
            if name == "bias_grad":
                space = read[3]
                stream.give(lambda: space.fill(0xFF))

        return launch


def install(patch: pytest.MonkeyPatch, cupy: QueuedCupy, module: Any) -> None:
    """Let cuda:0 and cuda:1 be devices of this CuPy with this module; on one GPU both are that."""
    for user in (device_module, registry):
        patch.setattr(user, "load_module", lambda kind: (module, "queues"))
    for importer in (cuda, arrays_module):
        patch.setattr(importer, "import_cupy", lambda: cupy)
    patch.setenv("CCONVNET_CUDA_DEVICES", "0,0" if cupy.gpus == 1 else "0,1")
    registry._make.cache_clear()
