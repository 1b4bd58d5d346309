"""Layers as nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
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
    CostSpec,
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
    UnpoolSpec,
    WindowsSpec,
)
from cconvnet.nets.shapes import Shape, pool_outputs, windows
from cconvnet.nets.values import both_sides

_PLAIN = {"relu": "Relu", "logistic": "Sigmoid", "softrelu": "Softplus", "abs": "Abs", "sqrt": "Sqrt"}


def check(layer: LayerSpec) -> None:
    """Check that ONNX can say a layer.

    Raises:
        ValueError: it cannot; the text names the layer.
    """
    if type(layer) not in _ADDERS and not isinstance(layer, CostSpec):
        raise ValueError(f"layer {layer.name}: ONNX has no operators for {layer.type}")


def add(net: Nodes, layer: LayerSpec) -> None:
    """Add the nodes of a layer that :func:`check` lets pass."""
    _ADDERS[type(layer)](net, layer)


# ---- products ------------------------------------------------------------------------------------------


def _add_conv(net: Nodes, layer: ConvSpec) -> None:
    def product(index: int, own: ConvSpec, weight: str, bias: list[str]) -> str:
        source = layer.inputs[index]
        return net.node(
            "Conv",
            [net.image(source), net.tensor(weight, net.state(weight).transpose(0, 3, 1, 2)), *bias],
            layer.name,
            kernel_shape=list(own.window),
            strides=list(own.stride),
            dilations=list(own.dilation),
            group=own.groups,
            pads=_window_pads(net, source, own),
        )

    _add_products(net, layer, product)


def _add_deconv(net: Nodes, layer: DeconvSpec) -> None:
    def product(index: int, own: DeconvSpec, weight: str, bias: list[str]) -> str:
        source = layer.inputs[index]
        pads = [both_sides(padding) for padding in own.padding]
        more = [
            count - ((size - 1) * stride + window - sum(pad))
            for count, size, stride, window, pad in zip(
                net.shapes[layer.name], net.shapes[source], own.stride, own.window, pads, strict=False
            )
        ]
        return net.node(
            "ConvTranspose",
            [net.image(source), net.tensor(weight, net.state(weight).transpose(0, 3, 1, 2)), *bias],
            layer.name,
            kernel_shape=list(own.window),
            strides=list(own.stride),
            group=own.groups,
            pads=_as_pads(pads),
            output_padding=more,
        )

    _add_products(net, layer, product)


def _add_local(net: Nodes, layer: LocalSpec) -> None:
    def product(index: int, own: LocalSpec, weight: str, bias: list[str]) -> str:
        source = layer.inputs[index]
        value = net.state(weight)
        p, q, k, r, s, c = value.shape
        channels, groups = net.shapes[source][2], own.groups
        # Filters of one 1 give the values of each window, c * r * s of them for each position.
        ones = np.tile(np.eye(r * s).reshape(r * s, 1, r, s), (channels, 1, 1, 1))
        columns = net.node(
            "Conv",
            [net.image(source), net.tensor(f"{layer.name}.windows", ones)],
            kernel_shape=[r, s],
            strides=list(own.stride),
            group=channels,
            pads=_window_pads(net, source, own),
        )
        rows = net.node("Transpose", [columns], perm=[2, 3, 0, 1])
        filters = value.transpose(0, 1, 5, 3, 4, 2).reshape(p, q, c * r * s, groups, k // groups)
        products = []
        for group, part in enumerate(_parts(net, rows, 3, groups, c * r * s)):
            name = weight if groups == 1 else f"{weight}.group{group}"
            products.append(net.node("MatMul", [part, net.tensor(name, filters[:, :, :, group])]))
        joined = products[0] if groups == 1 else net.node("Concat", products, axis=3)
        return net.node("Transpose", [joined], layer.name, perm=[2, 3, 0, 1])

    _add_products(net, layer, product)


def _add_products(net: Nodes, layer: Any, product: Callable[[int, Any, str, list[str]], str]) -> None:
    """Add a layer with filters.

    Args:
        net: the graph.
        layer: the layer.
        product: adds the product with the input of an index, and returns the name of its output; it gets the
            layer as it is for this input, and the names of its weight and, perhaps, of its bias.
    """
    products, bias = [], f"{layer.name}.bias"
    of_channels = layer.bias is not None and layer.shared_bias
    for index in range(len(layer.inputs)):
        suffix = f".{index}" if len(layer.inputs) > 1 else ""
        given = [net.tensor(bias, net.state(bias))] if of_channels and index == 0 else []
        products.append(product(index, layer.for_input(index), f"{layer.name}.weight{suffix}", given))
    value = products[0] if len(products) == 1 else net.node("Sum", products, layer.name)
    if layer.bias is not None and not of_channels:
        planes = net.state(bias).transpose(2, 0, 1)[None]
        value = net.node("Add", [value, net.tensor(bias, planes)], layer.name)
    net.set(layer.name, _neuron(net, layer.neuron, value, layer.name), False)


def _window_pads(net: Nodes, source: str, own: ConvSpec | LocalSpec) -> list[int]:
    """Return the zeros around an image, with those that a last window beyond the edge reads."""
    pads = []
    for axis in range(2):
        size, stride = net.shapes[source][axis], own.stride[axis]
        before, after = both_sides(own.padding[axis])
        reach = (own.window[axis] - 1) * own.dilation[axis] + 1
        count = windows(size, own.window[axis], stride, (before, after), own.rounding, own.dilation[axis])
        pads.append((before, max(after, (count - 1) * stride + reach - size - before)))
    return _as_pads(pads)


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


def _add_unpool(net: Nodes, layer: UnpoolSpec) -> None:
    """Add an unpooling by the indices of the pooling's node.

    Raises:
        ValueError: windows overlap, do not fill the image, or are those of no pooling that is written.
    """
    values, source = layer.inputs
    if not tiles(layer, net.shapes[source]):
        raise ValueError(
            f"layer {layer.name}: ONNX unpools windows only that fill the image and do not overlap"
        )
    given = {"kernel_shape": list(layer.window), "strides": list(layer.stride)}
    indices = net.indices(net.image(source), pads=[0] * 4, **given)
    if indices is None:
        raise ValueError(f"layer {layer.name}: ONNX unpools what a layer pools, and none has these windows")
    net.set(layer.name, net.node("MaxUnpool", [net.image(values), indices], layer.name, **given), False)


def tiles(layer: WindowsSpec, shape: Shape) -> bool:
    """True if windows do not overlap, and the last ends where the image does."""
    each = zip(pool_outputs(layer, shape), layer.window, layer.stride, layer.padding, shape, strict=False)
    return all(
        both_sides(padding) == (0, 0) and window <= stride and (count - 1) * stride + window == size
        for count, window, stride, padding, size in each
    )


def _as_pads(pads: list[Pair]) -> list[int]:
    """Return ONNX's order: above, left, below, right."""
    (top, bottom), (left, right) = pads
    return [top, left, bottom, right]


def _add_lrn(net: Nodes, layer: LrnSpec) -> None:
    (source,) = layer.inputs
    x, channels = net.image(source), net.shapes[source][2] // layer.groups
    if layer.region != "across_channels" or layer.size % 2 == 0:
        # ONNX centres windows of an even number of channels elsewhere, and knows none within a map.
        squares = net.node("Mul", [x, x])
        if layer.region == "across_channels":
            total = _sum_of_channels(net, layer, squares)
        else:
            total = _times(net, _mean_of_windows(net, layer.size, squares, True), layer.size**2)
        _add_power(net, layer, x, total)
        return
    given: dict[str, Any] = {"size": layer.size, "beta": float(layer.beta), "bias": float(layer.k)}
    given["alpha"] = float(layer.alpha * layer.size)  # of the mean of the squares, not of their sum
    if layer.groups == 1:
        net.set(layer.name, net.node("LRN", [x], layer.name, **given), False)
        return
    parts = [net.node("LRN", [part], **given) for part in _parts(net, x, 1, layer.groups, channels)]
    net.set(layer.name, net.node("Concat", parts, layer.name, axis=1), False)


def _add_contrast_norm(net: Nodes, layer: ContrastNormSpec) -> None:
    x = net.image(layer.inputs[0])
    above = net.node("Sub", [x, _mean_of_windows(net, layer.size, x, False)])
    means = _mean_of_windows(net, layer.size, net.node("Mul", [above, above]), True)
    _add_power(net, layer, x, _times(net, means, layer.size**2))


def _add_power(net: Nodes, layer: LrnSpec | ContrastNormSpec, x: str, total: str) -> None:
    """Add x * (k + alpha * total)^-beta."""
    product = _times(net, total, layer.alpha)
    below = net.node("Add", [product, net.tensor(f"{layer.name}.k", np.array(layer.k))])
    power = net.node("Pow", [below, net.tensor(f"{layer.name}.beta", np.array(-layer.beta))])
    net.set(layer.name, net.node("Mul", [x, power], layer.name), False)


def _mean_of_windows(net: Nodes, size: int, x: str, beyond: bool) -> str:
    """Return the means of windows around each pixel, of the pixels in the map or of those beyond it too."""
    before = size // 2
    pads = [(before, size - 1 - before)] * 2
    given: dict[str, Any] = {
        "kernel_shape": [size] * 2,
        "pads": _as_pads(pads),
        "count_include_pad": int(beyond),
    }
    return net.node("AveragePool", [x], strides=[1, 1], **given)


def _sum_of_channels(net: Nodes, layer: LrnSpec, x: str) -> str:
    """Return the sums over windows of channels, by filters of ones."""
    all_channels = net.shapes[layer.inputs[0]][2]
    channels = all_channels // layer.groups
    distance = np.arange(channels) - np.arange(channels)[:, None]
    first = -(layer.size // 2)
    within = (first <= distance) & (distance < first + layer.size)
    filters = np.tile(within, (layer.groups, 1))[:, :, None, None].astype(np.float32)
    weight = net.tensor(f"{layer.name}.windows", filters)
    return net.node("Conv", [x, weight], group=layer.groups, kernel_shape=[1, 1])


def _parts(net: Nodes, x: str, axis: int, count: int, size: int) -> list[str]:
    """Return equal parts of a value along an axis."""
    if count == 1:
        return [x]
    axes = net.integers(f"{x}.axes", [axis])
    limits = [net.integers(f"{x}.part{part}", [part * size]) for part in range(count + 1)]
    return [net.node("Slice", [x, limits[part], limits[part + 1], axes]) for part in range(count)]


def _add_norm(net: Nodes, layer: BatchNormSpec) -> None:
    (source,) = layer.inputs
    names = [f"{layer.name}.{of}" for of in ("weight", "bias", "mean", "variance")]
    vectors = [net.tensor(name, net.state(name)) for name in names]
    given = {"epsilon": float(layer.eps), "momentum": 1 - float(layer.momentum)}
    inputs = [net.values[source], *vectors]
    net.set(layer.name, net.node("BatchNormalization", inputs, layer.name, **given), net.is_row(source))


def _add_neuron(net: Nodes, layer: NeuronSpec) -> None:
    (source,) = layer.inputs
    net.set(layer.name, _neuron(net, layer.neuron, net.values[source], layer.name), net.is_row(source))


def _add_dropout(net: Nodes, layer: DropoutSpec) -> None:
    """Add the factor that dropout is in tests; none for inverted dropout."""
    (source,) = layer.inputs
    factor = 1.0 if layer.inverted else layer.keep
    net.set(layer.name, _times(net, net.values[source], factor), net.is_row(source))


# ---- several inputs ------------------------------------------------------------------------------------


def _add_sum(net: Nodes, layer: SumSpec) -> None:
    inputs, row = net.together(layer.inputs)
    if set(layer.coeffs) - {1}:
        inputs = [
            value if coeff == 1 else _times(net, value, coeff)
            for value, coeff in zip(inputs, layer.coeffs, strict=True)
        ]
    net.set(layer.name, net.node("Add" if len(inputs) == 2 else "Sum", inputs, layer.name), row)


def _add_max(net: Nodes, layer: MaxSpec) -> None:
    inputs, row = net.together(layer.inputs)
    net.set(layer.name, net.node("Max", inputs, layer.name), row)


def _add_concat(net: Nodes, layer: ConcatSpec) -> None:
    inputs, row = net.together(layer.inputs)
    net.set(layer.name, net.node("Concat", inputs, layer.name, axis=1), row)


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


# ---- distances -----------------------------------------------------------------------------------------


def _add_distances(net: Nodes, layer: RbfSpec) -> None:
    """Add 2 x w - sum of w^2, by a product with the codes w of 1 and -1, minus the sum of x^2."""
    (source,) = layer.inputs
    h, w, c = net.shapes[source]
    codes = np.array([[1 if sign == "+" else -1 for sign in code] for code in layer.codes])
    planes = codes.reshape(-1, h, w, c).transpose(0, 3, 1, 2).reshape(codes.shape)
    x, minus = net.planes(source), np.full(len(codes), -h * w * c)
    inputs = [x, net.tensor(f"{layer.name}.codes", 2 * planes), net.tensor(f"{layer.name}.count", minus)]
    squares = net.node("ReduceSumSquare", [x], axes=[1], keepdims=1)
    product = net.node("Gemm", inputs, transB=1)
    net.set(layer.name, net.node("Sub", [product, squares], layer.name), True)


_ADDERS: dict[type[LayerSpec], Callable[[Nodes, Any], None]] = {
    ConvSpec: _add_conv,
    DeconvSpec: _add_deconv,
    LocalSpec: _add_local,
    FcSpec: _add_fc,
    NeuronSpec: _add_neuron,
    PoolSpec: _add_pool,
    UnpoolSpec: _add_unpool,
    LrnSpec: _add_lrn,
    ContrastNormSpec: _add_contrast_norm,
    BatchNormSpec: _add_norm,
    DropoutSpec: _add_dropout,
    SumSpec: _add_sum,
    MaxSpec: _add_max,
    ConcatSpec: _add_concat,
    SelectSpec: _add_selection,
    BlurSpec: _add_blur,
    RbfSpec: _add_distances,
}
