"""Transfers of gradients and weights between ranks, by messages of MPI through the host's memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from cconvnet.devices import Device
from cconvnet.ranks.world import World

Array = np.ndarray[Any, Any]


class Wires(Protocol):
    """Begin transfers between ranks beside other work of a device, behind its work so far.

    All ranks must begin the same transfers in the same order. Arrays are C-contiguous arrays of the device.
    What is sent must not change, and what is received not be read, before the transfer is done.

    Attributes:
        sent_bytes: Bytes that this rank has sent so far.
        captured: True if transfers can be parts of captured work.
    """

    sent_bytes: int
    captured: bool

    def exchange(self, sends: Iterable[tuple[int, Any]], receives: Iterable[tuple[int, Any]]) -> Any:
        """Send arrays to ranks and receive arrays from ranks, each in its order; return the transfer."""

    def gather(self, whole: Any, own: slice) -> Any:
        """Collect equal parts of a float32 array, `own` from this rank; return the transfer."""

    def reduce(self, whole: Any, own: Any) -> Any:
        """Add a float32 array over all ranks in the library's order, into each rank's equal part."""

    def highest(self, number: Any) -> Any:
        """Replace an int32[1] by the largest of all ranks; return the transfer."""

    def wait(self, transfer: Any) -> None:
        """Let later work of the device wait for a transfer."""


def captured(device: Device, wires: Wires | None, work: Callable[[], None]) -> Callable[[], None]:
    """Capture work of a device, transfers included; their bytes are counted at each replay."""
    if wires is None:
        return device.captured(work)
    before = wires.sent_bytes
    replay = device.captured(work)
    sent, wires.sent_bytes = wires.sent_bytes - before, before

    def replay_and_count() -> None:
        replay()
        wires.sent_bytes += sent

    return replay_and_count


@dataclasses.dataclass
class Transfer:
    """Messages that were begun, and what is then copied from the host to the device."""

    requests: list[Any]
    landings: list[tuple[Any, Array]] = dataclasses.field(default_factory=list)


class MpiWires:
    """Messages of MPI. Arrays of a GPU go through pinned memory of the host.

    Args:
        world: The ranks.
        device: Whose arrays are transferred.
        staged: True if the host cannot read them.
    """

    captured = False

    def __init__(self, world: World, device: Device, staged: bool) -> None:
        from mpi4py import MPI

        self._mpi, self._world, self._comm = MPI, world, world.comm
        self._device, self._staged = device, staged
        self._mirrors: dict[tuple[str, int, int], Array] = {}
        self.sent_bytes = 0

    def exchange(self, sends: Iterable[tuple[int, Any]], receives: Iterable[tuple[int, Any]]) -> Transfer:
        """Begin to send and to receive."""
        landings = [(array, self._mirror("in", array)) for _, array in receives]
        ranks = [rank for rank, _ in receives]
        requests = [
            self._comm.Irecv(_bytes(host), rank) for rank, (_, host) in zip(ranks, landings, strict=True)
        ]
        sends = list(sends)
        hosts = self._out([array for _, array in sends])
        for (rank, array), host in zip(sends, hosts, strict=True):
            requests.append(self._comm.Isend(_bytes(host), rank))
            self.sent_bytes += int(array.nbytes)
        return Transfer(requests, landings)

    def gather(self, whole: Any, own: slice) -> Transfer:
        """Begin to collect parts."""
        count, host = own.stop - own.start, self._mirror("in", whole)
        if self._staged:
            host[own] = self._out([whole[own]])[0]
        self.sent_bytes += (self._world.size - 1) * count * whole.itemsize
        request = self._comm.Iallgather(self._mpi.IN_PLACE, [host, count, self._mpi.FLOAT])
        return Transfer([request], [(whole, host)])

    def reduce(self, whole: Any, own: Any) -> Transfer:
        """Begin to add."""
        host = self._mirror("in", own)
        self.sent_bytes += (self._world.size - 1) * int(own.nbytes)
        request = self._comm.Ireduce_scatter_block(self._out([whole])[0], host, self._mpi.SUM)
        return Transfer([request], [(own, host)])

    def highest(self, number: Any) -> Transfer:
        """Begin to compare."""
        (host,) = self._out([number])
        return Transfer([self._comm.Iallreduce(self._mpi.IN_PLACE, host, self._mpi.MAX)], [(number, host)])

    def wait(self, transfer: Transfer) -> None:
        """Wait for messages, and copy what they brought to the device."""
        self._world.wait(transfer.requests)
        if self._staged:
            for array, host in transfer.landings:
                self._device.fill(array, host)

    def _mirror(self, way: str, array: Any) -> Array:
        """Return the host's memory for an array of the device, always the same; the array itself if it is."""
        if not self._staged:
            mirror: Array = array
            return mirror
        address = array.data.ptr if hasattr(array.data, "ptr") else array.ctypes.data
        key = way, int(address), int(array.nbytes)
        if key not in self._mirrors:
            self._mirrors[key] = self._device.host_memory(array.shape, array.dtype)
        return self._mirrors[key]

    def _out(self, arrays: list[Any]) -> list[Array]:
        """Return arrays of the device in the host's memory."""
        hosts = [self._mirror("out", array) for array in arrays]
        if self._staged:
            self._device.copy_out(zip(arrays, hosts, strict=True))()
        return hosts


def _bytes(array: Array) -> Any:
    """Return the memory of an array, of whose type MPI may know nothing."""
    return array.reshape(-1).view(np.uint8)
