"""The memory of a network: how arrays are allocated, and where gradients and workspaces are.

Activations are kept until the next forward pass. An activation's gradient lives only from the backward pass
of its last reader to that of its own layer, so the gradients of one device share one piece of memory.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet.devices import Device
from cconvnet.layers import CopyLayer, CostLayer, Layer, Tensor

ALIGNMENT = 64  # elements; vector loads of the fast kernels need 16 bytes, cache lines 64


class Memory:
    """Allocates the arrays of a network and counts them.

    Attributes:
        bytes: allocated on each device, by its name.
    """

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    def allocate(self, device: Device, shape: Sequence[int], dtype: Any = np.float32) -> Any:
        """Return an uninitialised array on a device."""
        array = self._array(device, tuple(shape), dtype)
        self.bytes[device.name] = self.bytes.get(device.name, 0) + int(array.nbytes)
        return array

    def release(self, device: Device, array: Any) -> None:
        """Count an array no longer, whose last reference the caller drops."""
        self.bytes[device.name] -= int(array.nbytes)

    def _array(self, device: Device, shape: tuple[int, ...], dtype: Any) -> Any:
        return device.empty(shape, dtype)


class ShapesOnly(Memory):
    """Allocates arrays that have shapes, but no memory: one element represents all."""

    def _array(self, device: Device, shape: tuple[int, ...], dtype: Any) -> Any:
        one = np.zeros(1, device._dtype(dtype))
        return np.lib.stride_tricks.as_strided(one, shape, (0,) * len(shape))


@dataclass
class Slot:
    """`count` elements that are in use from moment `first` to moment `last`, both included."""

    count: int
    first: int
    last: int
    offset: int = 0


def plan_memory(slots: Sequence[Slot]) -> int:
    """Give every slot an offset such that slots in use at the same moment do not overlap.

    The largest are placed first, each at the lowest offset that is free throughout its life.

    Returns:
        The number of elements that all of them need.
    """
    placed: list[Slot] = []
    for slot in sorted(slots, key=lambda slot: -slot.count):
        slot.offset = 0
        rivals = (other for other in placed if other.first <= slot.last and slot.first <= other.last)
        for other in sorted(rivals, key=lambda other: other.offset):
            if slot.offset + slot.count <= other.offset:
                break
            end = other.offset + other.count
            slot.offset = max(slot.offset, -(-end // ALIGNMENT) * ALIGNMENT)
        placed.append(slot)
    return max((slot.offset + slot.count for slot in placed), default=0)


def allocate_gradients(
    backward: Sequence[Layer],
    readers: Mapping[int, int],
    copies: Mapping[int, Sequence[CopyLayer]],
    memory: Memory,
    element: Any,
) -> None:
    """Allocate all activations' gradients, and tell every layer where to write its inputs' gradients.

    A gradient lives until its layer's own backward pass, or until the end if the layer learns beside others.
    The source and target of a copy live until then too, since the copy may run all that time. A cost's lives
    from the beginning.

    Args:
        backward: the layers in the order of the backward pass.
        readers: how many layers have a gradient for a tensor, by its id.
        copies: the copies of a tensor, by its id.
        memory: where the gradients are allocated.
        element: the type of the gradients.
    """
    slots: dict[str, list[Slot]] = collections.defaultdict(list)  # by device
    # By tensor: where its gradient is summed, then the gradients that are added to it.
    slots_of: dict[int, list[Slot]] = collections.defaultdict(list)
    written: list[tuple[Layer, int, Slot]] = []  # layer, input, where its gradient goes
    devices: dict[str, Device] = {}

    def new_slot(tensor: Tensor, moment: int) -> Slot:
        slot = Slot(tensor.count, moment, moment)
        slots[tensor.device.name].append(slot)
        devices[tensor.device.name] = tensor.device
        return slot

    for moment, layer in enumerate(backward):
        for tensor in (layer.output, *(copy.output for copy in copies.get(id(layer.output), ()))):
            for slot in slots_of[id(tensor)]:
                slot.last = max(slot.last, len(backward) if layer.learns_beside else moment)
        own = slots_of[id(layer.output)]
        for index, tensor in enumerate(layer.inputs):
            if not tensor.needs_gradient or not layer.differentiates(index):
                continue
            if own and index == 0 and layer.backward_in_place and readers[id(tensor)] == 1:
                slot = own[0]
            elif tensor.place is not None:
                slot = own[0]  # the concatenation's, whose channels are also this tensor's
            else:
                # A cost may write its input's gradient in the forward pass, before any other is computed.
                slot = new_slot(tensor, moment if layer.cost is None else 0)
            slots_of[id(tensor)].append(slot)
            written.append((layer, index, slot))

    arenas = {
        name: memory.allocate(devices[name], (plan_memory(here),), element) for name, here in slots.items()
    }
    for layer, index, slot in written:
        tensor = layer.inputs[index]
        arena = arenas[tensor.device.name]
        shape = tensor.shape if tensor.place is None else layer.output.shape
        array = arena[slot.offset : slot.offset + math.prod(shape)].reshape(shape)
        layer.input_gradients[index] = (
            array if tensor.place is None else tensor.place.of(array, tensor.channels)
        )
        if tensor.gradient is None:
            tensor.gradient = array
        else:
            tensor.more_gradients.append(array)


def allocate_workspaces(layers: Sequence[Layer], memory: Memory, element: Any) -> None:
    """Allocate one workspace and one scratch per device, as large as its most demanding layer needs.

    Layers that learn beside others share a workspace of their own, as they follow each other.

    Args:
        layers: all layers that run.
        memory: where the workspaces are allocated.
        element: the type of the scratch.
    """
    by_device: dict[str, list[Layer]] = collections.defaultdict(list)
    for layer in layers:
        by_device[layer.device.name].append(layer)
    for here in by_device.values():
        device = here[0].device
        if bytes_needed := max(layer.workspace_bytes() for layer in here):
            workspace = memory.allocate(device, (bytes_needed,), np.uint8)
            for layer in here:
                layer.workspace = workspace
        beside = [layer for layer in here if layer.learns_beside]
        if bytes_needed := max((layer.workspace_bytes_beside() for layer in beside), default=0):
            workspace = memory.allocate(device, (bytes_needed,), np.uint8)
            for layer in beside:
                layer.workspace_beside = workspace
        if elements_needed := max(layer.scratch_count() for layer in here):
            scratch = memory.allocate(device, (elements_needed,), element)
            for layer in here:
                layer.scratch = scratch


def join_losses(costs: Sequence[CostLayer], memory: Memory) -> Any:
    """Let the costs of one device write their losses into one array, and return it; None without costs.

    So one kernel watches all of them.
    """
    if len(costs) <= 1:
        return costs[0].losses if costs else None
    device = costs[0].device
    starts = np.cumsum([0, *(-(-len(cost.losses) // ALIGNMENT) * ALIGNMENT for cost in costs)]).tolist()
    joined = memory.allocate(device, (starts[-1],))
    with device:
        joined[...] = 0  # also what is between them
    for cost, start in zip(costs, starts, strict=False):
        memory.release(device, cost.losses)
        cost.losses = joined[start : start + len(cost.losses)]
    return joined
