"""As much of NCCL and of CuPy's streams as transfers between ranks use; each rank is a thread of the test.

Every call is recorded by rank. Transfers move memory as late as they may: when the device's work waits for
them. Within captured work whatever makes the host wait is refused, as CUDA does.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from helpers.thread_ranks import Meeting

from cconvnet.devices import Device

Array = np.ndarray[Any, Any]
KINDS = {"NCCL_FLOAT32": np.float32, "NCCL_FLOAT16": np.uint16, "NCCL_INT32": np.int32}


class GpuArray(np.ndarray[Any, Any]):
    """An array whose address is where CuPy has it."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


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
        self._group: list[Callable[[dict[int, list[Array]]], None]] | None = None

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
        messages, receives, self._group = self._messages, self._group, None

        def deliver() -> None:
            told = self._meeting.leave(self.rank, messages)
            arrived = {
                peer: [np.array(one) for one in told[peer].get(self.rank, [])] for peer in range(len(told))
            }
            self._meeting.barrier.wait()  # all is read before anything is written
            for receive in receives:
                receive(arrived)
            assert not any(arrived.values()), "messages that nobody received"

        self._device.transfers.append(deliver)

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

        self._group.append(receive)

    def allGather(self, own: int, whole: int, count: int, kind: str, stream: Any) -> None:
        def gather(found: list[Array]) -> None:
            _memory(whole, count * len(found), kind)[...] = np.concatenate(found)

        self._record("allGather", count, kind, None, stream)
        self._together(_memory(own, count, kind), gather)

    def reduceScatter(self, whole: int, own: int, count: int, kind: str, add: str, stream: Any) -> None:
        here = slice(self.rank * count, (self.rank + 1) * count)

        def reduce(found: list[Array]) -> None:
            _memory(own, count, kind)[...] = np.sum([array[here] for array in found], axis=0)

        self._record("reduceScatter", count, kind, add, stream)
        self._together(_memory(whole, count * self._meeting.size, kind), reduce)

    def allReduce(self, source: int, target: int, count: int, kind: str, most: str, stream: Any) -> None:
        def reduce(found: list[Array]) -> None:
            _memory(target, count, kind)[...] = np.max(found, axis=0)

        assert most == "max"
        self._record("allReduce", count, kind, most, stream)
        self._together(_memory(source, count, kind), reduce)

    def _together(self, own: Array, land: Callable[[list[Array]], None]) -> None:
        """Let the stream bring together the arrays of all ranks, as they are then."""
        self._device.transfers.append(lambda: land(self._meeting.leave(self.rank, np.array(own))))

    def _record(self, name: str, count: int, kind: str, with_what: Any, stream: Any) -> None:
        assert self._device.waited, "a transfer that does not wait for the work before it"
        self.calls[self.rank].append((name, count, kind, with_what, stream, self._device.in_capture))


def _memory(address: int, count: int, kind: str) -> Array:
    size = count * np.dtype(KINDS[kind]).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), KINDS[kind])


class Event:
    """A mark in the stream of a device."""

    def __init__(self, device: FakeGpu, timed: bool) -> None:
        self._device, self.timed = device, timed

    def record(self, stream: Any) -> None:
        assert stream.ptr == 7
        self._device.waited = False
        self.last = self._device.transfers[-1]


class FakeGpu(Device):
    """A CPU device that has one stream for transfers.

    Attributes:
        in_capture: whether captured work runs.
        waited: whether the stream waits for the work so far.
        transfers: those that no work has waited for, in the order of the stream.
        wires: whose counts a replay leaves alone, since no code of the host runs then.
    """

    def __init__(self) -> None:
        super().__init__("cpu", 0)
        self.in_capture = self.waited = False
        self.transfers: list[Callable[[], None]] = []
        self.wires: Any = SimpleNamespace(sent_bytes=0)
        stream = SimpleNamespace(ptr=7, wait_event=self._follow)
        self.xp = SimpleNamespace(
            empty=lambda shape, dtype: np.empty(shape, dtype).view(GpuArray),
            zeros=lambda shape, dtype: np.zeros(shape, dtype).view(GpuArray),
            array=lambda host, **options: np.array(host, **options).view(GpuArray),
            cuda=SimpleNamespace(
                Stream=lambda **options: stream,
                Event=lambda disable_timing: Event(self, timed=not disable_timing),
            ),
        )

    def _follow(self, mark: Any) -> None:
        self.waited = True

    def wait(self, mark: Event | None) -> None:
        if mark is None:
            return
        assert not mark.timed, "captured work cannot have events with times"
        while mark.last in self.transfers:
            self.transfers.pop(0)()

    def host(self, array: Any) -> Array:
        assert not self.in_capture, "captured work waits for the host"
        return np.array(array).view(np.ndarray)

    def fill(self, array: Any, host: Any) -> None:
        assert not self.in_capture, "captured work reads the host's memory"
        super().fill(array, host)

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run work of the host once; the device does now what it should do at the first replay."""
        replays = itertools.count()

        def run() -> None:
            self.in_capture = True
            try:
                work()
            finally:
                self.in_capture = False

        def replay() -> None:
            if next(replays) > 0:
                sent = self.wires.sent_bytes
                run()
                self.wires.sent_bytes = sent

        run()
        return replay
