"""The memory that a network needs, known before any of it is allocated."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet.devices import Device
from cconvnet.devices import memory as device_memory
from cconvnet.nets import NetSpec
from cconvnet.network.buckets import Exchanged
from cconvnet.network.describe import describe
from cconvnet.network.graph import Graph
from cconvnet.network.memory import ShapesOnly
from cconvnet.network.state import stateful
from cconvnet.ranks.shares import Share
from cconvnet.system import memory
from cconvnet.system.memory import NotEnoughMemory

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Needs:
    """The memory that a network needs, in bytes.

    Attributes:
        training: of all arrays, on each device by its name.
        forward: of those that a forward pass writes, likewise. The others have addresses, but the host gives
            them no memory before they are written.
        state: of weights and momentum, which the snapshot of a checkpoint needs once more on the host.
    """

    training: dict[str, int]
    forward: dict[str, int]
    state: int


class Plan:
    """A network whose arrays have shapes, but no memory.

    The arguments are those of :class:`cconvnet.network.Network`.

    Attributes:
        spec: the network.
        batch: how many images a batch has at most.
        devices: the network's devices.
    """

    def __init__(
        self,
        spec: NetSpec,
        *,
        batch: int,
        devices: str | Device | Sequence[str | Device] | None = None,
        towers: int | None = None,
        seed: int = 0,
        precision: str = "fp32",
        fuse: bool = True,
        accumulates: bool = False,
        share: Share | None = None,
        lars: float = 0.0,
        image_gradient: bool = False,
    ) -> None:
        self._graph = Graph(
            spec,
            batch=batch,
            devices=devices,
            towers=towers,
            seed=seed,
            precision=precision,
            fuse=fuse,
            accumulates=accumulates,
            share=share,
            lars=lars,
            image_gradient=image_gradient,
            memory=ShapesOnly(),
        )
        self.spec = spec
        self.batch = batch
        self.devices = self._graph.devices

    def describe(self) -> dict[str, Any]:
        """Return what Network.describe would."""
        return describe(self._graph)

    def state(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return the state, as of Network.state, of a network whose parameters have these values.

        Those that are not given have their first values. Momentum is 0.
        """
        return {
            name: np.zeros(parameter.shape, np.float32)
            if of == "velocity"
            else values[name]
            if name in values
            else parameter.first()
            for name, (parameter, of) in stateful(self._graph.parameters).items()
        }

    def exchanged(self) -> Exchanged:
        """Return what a step of the network would exchange with other ranks.

        Raises:
            ValueError: the network was made without a share.
        """
        if self._graph.shards is None:
            raise ValueError("only a network made with a share exchanges anything")
        return self._graph.shards.exchanged()

    def needs(self) -> Needs:
        """Return the memory that the network itself will need."""
        graph = self._graph
        training = dict(graph.memory.bytes)
        forward = {
            name: count - graph.gradient_bytes[name] - graph.workspace_bytes[name]
            for name, count in training.items()
        }
        for layer in graph.forward:
            output = layer.output
            shared = output.place is not None or any(output.array is tensor.array for tensor in layer.inputs)
            if layer not in graph.answering and not shared:
                forward[layer.device.name] -= int(output.array.nbytes)
        pieces = [piece for parameter in graph.parameters.values() for piece in parameter.pieces]
        state = sum(int(piece.value.nbytes + piece.velocity.nbytes) for piece in pieces)
        return Needs(training, forward, state)


def check(plan: Plan, kind: str) -> None:
    """Compare the memory that a network needs with the memory that is free.

    Args:
        plan: the network.
        kind: "forward" for passes without gradients, "training", or "run": training with a snapshot of
            weights and momentum in the host's memory for checkpoints.

    Raises:
        NotEnoughMemory: with the memory that is needed and the memory that is free.
    """
    needs = plan.needs()
    by_device = needs.forward if kind == "forward" else needs.training
    # Devices that share one memory are taken together: GPUs by their number, all others as None, the host.
    needed: collections.Counter[int | None] = collections.Counter()
    devices: dict[int | None, Device] = {}
    for device in plan.devices:
        where = device.ordinal if device.kind == "cuda" else None
        needed[where] += by_device[device.name]
        devices.setdefault(where, device)
    if kind == "run":
        needed[None] += needs.state
    for where, count in needed.items():
        found = device_memory.available(devices[where]) if where in devices else memory.host()
        if found is None or count <= found.free:
            continue
        memory.give_back()  # cached memory of networks that no longer exist
        found = device_memory.available(devices[where]) if where in devices else memory.host()
        if found is not None and count > found.free:
            what = f"the network {plan.spec.name} at batch {plan.batch:,}"
            if where not in devices:
                what = f"a snapshot of {plan.spec.name} for checkpoints"
            raise NotEnoughMemory(f"{what} needs {memory.megabytes(count)}; {found}")
