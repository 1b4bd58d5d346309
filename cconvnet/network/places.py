"""The places of layers in concatenations: which layers write their channels into a concatenation's array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cconvnet.layers import Place, Site, joins_channels, layer_type
from cconvnet.nets import LayerSpec, NetSpec
from cconvnet.nets.shapes import Shape, shapes
from cconvnet.network.memory import Memory


class Places:
    """The arrays of a network's concatenations, and the channels that are other layers' outputs.

    A layer is placed if its class can be and if the concatenation alone reads it.

    Args:
        spec: the network.
        readers: how many layers read each activation.
        batch: how many images a batch has at most.
        memory: allocates the arrays.
    """

    def __init__(self, spec: NetSpec, readers: Mapping[str, int], batch: int, memory: Memory) -> None:
        self._batch = batch
        self._memory = memory
        self._arrays: dict[tuple[str, int], Any] = {}  # by the concatenation's name and its part
        self._shapes: dict[str, Shape] = {}
        self._concats: dict[str, LayerSpec] = {}  # by the layer that it alone reads
        concats = [layer for layer in spec.layers if joins_channels(layer)]
        if concats:
            self._shapes = shapes(spec)
            self._concats = {
                name: concat for concat in concats for name in concat.inputs if readers[name] == 1
            }

    def concat(self, spec: LayerSpec) -> LayerSpec | None:
        """Return the concatenation in which a layer can be placed; None if it cannot."""
        return self._concats.get(spec.name) if layer_type(spec).can_be_placed(spec) else None

    def place(self, spec: LayerSpec, concat: LayerSpec, site: Site) -> Place:
        """Return the place of a layer, or of its part, in a concatenation on the site's device."""
        key = (concat.name, site.part)
        if key not in self._arrays:
            height, width, channels = self._shapes[concat.name]
            shape = (self._batch, height, width, channels // site.parts)
            self._arrays[key] = self._memory.allocate(site.device, shape, site.element)
        before = concat.inputs[: concat.inputs.index(spec.name)]
        first = sum(self._shapes[name][2] for name in before) // site.parts
        return Place(self._arrays[key], first)
