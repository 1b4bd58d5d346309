"""As much of NCCL and of CuPy's streams as transfers between ranks use; each rank is a thread of the test.

Transfers move memory, and every call is recorded by rank. Within captured work whatever makes the host wait
is refused, as CUDA does.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from cconvnet.devices import Device
from cconvnet.ranks.world import World

Array = np.ndarray[Any, Any]
KINDS = {"NCCL_FLOAT32": np.float32, "NCCL_FLOAT16": np.uint16, "NCCL_INT32": np.int32}


class GpuArray(np.ndarray[Any, Any]):
    """An array whose address is where CuPy has it."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


class Meeting:
    """A place where all ranks leave something and see what the others left."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=60)
        self._left: list[Any] = [None] * size

    def leave(self, rank: int, what: Any) -> list[Any]:
        self._left[rank] = what
        self.barrier.wait()
        found = list(self._left)
        self.barrier.wait()
        return found


class ThreadWorld(World):
    """The world of a thread."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        super().__init__()
        self._meeting = meeting
        self.rank = self.local_rank = rank
        self.size = self.local_size = meeting.size

    def share(self, value: Any) -> list[Any]:
        return self._meeting.leave(self.rank, value)

    def broadcast(self, value: Any) -> Any:
        return self.share(value)[0]

    def collect_array(self, own: Array, whole: Array) -> None:
        found = self.share(np.array(own))
        if self.first:
            for target, array in zip(whole, found, strict=True):
                target[...] = array


class Nccl:
    """The module ``cupy.cuda.nccl`` of one rank.

    Attributes:
        calls: of all ranks, by rank: the name, the count, the type, the peer or operation, the stream, and
            whether work was being captured.
    """

    NCCL_SUM, NCCL_MAX = "sum", "max"

    def __init__(self, meeting: Meeting, device: FakeGpu, calls: list[list[tuple[Any, ...]]]) -> None:
        vars(self).update({name: name for name in KINDS})
        self._meeting, self._device, self.calls = meeting, device, calls
        self._group: list[Callable[[], None]] | None = None

    def get_unique_id(self) -> tuple[int, ...]:
        return 1, -2, 3

    def NcclCommunicator(self, size: int, identity: tuple[int, ...], rank: int) -> Nccl:
        assert (size, identity) == (self._meeting.size, (1, -2, 3))
        self.rank, self._messages = rank, {}
        return self

    def groupStart(self) -> None:
        assert self._group is None
        self._group = []
        self._messages: dict[int, list[Array]] = {}

    def groupEnd(self) -> None:
        assert self._group is not None
        told = self._meeting.leave(self.rank, self._messages)
        arrived = {
            peer: [np.array(one) for one in told[peer].get(self.rank, [])] for peer in range(len(told))
        }
        self._meeting.barrier.wait()  # all is read before anything is written
        for receive in self._group:
            receive(arrived)  # type: ignore[call-arg]
        self._group = None
        assert not any(arrived.values()), "messages that nobody received"

    def send(self, address: int, count: int, kind: str, peer: int, stream: Any) -> None:
        assert self._group is not None
        self._record("send", count, kind, peer, stream)
        self._messages.setdefault(peer, []).append(_memory(address, count, kind))

    def recv(self, address: int, count: int, kind: str, peer: int, stream: Any) -> None:
        assert self._group is not None
        self._record("recv", count, kind, peer, stream)

        def receive(arrived: dict[int, list[Array]]) -> None:
            message = arrived[peer].pop(0)
            assert (message.size, message.dtype) == (count, KINDS[kind])
            _memory(address, count, kind)[...] = message

        self._group.append(receive)  # type: ignore[arg-type]

    def allGather(self, own: int, whole: int, count: int, kind: str, stream: Any) -> None:
        self._record("allGather", count, kind, None, stream)
        found = self._together(_memory(own, count, kind))
        _memory(whole, count * len(found), kind)[...] = np.concatenate(found)

    def reduceScatter(self, whole: int, own: int, count: int, kind: str, add: str, stream: Any) -> None:
        self._record("reduceScatter", count, kind, add, stream)
        found = self._together(_memory(whole, count * self._meeting.size, kind))
        here = slice(self.rank * count, (self.rank + 1) * count)
        _memory(own, count, kind)[...] = np.sum([array[here] for array in found], axis=0)

    def allReduce(self, source: int, target: int, count: int, kind: str, most: str, stream: Any) -> None:
        assert most == "max"
        self._record("allReduce", count, kind, most, stream)
        _memory(target, count, kind)[...] = np.max(self._together(_memory(source, count, kind)), axis=0)

    def _together(self, own: Array) -> list[Array]:
        return self._meeting.leave(self.rank, np.array(own))

    def _record(self, name: str, count: int, kind: str, with_what: Any, stream: Any) -> None:
        assert self._device.waited, "a transfer that does not wait for the work before it"
        self.calls[self.rank].append((name, count, kind, with_what, stream, self._device.in_capture))


def _memory(address: int, count: int, kind: str) -> Array:
    size = count * np.dtype(KINDS[kind]).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), KINDS[kind])


class FakeGpu(Device):
    """A CPU device that has one stream for transfers.

    Attributes:
        in_capture: whether captured work runs.
        waited: whether the stream waits for the work so far.
    """

    def __init__(self) -> None:
        super().__init__("cpu", 0)
        self.in_capture = self.waited = False
        self.pending: set[int] = set()
        stream = SimpleNamespace(ptr=7, wait_event=self._follow)
        event = SimpleNamespace
        self.xp = SimpleNamespace(
            empty=lambda shape, dtype: np.empty(shape, dtype).view(GpuArray),
            zeros=lambda shape, dtype: np.zeros(shape, dtype).view(GpuArray),
            array=lambda host, **options: np.array(host, **options).view(GpuArray),
            cuda=SimpleNamespace(
                Stream=lambda **options: stream,
                Event=lambda disable_timing: event(timed=not disable_timing, record=self._end),
            ),
        )

    def _follow(self, mark: Any) -> None:
        self.waited = True

    def _end(self, stream: Any) -> None:
        assert stream.ptr == 7
        self.waited = False

    def wait(self, mark: Any) -> None:
        assert mark is None or not mark.timed, "captured work cannot have events with times"

    def host(self, array: Any) -> Array:
        assert not self.in_capture, "captured work waits for the host"
        return np.array(array).view(np.ndarray)

    def fill(self, array: Any, host: Any) -> None:
        assert not self.in_capture, "captured work reads the host's memory"
        super().fill(array, host)

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            self.in_capture = True
            try:
                work()
            finally:
                self.in_capture = False

        return replay
