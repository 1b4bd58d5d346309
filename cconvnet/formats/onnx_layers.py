"""Layers as nodes of an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.formats.onnx_nodes import Nodes
from cconvnet.layers.rearrange import gaussian_window
from cconvnet.nets import (
    BatchNormSpec,
    BlurSpec,
    ConcatSpec,
    ContrastNormSpec,
    ConvSpec,
    DeconvSpec,
    DropoutSpec,
    FcSpec,
    LayerSpec,
    LocalSpec,
    LrnSpec,
    MaxSpec,
    Neuron,
    NeuronSpec,
    Pair,
    PoolSpec,
    RbfSpec,
    SelectSpec,
    SumSpec,
)
from cconvnet.nets.shapes import pool_outputs, windows
from cconvnet.nets.values import both_sides

_PLAIN = {"relu": "Relu", "logistic": "Sigmoid", "softrelu": "Softplus", "abs": "Abs", "sqrt": "Sqrt"}


def check(layer: LayerSpec) -> None:
    """Check that ONNX can say a layer.

    Raises:
        ValueError: it cannot; the text names the layer.
    """
    if isinstance(layer, DeconvSpec):
        raise ValueError(f"layer {layer.name}: transposed convolutions are not written to ONNX")
    if isinstance(layer, LocalSpec | ContrastNormSpec | RbfSpec):
        raise ValueError(f"layer {layer.name}: ONNX has no operator for {layer.type}")
    if isinstance(layer, LrnSpec):
        if layer.region != "across_channels":
            raise ValueError(f"layer {layer.name}: ONNX has no operator for {layer.type} in the same map")
        if layer.size % 2 == 0:
            raise ValueError(f"layer {layer.name}: ONNX centres windows of {layer.size} channels elsewhere")


def add(net: Nodes, layer: LayerSpec) -> None:
    """Add the nodes of a layer that :func:`check` lets pass."""
    match layer:
        case ConvSpec():
            _add_conv(net, layer)
        case FcSpec():
            _add_fc(net, layer)
        case NeuronSpec():
            source = layer.inputs[0]
            value = _neuron(net, layer.neuron, net.values[source], layer.name)
            net.set(layer.name, value, net.is_row(source))
        case PoolSpec():
            _add_pool(net, layer)
        case LrnSpec():
            _add_lrn(net, layer)
        case BatchNormSpec():
            _add_norm(net, layer)
        case DropoutSpec():
            _add_dropout(net, layer)
        case SumSpec():
            inputs, row = net.together(layer.inputs)
            if set(layer.coeffs) - {1}:
                inputs = [
                    value if coeff == 1 else _times(net, value, coeff)
                    for value, coeff in zip(inputs, layer.coeffs, strict=True)
                ]
            net.set(layer.name, net.node("Add" if len(inputs) == 2 else "Sum", inputs, layer.name), row)
        case MaxSpec():
            inputs, row = net.together(layer.inputs)
            net.set(layer.name, net.node("Max", inputs, layer.name), row)
        case ConcatSpec():
            inputs, row = net.together(layer.inputs)
            net.set(layer.name, net.node("Concat", inputs, layer.name, axis=1), row)
        case SelectSpec():
            _add_selection(net, layer)
        case BlurSpec():
            _add_blur(net, layer)


# ---- products ------------------------------------------------------------------------------------------


def _add_conv(net: Nodes, layer: ConvSpec) -> None:
    products = []
    bias = None if layer.bias is None else net.state(f"{layer.name}.bias")
    for index, source in enumerate(layer.inputs):
        own, suffix = layer.for_input(index), f".{index}" if len(layer.inputs) > 1 else ""
        weight = net.state(f"{layer.name}.weight{suffix}").transpose(0, 3, 1, 2)
        inputs = [net.image(source), net.tensor(f"{layer.name}.weight{suffix}", weight)]
        if bias is not None and index == 0 and layer.shared_bias:
            inputs.append(net.tensor(f"{layer.name}.bias", bias))
        pads = []
        for axis in range(2):
            size, stride = net.shapes[source][axis], own.stride[axis]
            before, after = both_sides(own.padding[axis])
            reach = (own.window[axis] - 1) * own.dilation[axis] + 1
            count = windows(size, own.window[axis], stride, (before, after), own.rounding, own.dilation[axis])
            pads.append((before, max(after, (count - 1) * stride + reach - size - before)))
        products.append(
            net.node(
                "Conv",
                inputs,
                layer.name,
                kernel_shape=list(own.window),
                strides=list(own.stride),
                dilations=list(own.dilation),
                group=own.groups,
                pads=_as_pads(pads),
            )
        )
    value = products[0] if len(products) == 1 else net.node("Sum", products, layer.name)
    if bias is not None and not layer.shared_bias:
        planes = bias.transpose(2, 0, 1)[None]
        value = net.node("Add", [value, net.tensor(f"{layer.name}.bias", planes)], layer.name)
    net.set(layer.name, _neuron(net, layer.neuron, value, layer.name), False)


def _add_fc(net: Nodes, layer: FcSpec) -> None:
    products = []
    for index, source in enumerate(layer.inputs):
        suffix = f".{index}" if len(layer.inputs) > 1 else ""
        h, w, c = net.shapes[source]
        # The file's images are planes of channels, so its rows have another order.
        weight = net.state(f"{layer.name}.weight{suffix}")
        weight = weight.reshape(-1, h, w, c).transpose(0, 3, 1, 2).reshape(weight.shape)
        inputs = [net.planes(source), net.tensor(f"{layer.name}.weight{suffix}", weight)]
        if layer.bias is not None and index == 0:
            inputs.append(net.tensor(f"{layer.name}.bias", net.state(f"{layer.name}.bias")))
        products.append(net.node("Gemm", inputs, layer.name, transB=1))
    value = products[0] if len(products) == 1 else net.node("Sum", products, layer.name)
    net.set(layer.name, _neuron(net, layer.neuron, value, layer.name), True)


def _neuron(net: Nodes, neuron: Neuron | None, x: str, name: str) -> str:
    """Add an activation function, and return the name of its output."""
    if neuron is None:
        return x
    if neuron.kind in _PLAIN:
        return net.node(_PLAIN[neuron.kind], [x], f"{name}/{neuron.kind}")
    match neuron.kind:
        case "tanh":
            return _times(net, net.node("Tanh", [_times(net, x, neuron.b)]), neuron.a)
        case "linear":
            x = _times(net, x, neuron.a)
            return x if neuron.b == 0 else net.node("Add", [x, net.tensor(f"{name}.b", np.array(neuron.b))])
        case "square":
            return net.node("Mul", [x, x])
        case "silu":
            return net.node("Mul", [x, net.node("Sigmoid", [x])])
        case "brelu":
            limits = [net.tensor(f"{name}.min", np.array(0.0)), net.tensor(f"{name}.max", np.array(neuron.a))]
            return net.node("Clip", [x, *limits])
    raise AssertionError(neuron.kind)


def _times(net: Nodes, x: str, factor: float) -> str:
    return x if factor == 1 else net.node("Mul", [x, net.tensor(f"{x}.factor", np.array(factor))])


# ---- pools and normalisation ---------------------------------------------------------------------------


def _add_pool(net: Nodes, layer: PoolSpec) -> None:
    (source,) = layer.inputs
    shape, x = net.shapes[source], net.image(source)
    counts, own = pool_outputs(layer, shape), [both_sides(one) for one in layer.padding]
    if layer.pool == "avg" and layer.window == shape[:2] and counts == (1, 1) and own == [(0, 0), (0, 0)]:
        net.set(layer.name, net.node("GlobalAveragePool", [x], layer.name), False)
        return
    # The rows and columns that windows read, and the padding around them.
    spans, pads, beyond = [], [], False
    for axis in range(2):
        size, (before, after) = shape[axis], own[axis]
        end = (counts[axis] - 1) * layer.stride[axis] + layer.window[axis] - before
        cut = size - end >= layer.stride[axis]  # further windows would fit
        spans.append((max(0, -before), end if cut else size))
        pads.append((max(0, before), max(0, end - size)))
        beyond = beyond or end - size > max(0, after)
    if spans != [(0, shape[0]), (0, shape[1])]:
        first, last = ([span[side] for span in spans] for side in range(2))
        limits = [net.integers(f"{layer.name}.{key}", v) for key, v in (("from", first), ("to", last))]
        x = net.node("Slice", [x, *limits, net.integers(f"{layer.name}.axes", [2, 3])])
    given: dict[str, Any] = {"kernel_shape": list(layer.window), "strides": list(layer.stride)}
    if layer.pool == "avg":
        given["count_include_pad"] = int(layer.count_padding and not beyond)
        if layer.count_padding and beyond:
            # Padding counts, but not what a last window has behind it.
            zeros = [(max(0, before), max(0, after)) for before, after in own]
            around = [0, 0, *(one[0] for one in zeros), 0, 0, *(one[1] for one in zeros)]
            x = net.node("Pad", [x, net.integers(f"{layer.name}.pads", around)])
            pads = [(0, max(0, pad[1] - zero[1])) for pad, zero in zip(pads, zeros, strict=True)]
    op = "MaxPool" if layer.pool == "max" else "AveragePool"
    net.set(layer.name, net.node(op, [x], layer.name, pads=_as_pads(pads), **given), False)


def _as_pads(pads: list[Pair]) -> list[int]:
    """Return ONNX's order: above, left, below, right."""
    (top, bottom), (left, right) = pads
    return [top, left, bottom, right]


def _add_lrn(net: Nodes, layer: LrnSpec) -> None:
    (source,) = layer.inputs
    given: dict[str, Any] = {"size": layer.size, "beta": float(layer.beta), "bias": float(layer.k)}
    given["alpha"] = float(layer.alpha * layer.size)  # of the mean of the squares, not of their sum
    x, channels = net.image(source), net.shapes[source][2] // layer.groups
    if layer.groups == 1:
        net.set(layer.name, net.node("LRN", [x], layer.name, **given), False)
        return
    axes, parts = net.integers(f"{layer.name}.axes", [1]), []
    for group in range(layer.groups):
        limits = [
            net.integers(f"{layer.name}.{key}", [(group + step) * channels])
            for key, step in (("from", 0), ("to", 1))
        ]
        parts.append(net.node("LRN", [net.node("Slice", [x, *limits, axes])], **given))
    net.set(layer.name, net.node("Concat", parts, layer.name, axis=1), False)


def _add_norm(net: Nodes, layer: BatchNormSpec) -> None:
    (source,) = layer.inputs
    names = [f"{layer.name}.{of}" for of in ("weight", "bias", "mean", "variance")]
    vectors = [net.tensor(name, net.state(name)) for name in names]
    given = {"epsilon": float(layer.eps), "momentum": 1 - float(layer.momentum)}
    inputs = [net.values[source], *vectors]
    net.set(layer.name, net.node("BatchNormalization", inputs, layer.name, **given), net.is_row(source))


def _add_dropout(net: Nodes, layer: DropoutSpec) -> None:
    """Add the factor that dropout is in tests; none for inverted dropout."""
    (source,) = layer.inputs
    factor = 1.0 if layer.inverted else layer.keep
    net.set(layer.name, _times(net, net.values[source], factor), net.is_row(source))


# ---- channels ------------------------------------------------------------------------------------------


def _add_selection(net: Nodes, layer: SelectSpec) -> None:
    (source,) = layer.inputs
    x, channels = net.image(source), [*layer.channels]
    count, first = net.shapes[source][2], next(i for i, c in enumerate(channels) if c is not None)
    after = len(channels) - first - count
    if channels == [*[None] * first, *range(count), *[None] * after]:
        pads = net.integers(f"{layer.name}.pads", [0, first, 0, 0, 0, after, 0, 0])
        net.set(layer.name, net.node("Pad", [x, pads], layer.name), False)
        return
    if None in channels:
        x = net.node("Pad", [x, net.integers(f"{layer.name}.pads", [0, 0, 0, 0, 0, 1, 0, 0])])
    indices = [count if channel is None else channel for channel in channels]
    chosen = net.integers(f"{layer.name}.channels", indices)
    net.set(layer.name, net.node("Gather", [x, chosen], layer.name, axis=1), False)


def _add_blur(net: Nodes, layer: BlurSpec) -> None:
    (source,) = layer.inputs
    channels, half = net.shapes[source][2], layer.size // 2
    filters = np.tile(gaussian_window(layer), (channels, 1, 1, 1))
    weight = net.tensor(f"{layer.name}.weight", filters)
    given = {"group": channels, "pads": [half] * 4, "kernel_shape": [layer.size] * 2}
    net.set(layer.name, net.node("Conv", [net.image(source), weight], layer.name, **given), False)
