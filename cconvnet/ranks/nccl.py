"""Transfers between GPUs by NCCL, on a stream of their own, so that they can be captured with a step.

Source: NCCL user guide, "Point-to-point communication" and "Using NCCL with CUDA Graphs".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from cconvnet.devices import Device
from cconvnet.ranks.world import World


class NcclWires:
    """Transfers of NCCL between ranks that have a GPU each.

    Args:
        world: The ranks; all of them make their wires together.
        device: This rank's GPU.
        nccl: The module ``cupy.cuda.nccl``.
    """

    captured = True

    def __init__(self, world: World, device: Device, nccl: Any) -> None:
        self._nccl, self._device, self._size = nccl, device, world.size
        self._rank = world.rank
        identity = world.broadcast(list(nccl.get_unique_id()) if world.first else None)
        with device:
            self._comm = nccl.NcclCommunicator(world.size, tuple(identity), world.rank)
            self._stream = device.xp.cuda.Stream(non_blocking=True)
        self._kinds = {
            np.dtype(np.float32): nccl.NCCL_FLOAT32,
            # Only moved, never added.
            np.dtype(np.uint16): nccl.NCCL_FLOAT16,
            np.dtype(np.int32): nccl.NCCL_INT32,
        }
        self.sent_bytes = 0

    def exchange(self, sends: Iterable[tuple[int, Any]], receives: Iterable[tuple[int, Any]]) -> Any:
        """Begin to send and to receive, as one group."""
        self._begin()
        self._nccl.groupStart()
        for rank, array in receives:
            self._comm.recv(array.data.ptr, array.size, self._kinds[array.dtype], rank, self._stream.ptr)
        for rank, array in sends:
            self._comm.send(array.data.ptr, array.size, self._kinds[array.dtype], rank, self._stream.ptr)
            self.sent_bytes += int(array.nbytes)
        self._nccl.groupEnd()
        return self._end()

    def gather(self, whole: Any, own: slice) -> Any:
        """Begin to collect parts."""
        self._begin()
        part, kind = whole[own], self._kinds[whole.dtype]
        self._comm.allGather(part.data.ptr, whole.data.ptr, part.size, kind, self._stream.ptr)
        self.sent_bytes += (self._size - 1) * int(part.nbytes)
        return self._end()

    def reduce(self, whole: Any, own: Any) -> Any:
        """Begin to add."""
        self._begin()
        kind, add = self._kinds[whole.dtype], self._nccl.NCCL_SUM
        self._comm.reduceScatter(whole.data.ptr, own.data.ptr, own.size, kind, add, self._stream.ptr)
        self.sent_bytes += (self._size - 1) * int(own.nbytes)
        return self._end()

    def highest(self, number: Any) -> Any:
        """Begin to compare."""
        self._begin()
        pointer, kind, most = number.data.ptr, self._kinds[number.dtype], self._nccl.NCCL_MAX
        self._comm.allReduce(pointer, pointer, number.size, kind, most, self._stream.ptr)
        return self._end()

    def wait(self, transfer: Any) -> None:
        """Let later work of the GPU wait for a transfer."""
        self._device.wait(transfer)

    def _begin(self) -> None:
        """Let transfers from here on wait for the work of the GPU so far."""
        self._stream.wait_event(self._device.mark())

    def _end(self) -> Any:
        """Return a mark behind the transfers so far."""
        with self._device:
            event = self._device.xp.cuda.Event(disable_timing=True)
            event.record(self._stream)
        return event


def nccl_for(world: World, device: Device) -> Any:
    """Return NCCL if all ranks can use it, each on a GPU of its own; else None. All ranks must call this."""
    found: Any = None
    place = ""
    if device.kind == "cuda":
        with contextlib.suppress(ImportError):
            from cupy.cuda import nccl

            found = nccl
            place = f"{world.host} {device.xp.cuda.runtime.deviceGetPCIBusId(device.ordinal)}"
    places = world.share(place)
    return found if all(places) and len(set(places)) == world.size else None
