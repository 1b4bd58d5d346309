"""Caffe's layers as ours, and the network that is made of them."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cconvnet.errors import DataError
from cconvnet.formats.caffe_weights import Array, Blobs
from cconvnet.formats.drafts import MAX_CHANNELS, Draft, Signal
from cconvnet.formats.prototxt import Block
from cconvnet.nets import (
    ConcatSpec,
    DropoutSpec,
    LrnSpec,
    MaxSpec,
    Neuron,
    Pair,
    PoolSpec,
    SumSpec,
    gaussian,
    lrn_alpha,
)


@dataclass(frozen=True)
class Layer:
    """A layer of the file.

    Attributes:
        name: of the layer, by which its weights are found.
        type: as newer files spell it.
        bottoms: the blobs that it reads.
        tops: the blobs that it computes.
        block: its fields.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    block: Block

    def error(self, text: str) -> DataError:
        """Return an error about the layer."""
        return self.block.error(f"layer {self.name!r} ({self.type}): {text}")

    def parameters(self, name: str, known: tuple[str, ...]) -> Block:
        """Return the fields of this type of layer, all of which must be known."""
        block = self.block.block(name)
        block.check((*known, "engine"), name)
        return block


class Translation:
    """A network under translation.

    Attributes:
        draft: the network.
        blobs: the weights.
        signals: the blobs that are computed, by name.
        softmax: by the blob that a softmax computes, the softmax's name.
    """

    def __init__(self, draft: Draft, blobs: Blobs, readers: Counter[str]) -> None:
        self.draft = draft
        self.blobs = blobs
        self.signals: dict[str, Signal] = {}
        self.softmax: dict[str, str] = {}
        self._readers = readers
        self._shared: set[str] = set()  # blobs that are others under another name, which more layers read

    def inputs(self, layer: Layer) -> list[Signal]:
        """Return what a layer reads.

        Raises:
            ValueError: nothing before it computes a blob, or a softmax does.
        """
        for name in layer.bottoms:
            if name in self.softmax:
                raise ValueError(f"reads {name!r}, a softmax, which can only be at the end")
            if name not in self.signals:
                raise ValueError(f"reads {name!r}, which nothing before it computes")
        return [self.signals[name] for name in layer.bottoms]

    def input(self, layer: Layer) -> Signal:
        """Return the one blob that a layer reads."""
        if len(layer.bottoms) != 1:
            raise ValueError(f"must read one blob, not {len(layer.bottoms)}")
        return self.inputs(layer)[0]

    def alone(self, layer: Layer) -> bool:
        """True if nothing but the layer reads the first of what it reads."""
        return self._readers[layer.bottoms[0]] == 1 and layer.bottoms[0] not in self._shared

    def add(self, layer: Layer, signal: Signal) -> None:
        """Set the blobs that a layer computes."""
        if not layer.tops:
            raise ValueError("computes no blob")
        same = any(
            name in self.signals and self.signals[name].layer == signal.layer for name in layer.bottoms
        )
        if len(layer.tops) > 1 or (same and not self.alone(layer)):
            self._shared.update(layer.tops)
        for name in layer.tops:
            self.signals[name] = signal


Reader = Callable[[Translation, Layer], Signal]


# ---- products ------------------------------------------------------------------------------------------


def _pair(layer: Layer, block: Block, name: str, short: str, default: int | None) -> Pair:
    """Return a value (vertical, horizontal), given once, twice, or by a field for each direction."""
    if f"{short}_h" in block or f"{short}_w" in block:
        if name in block:
            raise layer.error(f"has {name} and {short}_h or {short}_w")
        found = [block.integer(f"{short}_{axis}", -1 if default is None else default) for axis in "hw"]
    else:
        found = block.integers(name) or ([] if default is None else [default])
    if len(found) not in (1, 2) or not all(0 <= value < 1 << 16 for value in found):
        raise layer.error(f"{name} must be one or two numbers, not {found}")
    return found[0], found[-1]


_WINDOW = ("pad", "kernel_size", "stride", "pad_h", "pad_w", "kernel_h", "kernel_w", "stride_h", "stride_w")
_FILLED = ("num_output", "bias_term", "weight_filler", "bias_filler", "axis")


def _conv(net: Translation, layer: Layer) -> Signal:
    block = layer.parameters(
        "convolution_param", (*_FILLED, *_WINDOW, "group", "dilation", "force_nd_im2col")
    )
    x, k, groups = net.input(layer), _outputs(layer, block), block.integer("group", 1)
    window = _pair(layer, block, "kernel_size", "kernel", None)
    if not 1 <= groups <= x.shape[2] or x.shape[2] % groups:
        raise ValueError(f"group must divide the {x.shape[2]} channels, not be {groups}")
    weight = net.blobs.take(layer.name, 0, (k, x.shape[2] // groups, *window))
    return net.draft.conv(
        layer.name,
        x,
        weight,
        _bias(net, layer, block, k),
        groups,
        stride=_pair(layer, block, "stride", "stride", 1),
        padding=_pair(layer, block, "pad", "pad", 0),
        dilation=_pair(layer, block, "dilation", "dilation", 1),
        **_rates(layer, block),
    )


def _fc(net: Translation, layer: Layer) -> Signal:
    block = layer.parameters("inner_product_param", (*_FILLED, "transpose"))
    if block.flag("transpose", False):
        raise ValueError("transpose must be false")
    x, k = net.input(layer), _outputs(layer, block)
    weight = net.blobs.take(layer.name, 0, (k, math.prod(x.shape)))
    return net.draft.fc(layer.name, x, weight, _bias(net, layer, block, k), **_rates(layer, block))


def _outputs(layer: Layer, block: Block) -> int:
    """Return how many channels a product has."""
    count = block.integer("num_output", 0)
    if not 1 <= count <= MAX_CHANNELS:
        raise layer.error(f"num_output must be from 1 to {MAX_CHANNELS:,}, not {count}")
    if block.integer("axis", 1) != 1:
        raise layer.error("axis must be 1")
    return count


def _bias(net: Translation, layer: Layer, block: Block, count: int) -> Array | None:
    return net.blobs.take(layer.name, 1, (count,)) if block.flag("bias_term", True) else None


def _rates(layer: Layer, block: Block) -> dict[str, Any]:
    """Return the first weights and the factors of rates, as far as the file has them."""
    found: dict[str, Any] = {}
    filler = block.block("weight_filler")
    if filler.text("type") == "gaussian":
        found["init"] = gaussian(filler.real("std", 1.0))
    found["first_bias"] = block.block("bias_filler").real("value", 0.0)
    factors = layer.block.reals("blobs_lr") or [p.real("lr_mult", 1.0) for p in layer.block.blocks("param")]
    return found | dict(zip(("lr_scale", "bias_lr_scale"), factors, strict=False))


# ---- pools and normalisation ---------------------------------------------------------------------------


def _pool(net: Translation, layer: Layer) -> Signal:
    block = layer.parameters("pooling_param", ("pool", *_WINDOW, "global_pooling", "round_mode"))
    kind = block.choice("pool", "MAX", ("MAX", "AVE"))
    x = net.input(layer)
    pool = {"MAX": "max", "AVE": "avg"}[kind]
    if block.flag("global_pooling", False):
        return net.draft.add(PoolSpec, layer.name, [x], pool=pool, window=x.shape[:2], stride=x.shape[:2])
    rounding = block.choice("round_mode", "CEIL", ("CEIL", "FLOOR")).lower()
    padding = _pair(layer, block, "pad", "pad", 0)
    return net.draft.add(
        PoolSpec,
        layer.name,
        [x],
        pool=pool,
        window=_pair(layer, block, "kernel_size", "kernel", None),
        stride=_pair(layer, block, "stride", "stride", 1),
        padding=padding,
        rounding=rounding,
        count_padding=pool == "avg" and padding != (0, 0),
    )


def _lrn(net: Translation, layer: Layer) -> Signal:
    block = layer.parameters("lrn_param", ("local_size", "alpha", "beta", "norm_region", "k"))
    size = block.integer("local_size", 5)
    if size < 1 or size % 2 == 0:
        raise ValueError(f"local_size must be odd, not {size}")
    regions = {"ACROSS_CHANNELS": "across_channels", "WITHIN_CHANNEL": "same_map"}
    region = regions[block.choice("norm_region", "ACROSS_CHANNELS", regions)]
    return net.draft.add(
        LrnSpec,
        layer.name,
        [net.input(layer)],
        size=size,
        # Caffe multiplies the mean of the squares, and the layer here their sum.
        alpha=lrn_alpha(block.real("alpha", 1.0), size, region),
        beta=block.real("beta", 0.75),
        k=block.real("k", 1.0) if region == "across_channels" else 1.0,
        region=region,
    )


def _norm(net: Translation, layer: Layer) -> Signal:
    block = layer.parameters("batch_norm_param", ("use_global_stats", "moving_average_fraction", "eps"))
    x = net.input(layer)
    channels = x.shape[2]
    mean, variance = (net.blobs.take(layer.name, index, (channels,), index) for index in range(2))
    # Both are sums with falling weights, and the third blob is the sum of these weights.
    count = float(net.blobs.take(layer.name, 2, (1,), 1.0)[0])
    factor = 0.0 if count == 0 else 1 / count
    if net.blobs.known:
        mean, variance = mean * np.float64(factor), variance * np.float64(factor)
    vectors = {"weight": _filled(1.0, channels), "bias": _filled(0.0, channels)}
    vectors |= {"mean": mean, "variance": variance}
    momentum = round(1 - block.real("moving_average_fraction", 0.999), 9)
    return net.draft.norm(layer.name, x, vectors, eps=block.real("eps", 1e-5), momentum=momentum)


def _filled(value: float, count: int) -> Array:
    return np.broadcast_to(np.float32(value), (count,))


def _scale(net: Translation, layer: Layer) -> Signal:
    known = ("axis", "num_axes", "filler", "bias_term", "bias_filler")
    block = layer.parameters("scale_param", known)
    if block.integer("axis", 1) != 1 or block.integer("num_axes", 1) != 1:
        raise ValueError("only a factor for each channel is computed: axis and num_axes must be 1")
    x = net.input(layer)
    factor = net.blobs.take(layer.name, 0, (x.shape[2],), 1.0)
    offset = np.zeros(1)
    if block.flag("bias_term", False):
        offset = net.blobs.take(layer.name, 1, (x.shape[2],))
    return net.draft.scale(layer.name, x, factor, offset, net.alone(layer))


# ---- values by themselves ------------------------------------------------------------------------------


def _neuron(kind: str, parameters: str = "", known: tuple[str, ...] = ()) -> Reader:
    function = Neuron(kind, 1.0, 1.0 if kind == "tanh" else 0.0)

    def translate(net: Translation, layer: Layer) -> Signal:
        block = layer.parameters(parameters, known)
        if block.real("negative_slope", 0.0):
            raise ValueError("negative_slope must be 0")
        return net.draft.activate(layer.name, net.input(layer), function, net.alone(layer))

    return translate


def _power(net: Translation, layer: Layer) -> Signal:
    block = layer.parameters("power_param", ("power", "scale", "shift"))
    if block.real("power", 1.0) != 1:
        raise ValueError("power must be 1")
    factor, offset = np.array([block.real("scale", 1.0)]), np.array([block.real("shift", 0.0)])
    return net.draft.scale(layer.name, net.input(layer), factor, offset, net.alone(layer))


def _dropout(net: Translation, layer: Layer) -> Signal:
    rate = layer.parameters("dropout_param", ("dropout_ratio", "scale_train")).real("dropout_ratio", 0.5)
    if not 0 <= rate < 1:
        raise ValueError(f"dropout_ratio must be at least 0 and below 1, not {rate:g}")
    return net.draft.add(DropoutSpec, layer.name, [net.input(layer)], keep=1 - rate, inverted=True)


# ---- several inputs, other shapes, the end -------------------------------------------------------------


def _concat(net: Translation, layer: Layer) -> Signal:
    block = layer.parameters("concat_param", ("axis", "concat_dim"))
    if block.integer("axis", block.integer("concat_dim", 1)) != 1:
        raise ValueError("only channels are joined: axis must be 1")
    inputs = _signals(net, layer)
    if any(one.flat and not one.is_row for one in inputs):
        raise ValueError("joins rows of values of images")
    return inputs[0] if len(inputs) == 1 else net.draft.add(ConcatSpec, layer.name, inputs)


def _signals(net: Translation, layer: Layer) -> list[Signal]:
    found = net.inputs(layer)
    if not found or len({one.flat for one in found if not one.is_row}) > 1:
        raise ValueError("must read images, or rows of values")
    return found


def _eltwise(net: Translation, layer: Layer) -> Signal:
    block = layer.parameters("eltwise_param", ("operation", "coeff", "stable_prod_grad"))
    operation = block.choice("operation", "SUM", ("SUM", "MAX"))
    inputs, coeffs = _signals(net, layer), tuple(block.reals("coeff"))
    if len(inputs) < 2 or len(coeffs) not in (0, len(inputs)):
        raise ValueError("must read two blobs or more, with no coeff or one for each")
    if operation == "MAX":
        return net.draft.add(MaxSpec, layer.name, inputs)
    return net.draft.add(SumSpec, layer.name, inputs, coeffs=() if set(coeffs) <= {1.0} else coeffs)


def _same(net: Translation, layer: Layer) -> Signal:
    return net.input(layer)


def _flatten(net: Translation, layer: Layer) -> Signal:
    block = layer.parameters("flatten_param", ("axis", "end_axis"))
    if block.integer("axis", 1) != 1 or block.integer("end_axis", -1) != -1:
        raise ValueError("only whole images are flattened: axis must be 1 and end_axis -1")
    x = net.input(layer)
    return Signal(x.layer, x.shape, flat=True)


def _softmax(net: Translation, layer: Layer) -> Signal:
    if layer.type == "Softmax" and layer.parameters("softmax_param", ("axis",)).integer("axis", 1) != 1:
        raise ValueError("axis must be 1, that of the channels")
    if not layer.bottoms:
        raise ValueError("reads nothing")
    x = net.inputs(dataclasses.replace(layer, bottoms=layer.bottoms[:1]))[0]
    if x.flat and not x.is_row:
        raise ValueError("reads a row of values of an image")
    for top in layer.tops:
        net.softmax[top] = layer.name
    return x


LAYERS: dict[str, Reader] = {
    "Convolution": _conv,
    "InnerProduct": _fc,
    "Pooling": _pool,
    "LRN": _lrn,
    "BatchNorm": _norm,
    "Scale": _scale,
    "ReLU": _neuron("relu", "relu_param", ("negative_slope",)),
    "Sigmoid": _neuron("logistic", "sigmoid_param"),
    "TanH": _neuron("tanh", "tanh_param"),
    "AbsVal": _neuron("abs"),
    "BNLL": _neuron("softrelu"),
    "Power": _power,
    "Dropout": _dropout,
    "Concat": _concat,
    "Eltwise": _eltwise,
    "Split": _same,
    "Flatten": _flatten,
    **dict.fromkeys(("Softmax", "SoftmaxWithLoss"), _softmax),
}
