"""The memory that a network needs, known before any of it is taken."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet.devices import Device
from cconvnet.devices import memory as device_memory
from cconvnet.network.network import Network
from cconvnet.system import memory
from cconvnet.system.memory import NotEnoughMemory


@dataclass(frozen=True)
class Needs:
    """Bytes on each device, by its name.

    Attributes
        training: of all arrays of the network.
        forward: of those that a forward pass writes; the others have addresses, but no memory on a host.
        state: of weights and momentum, which a checkpoint's snapshot takes once more of the host.
    """

    training: dict[str, int]
    forward: dict[str, int]
    state: int


class Plan(Network):
    """A network whose arrays have shapes, but no memory: one element stands for all."""

    def _allocate(self, device: Device, shape: Sequence[int], dtype: Any = np.float32) -> Any:
        one = np.zeros(1, device._dtype(dtype))
        array = np.lib.stride_tricks.as_strided(one, tuple(shape), (0,) * len(shape))
        self.memory[device.name] = self.memory.get(device.name, 0) + int(array.nbytes)
        return array

    def _place_gradients(self) -> None:
        self.before_gradients = dict(self.memory)
        super()._place_gradients()

    def _share_memory(self) -> None:
        self.gradients = self.memory.copy()
        for name, count in self.before_gradients.items():
            self.gradients[name] -= count
        before = dict(self.memory)
        super()._share_memory()
        self.workspaces = {name: count - before[name] for name, count in self.memory.items()}

    def _reset(self) -> None:
        """There is nothing to write into."""

    def needs(self) -> Needs:
        """The memory that the network itself will need."""
        forward = {
            name: count - self.gradients[name] - self.workspaces[name] for name, count in self.memory.items()
        }
        pieces = [piece for parameter in self.parameters.values() for piece in parameter.pieces]
        state = sum(int(piece.value.nbytes + piece.velocity.nbytes) for piece in pieces)
        return Needs(dict(self.memory), forward, state)


def check(plan: Plan, kind: str) -> None:
    """Compare what a network needs with what is free.

    Args
        kind: "forward" for passes without gradients, "training", or "run": training with a snapshot of
            weights and momentum in the host's memory for checkpoints.

    Raises
        NotEnoughMemory: saying how much is needed and how much is free.
    """
    needs = plan.needs()
    of = needs.forward if kind == "forward" else needs.training
    # Devices that share one memory are taken together.
    needed: collections.Counter[int | None] = collections.Counter()
    devices: dict[int | None, Device] = {}
    for device in plan.devices:
        where = device.ordinal if device.kind == "cuda" else None
        needed[where] += of[device.name]
        devices.setdefault(where, device)
    if kind == "run":
        needed[None] += needs.state
    for where, count in needed.items():
        found = device_memory.available(devices[where]) if where in devices else memory.host()
        if found is None or count <= found.free:
            continue
        memory.give_back()  # of networks that were there before
        found = device_memory.available(devices[where]) if where in devices else memory.host()
        if found is not None and count > found.free:
            what = f"the network {plan.spec.name} at batch {plan.batch:,}"
            if where not in devices:
                what = f"a snapshot of {plan.spec.name} for checkpoints"
            raise NotEnoughMemory(f"{what} needs {memory.megabytes(count)}; {found}")
