"""Receptive fields: the pixels of the input that an output of a layer depends on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cconvnet.nets.layer_spec import DATA, LayerSpec
from cconvnet.nets.recipe import NetSpec
from cconvnet.nets.shapes import shapes
from cconvnet.nets.specs import DeconvSpec, FcSpec, FilterSpec, LrnSpec, PoolSpec, UnpoolSpec
from cconvnet.nets.values import both_sides


@dataclass(frozen=True)
class Field:
    """The pixels of one direction that the first output of a layer depends on, and the step to the next.

    Attributes:
        first: the first pixel; negative within the padding.
        last: the pixel behind the last one.
        step: the distance of the fields of two neighbouring outputs.
    """

    first: int
    last: int
    step: int

    def pixels(self, position: int, side: int) -> NDArray[np.int64]:
        """Return the numbers of the pixels of an output; all of an image's if there would be more of them.

        Args:
            position: of the output.
            side: how many pixels the image has.
        """
        if self.last - self.first >= side:
            return np.arange(side)
        return np.arange(self.first, self.last) + position * self.step


def fields(spec: NetSpec, name: str) -> tuple[Field, Field]:
    """Return the receptive fields of a layer's outputs, vertical and horizontal.

    A layer whose outputs have no place, such as an FC layer, depends on the whole image.

    Raises:
        ValueError: It is or follows a transposed convolution or an unpooling, whose outputs do not all see
            alike.
    """
    found = {DATA: (Field(0, 1, 1), Field(0, 1, 1))}
    images = shapes(spec)
    images[DATA] = (spec.input.height, spec.input.width, spec.input.channels)
    for layer in spec.layers:
        inputs = [
            tuple(_field(layer, index, axis, found[read][axis], images[read][axis]) for axis in (0, 1))
            for index, read in enumerate(layer.inputs)
        ]
        found[layer.name] = tuple(_union([one[axis] for one in inputs]) for axis in (0, 1))  # type: ignore[assignment]
        if layer.name == name:
            break
    return found[name]


def _field(layer: LayerSpec, index: int, axis: int, before: Field, side: int) -> Field:
    """Return the field of a layer's outputs through one input, whose image has so many pixels."""
    if isinstance(layer, DeconvSpec | UnpoolSpec):
        kind = "a transposed convolution" if isinstance(layer, DeconvSpec) else "an unpooling"
        raise ValueError(f"layer {layer.name}: outputs of {kind} do not all see alike")
    if isinstance(layer, FcSpec):
        return Field(before.first, before.last + (side - 1) * before.step, 0)
    if isinstance(layer, LrnSpec) and layer.region == "same_map":
        reach = layer.size // 2 * before.step
        return Field(before.first - reach, before.last + reach, before.step)
    if not isinstance(layer, FilterSpec | PoolSpec):
        return before
    own = layer.for_input(index) if isinstance(layer, FilterSpec) else layer
    dilation = getattr(own, "dilation", (1, 1))[axis]
    window = 1 + (own.window[axis] - 1) * dilation
    first = before.first - both_sides(own.padding[axis])[0] * before.step
    return Field(
        first, first + before.last - before.first + (window - 1) * before.step, before.step * own.stride[axis]
    )


def _union(found: list[Field]) -> Field:
    return Field(
        min(one.first for one in found), max(one.last for one in found), max(one.step for one in found)
    )
