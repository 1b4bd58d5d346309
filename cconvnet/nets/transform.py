"""Networks made from others: towers written out, other weight decay or label smoothing, and other sizes."""

from __future__ import annotations

import dataclasses
import math
import string
from collections.abc import Iterator
from typing import Any

from cconvnet.checks import real, whole
from cconvnet.nets.layer_spec import DATA, LayerSpec, WeightedSpec
from cconvnet.nets.recipe import NetSpec
from cconvnet.nets.shapes import Shape, fan_in, output_channels, output_shape, plain_init, shapes
from cconvnet.nets.specs import (
    SPLIT_BY_CHANNEL,
    DeconvSpec,
    FcSpec,
    FilterSpec,
    L2CostSpec,
    LrnSpec,
    PoolSpec,
    RbfSpec,
    SelectSpec,
    SoftmaxCostSpec,
)
from cconvnet.nets.values import Pair

_Weighted = FilterSpec | FcSpec


# ---- towers --------------------------------------------------------------------------------------------


def towers(spec: NetSpec, count: int) -> NetSpec:
    """Return the network with each split layer written out as `count` layers, one on each device.

    The towers of "conv1" are "conv1a" on device 0, "conv1b" on device 1, and so on; each has an equal part of
    the channels. A convolution with groups reads its own tower, so that `count` groups become one in each.
    A convolution without groups reads all towers, with weights for each, and so does an FC layer. A single
    tower is the whole layer, under its own name. LRN's
    groups are shared out likewise. Weights drawn as He et al. do become plain Gaussians, since the fan-in of
    a part is not that of the whole.

    Raises:
        ValueError: naming a layer that cannot be shared out, or layers of equal names.
    """
    if not 1 <= count <= len(string.ascii_lowercase):
        raise ValueError(f"count must be from 1 to {len(string.ascii_lowercase)}, not {count}")
    if not any(layer.split for layer in spec.layers):
        return spec
    if count == 1:
        whole = (dataclasses.replace(layer, split=False) for layer in spec.layers)
        return dataclasses.replace(spec, layers=tuple(whole))
    found = shapes(spec)
    parts: dict[str, tuple[str, ...]] = {}  # the towers of a layer by its name
    layers: list[LayerSpec] = []
    for layer in spec.layers:
        parts[layer.name] = (layer.name,)
        if not layer.split:
            layers.append(_whole(layer, found, parts))
            continue
        parts[layer.name] = tuple(f"{layer.name}{letter}" for letter in string.ascii_lowercase[:count])
        layers += _towers(layer, found, parts)
    names = [layer.name for layer in layers]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"layer {name}: a tower of another layer would have the same name")
    steps = tuple(
        dataclasses.replace(step, layers=tuple(part for name in step.layers for part in parts[name]))
        for step in spec.recipe.steps
    )
    recipe = dataclasses.replace(spec.recipe, steps=steps)
    return dataclasses.replace(spec, layers=tuple(layers), recipe=recipe)


def _whole(layer: LayerSpec, found: dict[str, Shape], parts: dict[str, tuple[str, ...]]) -> LayerSpec:
    """Return a layer that is not split itself; if it reads split ones, with weights for each tower."""
    if all(len(parts.get(name, ())) <= 1 for name in layer.inputs):
        return layer
    if not isinstance(layer, _Weighted):
        raise ValueError(
            f"layer {layer.name}: reads layers that are split, so it must be split, or have weights"
        )
    if any(groups > 1 for groups in _groups(layer)):
        raise ValueError(f"layer {layer.name}: has groups and reads towers, so it must be split")
    return _reading_all(layer, found, parts)


def _groups(layer: _Weighted) -> list[int]:
    if isinstance(layer, FcSpec):
        return [1] * len(layer.inputs)
    return [layer.for_input(index).groups for index in range(len(layer.inputs))]


def _channels(layer: _Weighted, count: int) -> dict[str, Any]:
    """Return the field for the number of output channels, with this count."""
    return {"outputs" if isinstance(layer, FcSpec) else "filters": count}


def _towers(
    layer: LayerSpec, found: dict[str, Shape], parts: dict[str, tuple[str, ...]]
) -> Iterator[LayerSpec]:
    names = parts[layer.name]
    count, channels = len(names), found[layer.name][2]
    if channels % count:
        raise ValueError(f"layer {layer.name}: its {channels} channels cannot be shared by {count} towers")
    values: dict[str, Any] = {}
    if isinstance(layer, _Weighted):
        values = _channels(layer, channels // count)
        groups = _groups(layer)
        if all(number == 1 for number in groups):
            whole = _reading_all(dataclasses.replace(layer, **values), found, parts)
            for tower, name in enumerate(names):
                yield dataclasses.replace(whole, name=name, device=tower, split=False)
            return
        if any(number % count for number in groups):
            raise ValueError(f"layer {layer.name}: its groups must be 1 or a multiple of {count}")
        # A filter reads the same channels as before, so only the number of groups changes.
        values["groups"] = groups[0] // count
        values["per_input"] = tuple(
            {**entry, "groups": number // count}
            for entry, number in zip(layer.per_input, groups, strict=False)
        )
    elif isinstance(layer, LrnSpec) and layer.region == "across_channels":
        if layer.groups % count:
            raise ValueError(
                f"layer {layer.name}: its groups must be a multiple of {count}, or windows would reach into "
                f"another tower, not {layer.groups}"
            )
        values = {"groups": layer.groups // count}
    elif not isinstance(layer, SPLIT_BY_CHANNEL):
        raise ValueError(f"layer {layer.name}: a {layer.type} cannot be split")
    if any(len(parts.get(name, ())) != count for name in layer.inputs):
        raise ValueError(f"layer {layer.name}: is split, so its inputs must be")
    for tower, name in enumerate(names):
        inputs = tuple(parts[source][tower] for source in layer.inputs)
        yield dataclasses.replace(layer, name=name, inputs=inputs, device=tower, split=False, **values)


def _reading_all(layer: _Weighted, found: dict[str, Shape], parts: dict[str, tuple[str, ...]]) -> _Weighted:
    """Return the layer with each split input replaced by all of its towers."""
    inputs: list[str] = []
    entries: list[dict[str, Any]] = []
    for index, name in enumerate(layer.inputs):
        own = layer.for_input(index)
        entry = dict(layer.per_input[index]) if layer.per_input else {}
        names = parts.get(name, (name,))
        if len(names) > 1:
            if own.limits:
                raise ValueError(
                    f"layer {layer.name}: {own.limits[0]} holds for all weights of an output, which would be "
                    f"shared out over {len(names)} towers"
                )
            entry["init"] = plain_init(own.init, fan_in(layer, index, found[name]))
        inputs += names
        entries += [entry] * len(names)
    # Values that all inputs have in common become the layer's.
    same = {
        key: value
        for key, value in entries[0].items()
        if all(key in entry and entry[key] == value for entry in entries)
    }
    rest = tuple({key: value for key, value in entry.items() if key not in same} for entry in entries)
    return dataclasses.replace(layer, inputs=tuple(inputs), per_input=rest if any(rest) else (), **same)


# ---- weight decay and label smoothing ------------------------------------------------------------------


def decayed(spec: NetSpec, weight_decay: float) -> NetSpec:
    """Return the network with this weight decay of the weights of every layer, and none of biases.

    Raises:
        ValueError: It is negative or not finite.
    """
    real("weight_decay", weight_decay, low=0)

    def changed(layer: LayerSpec) -> LayerSpec:
        if not isinstance(layer, WeightedSpec):
            return layer
        inputs = ({k: v for k, v in values.items() if k != "weight_decay"} for values in layer.per_input)
        return dataclasses.replace(
            layer, weight_decay=weight_decay, bias_weight_decay=0.0, per_input=tuple(inputs)
        )

    return dataclasses.replace(spec, layers=tuple(map(changed, spec.layers)))


def smoothed(spec: NetSpec, smoothing: float) -> NetSpec:
    """Return the network with this label smoothing of all its softmax costs.

    Raises:
        ValueError: It is not from 0 to 1.
    """
    layers = (
        dataclasses.replace(layer, smoothing=smoothing) if isinstance(layer, SoftmaxCostSpec) else layer
        for layer in spec.layers
    )
    return dataclasses.replace(spec, layers=tuple(layers))


# ---- another size --------------------------------------------------------------------------------------


def scaled(
    spec: NetSpec, width: float = 1.0, image: Pair | None = None, classes: int | None = None
) -> NetSpec:
    """Return the same network with other numbers of filters, another image size or other classes.

    Layers keep their windows, so that small images may leave nothing to compute. The network reports that
    when it is made. Only a mean over the whole image stays one.

    Args:
        spec: the network.
        width: multiplies the filters and outputs of every layer but those before costs, rounded such that all
            groups stay equal. A depthwise layer, and a bilinear one, has as many as it reads channels.
        image: (H, W) of the stored images; None: as they are. The crop keeps its share of each side.
        classes: how many labels there are; None: as many as before.

    Raises:
        ValueError: naming the argument.
    """
    real("width", width, above=0)
    height, side = image or spec.stored
    crop = [spec.input.height * height // spec.stored[0], spec.input.width * side // spec.stored[1]]
    if min(crop) < 1:
        raise ValueError(f"image must leave something to crop, not {height}x{side}")
    classes = spec.classes if classes is None else whole("classes", classes, 1)
    depthwise = _depthwise(spec)
    unit = _unit(spec, depthwise)
    last = _before(spec, SoftmaxCostSpec, depthwise)
    fixed = _before(spec, L2CostSpec, depthwise) | _before(spec, RbfSpec, depthwise)
    channels = {DATA: spec.input.channels}  # of the layers that are resized

    def units(count: int) -> int:
        return max(1, round(count * width / unit)) * unit

    def resized(layer: LayerSpec) -> LayerSpec:
        if isinstance(layer, RbfSpec):
            if classes > len(layer.codes):
                raise ValueError(
                    f"classes must be at most {len(layer.codes)}, which have codes, not {classes}"
                )
            return dataclasses.replace(layer, codes=layer.codes[:classes])
        if isinstance(layer, SelectSpec) and width != 1:
            return _with_other_zeros(layer, units(len(layer.copied)), units(len(layer.channels)))
        if not isinstance(layer, _Weighted):
            return layer
        count = layer.outputs if isinstance(layer, FcSpec) else layer.filters
        values: dict[str, Any] = {}
        if layer.name in depthwise:
            count = channels[layer.inputs[0]]
            values = {"groups": count} if any(groups > 1 for groups in _groups(layer)) else {}
        elif layer.name in last:
            count = classes
        elif layer.name not in fixed and width != 1:
            count = units(count)
        return dataclasses.replace(layer, **_channels(layer, count), **values)

    layers: list[LayerSpec] = []
    for layer in spec.layers:
        layer = resized(layer)
        channels[layer.name] = output_channels(layer, [channels[name] for name in layer.inputs])
        layers.append(layer)
    changed = dataclasses.replace(
        spec,
        layers=tuple(layers),
        input=dataclasses.replace(spec.input, height=crop[0], width=crop[1]),
        stored=(height, side),
        classes=classes,
    )
    return changed if image is None else _with_whole_means(changed, spec)


def _with_other_zeros(layer: SelectSpec, copied: int, count: int) -> SelectSpec:
    """Return a layer that adds channels of zeros to all of its input's, for other numbers of channels.

    A layer that chooses channels stays as it is.
    """
    if layer.copied != [*range(len(layer.copied))]:
        return layer
    zeros = len(layer.channels) - len(layer.copied)
    before = (count - copied) * layer.channels.index(0) // max(1, zeros)
    channels = [*[None] * before, *range(copied), *[None] * (count - copied - before)]
    return dataclasses.replace(layer, channels=tuple(channels))


def without_heads(spec: NetSpec) -> NetSpec:
    """Return the network without its heads: the layers that run outside of training."""
    dropped = spec.train_only
    return dataclasses.replace(
        spec, layers=tuple(layer for layer in spec.layers if layer.name not in dropped)
    )


def _with_whole_means(spec: NetSpec, before: NetSpec) -> NetSpec:
    """Return the network with the means over whole images that it had before it was resized."""
    old = shapes(before)
    means = {
        layer.name
        for layer in before.layers
        if isinstance(layer, PoolSpec) and layer.pool == "avg" and layer.window == old[layer.inputs[0]][:2]
    }
    if not means:
        return spec
    layers: list[LayerSpec] = []
    new: dict[str, Shape] = {DATA: (spec.input.height, spec.input.width, spec.input.channels)}
    for layer in spec.layers:
        if layer.name in means:
            whole_image = new[layer.inputs[0]][:2]
            layer = dataclasses.replace(layer, window=whole_image, stride=whole_image)  # type: ignore[call-arg]
        new[layer.name] = output_shape(layer, [new[name] for name in layer.inputs])
        layers.append(layer)
    return dataclasses.replace(spec, layers=tuple(layers))


def _depthwise(spec: NetSpec) -> set[str]:
    """Return the layers that have one filter for each of several channels that they read.

    A transposed convolution that begins as an interpolation of each channel is one too.
    """
    found = shapes(spec)

    def is_depthwise(layer: FilterSpec) -> bool:
        if layer.groups == 1:
            return isinstance(layer, DeconvSpec) and layer.init.kind == "bilinear"
        return all(found[name][2] == layer.groups == layer.filters for name in layer.inputs)

    return {
        layer.name
        for layer in spec.layers
        if isinstance(layer, FilterSpec) and not layer.per_input and is_depthwise(layer)
    }


def _unit(spec: NetSpec, depthwise: set[str]) -> int:
    """Return the divisor that all numbers of channels must have, for all other groups and two towers."""
    groups = [2 if any(layer.split for layer in spec.layers) else 1]
    for layer in spec.layers:
        if isinstance(layer, FilterSpec) and layer.name not in depthwise:
            groups += _groups(layer)
        elif isinstance(layer, LrnSpec):
            groups.append(layer.groups)
    return math.lcm(*groups)


def _before(spec: NetSpec, kind: type[LayerSpec], depthwise: set[str]) -> set[str]:
    """Return the layers with weights whose outputs layers of this kind read, those of codes apart.

    Layers that keep the number of channels, such as depthwise ones, may be between them.
    """
    layers = {layer.name: layer for layer in spec.layers}
    found: set[str] = set()
    waiting = [name for layer in spec.layers if isinstance(layer, kind) for name in layer.inputs]
    while waiting:
        layer = layers.get(waiting.pop())
        if isinstance(layer, _Weighted) and layer.name not in depthwise:
            found.add(layer.name)
        elif layer is not None and not isinstance(layer, RbfSpec):
            waiting += layer.inputs
    return found
