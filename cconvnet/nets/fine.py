"""A dense classifier at closer places: its last pooling begins at every offset.

Source: Sermanet et al. 2013, "OverFeat", section 3.3. There the classifier runs once for each offset of the
last pooling, and its answers are interleaved. Here the pooling has the stride 1, which interleaves its own
windows, and the layers behind it read every stride-th place. That is the same, in one pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cconvnet.nets.layer_spec import LayerSpec
from cconvnet.nets.recipe import NetSpec
from cconvnet.nets.shapes import Shape, pool_outputs, shapes
from cconvnet.nets.specs import (
    BatchNormSpec,
    ConcatSpec,
    ConvSpec,
    CostSpec,
    DropoutSpec,
    LrnSpec,
    MaxSpec,
    NeuronSpec,
    PoolSpec,
    SelectSpec,
    SumSpec,
)
from cconvnet.nets.values import Padding, Pair, both_sides

# Layers whose outputs depend on the same place of their inputs alone.
_OF_A_PLACE = (NeuronSpec, DropoutSpec, BatchNormSpec, SumSpec, MaxSpec, ConcatSpec, SelectSpec, CostSpec)


def at_every_offset(spec: NetSpec) -> NetSpec:
    """Return a dense network whose places are as close as what its last pooling with a stride reads.

    Convolutions behind the pooling are dilated by its stride, and so is their padding. A mean becomes a
    convolution of each channel whose weights, of its name, are all 1 / (the pixels of its window).

    Raises:
        ValueError: there is no such pooling; or a layer behind it has a stride or windows that cannot have
            gaps, or also reads something before it. The text names it.
    """
    poolings = [layer for layer in spec.layers if isinstance(layer, PoolSpec) and max(layer.stride) > 1]
    if not poolings:
        raise ValueError(f"{spec.name} has no pooling with a stride that could begin at every offset")
    last = poolings[-1]
    found, behind = shapes(spec), {last.name}
    layers: list[LayerSpec] = []
    for layer in spec.layers:
        if layer is last:
            layer = _every_window(last, found[last.inputs[0]])
        elif not behind.isdisjoint(layer.inputs):
            others = [name for name in layer.inputs if name not in behind]
            if others:
                raise ValueError(
                    f"layer {layer.name}: it reads {others[0]}, which is not behind {last.name}, the last "
                    "pooling with a stride"
                )
            behind.add(layer.name)
            try:
                layer = _spread(layer, last.stride, found[layer.inputs[0]])
            except ValueError as error:
                raise ValueError(
                    f"layer {layer.name}: {error}, but it follows {last.name}, the last pooling with a stride"
                ) from None
        layers.append(layer)
    return dataclasses.replace(spec, layers=tuple(layers))


def _every_window(pool: PoolSpec, image: Shape) -> PoolSpec:
    """Return the pooling with the stride 1, and all windows of the one that it was."""
    counts = []
    for axis, count in enumerate(pool_outputs(pool, image)):
        whole = image[axis] + sum(both_sides(pool.padding[axis])) - pool.window[axis] + 1
        least = (count - 1) * pool.stride[axis] + 1
        counts.append(least if pool.outputs is not None else max(whole, least))
    return dataclasses.replace(pool, stride=(1, 1), outputs=(counts[0], counts[1]))


def _spread(layer: LayerSpec, step: Pair, image: Shape) -> LayerSpec:
    """Return a layer that reads every step-th place, where it read all.

    Raises:
        ValueError: there is none.
    """
    if isinstance(layer, _OF_A_PLACE) or (isinstance(layer, LrnSpec) and layer.region == "across_channels"):
        return layer
    if isinstance(layer, ConvSpec):
        each = [layer.for_input(index) for index in range(len(layer.inputs))]
        if any(own.stride != (1, 1) for own in each):
            raise ValueError("it has a stride, so that its places would not interleave evenly")
        # Kernels for windows of one pixel know of no gaps.
        gaps = tuple(
            times if any(own.window[axis] > 1 for own in each) else 1 for axis, times in enumerate(step)
        )
        entries = tuple(_dilated(entry, step, gaps) for entry in layer.per_input)
        own = {"padding": layer.padding, "dilation": layer.dilation}
        return dataclasses.replace(layer, per_input=entries, **_dilated(own, step, gaps))
    if isinstance(layer, PoolSpec) and layer.window == (1, 1):
        return layer
    if isinstance(layer, PoolSpec) and layer.pool == "avg":
        if any(any(both_sides(side)) for side in layer.padding) or layer.outputs is not None:
            raise ValueError("it is a mean with padding or a number of windows of its own")
        return ConvSpec(
            name=layer.name,
            inputs=layer.inputs,
            device=layer.device,
            split=layer.split,
            filters=image[2],
            groups=image[2],
            window=layer.window,
            dilation=step,
            bias=None,
        )
    raise ValueError(f"its windows cannot have gaps, as those of a {layer.type} layer")


def _dilated(fields: Mapping[str, Any], step: Pair, gaps: tuple[int, ...]) -> dict[str, Any]:
    """Return the fields of a convolution, for an input at every step-th place.

    Args:
        fields: those of the layer, or of one input.
        step: multiplies the padding.
        gaps: multiplies the dilation; 1 where no window has two pixels.
    """
    found = dict(fields)
    if "dilation" in found:
        found["dilation"] = tuple(own * times for own, times in zip(found["dilation"], gaps, strict=True))
    if "padding" in found:
        padding: Padding = found["padding"]
        found["padding"] = tuple(
            tuple(side * times for side in both_sides(own)) for own, times in zip(padding, step, strict=True)
        )
    return found
