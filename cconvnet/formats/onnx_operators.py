"""ONNX's operators as layers.

Each function translates one operator, and returns its result, or its results in order. It raises a ValueError
for a node that no layer computes. Source: https://github.com/onnx/onnx/blob/main/docs/Operators.md, the
versions from 7 to 22.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np

from cconvnet.formats import onnx_channels
from cconvnet.formats.drafts import Signal
from cconvnet.formats.onnx_graph import Array, Node, Translation
from cconvnet.formats.onnx_layers import tiles
from cconvnet.nets import (
    DATA,
    ConcatSpec,
    DropoutSpec,
    LrnSpec,
    MaxSpec,
    Neuron,
    NeuronSpec,
    Pair,
    PoolSpec,
    SumSpec,
    UnpoolSpec,
)
from cconvnet.nets.shapes import windows

Operator = Callable[[Translation, Node], Signal | list[Signal]]
_SAME = ("SAME_UPPER", "SAME_LOWER")


# ---- windows -------------------------------------------------------------------------------------------


def _padding(node: Node, shape: tuple[int, ...], window: Pair) -> tuple[Pair, Pair]:
    """Return the padding (before, after) of each direction."""
    auto = node.text("auto_pad", "NOTSET")
    if auto in _SAME:
        pads = []
        strides, dilations = node.pair("strides"), node.pair("dilations")
        for size, side, stride, dilation in zip(shape, window, strides, dilations, strict=False):
            total = max(0, (-(-size // stride) - 1) * stride + (side - 1) * dilation + 1 - size)
            less, more = total // 2, total - total // 2
            pads.append((less, more) if auto == "SAME_UPPER" else (more, less))
        return pads[0], pads[1]
    if auto not in ("NOTSET", "VALID", ""):
        raise ValueError(f"auto_pad is {auto!r}")
    values = node.integers("pads", (0,) * 4) if auto != "VALID" else [0] * 4
    if len(values) != 4 or min(values) < 0:
        raise ValueError(f"pads must be four numbers that are not negative, not {values}")
    return (values[0], values[2]), (values[1], values[3])


def _filters(net: Translation, node: Node) -> tuple[Array, Array | None, Pair]:
    """Return the weight and the bias of a node with filters, and their window."""
    weight = net.constant(node, 1, "the weight")
    bias = net.constant(node, 2, "the bias") if net.has(node, 2) else None
    if weight.ndim != 4:
        raise ValueError(f"only images are convolved, with a weight of 4 dimensions, not {weight.ndim}")
    window = weight.shape[2], weight.shape[3]
    if node.integers("kernel_shape", window) != list(window):
        raise ValueError(f"kernel_shape is {node.integers('kernel_shape')}, the weight's is {list(window)}")
    return weight, bias, window


def _conv(net: Translation, node: Node) -> Signal:
    x = net.signal(node, padded=True)
    weight, bias, window = _filters(net, node)
    padding = _padding(node, x.shape, window)
    if node.inputs[0] in net.paddings:
        top, left, bottom, right = net.paddings[node.inputs[0]]
        if node.text("auto_pad", "NOTSET") in _SAME:
            raise ValueError("auto_pad behind a Pad is not translated")
        (a, b), (c, d) = padding
        padding = (a + top, b + bottom), (c + left, d + right)
    strides, dilations = node.pair("strides"), node.pair("dilations")
    groups = node.integer("group", 1)
    return net.draft.conv(
        node.name, x, weight, bias, groups, stride=strides, padding=padding, dilation=dilations
    )


def _deconv(net: Translation, node: Node) -> Signal:
    x = net.signal(node)
    weight, bias, window = _filters(net, node)
    if node.pair("dilations") != (1, 1):
        raise ValueError("transposed convolutions without gaps only: dilations must be 1")
    auto, strides = node.text("auto_pad", "NOTSET"), node.pair("strides")
    more = node.integers("output_padding", (0, 0))
    whole = [(size - 1) * stride + side for size, stride, side in zip(x.shape, strides, window, strict=False)]
    sides = node.integers("output_shape")[-2:]
    if auto in _SAME and not sides:
        sides = [size * stride for size, stride in zip(x.shape, strides, strict=False)]
    if len(more) != 2 or len(sides) not in (0, 2):
        raise ValueError("output_padding and output_shape must be two numbers")
    if not sides:
        padding = _padding(node, x.shape, window)
        sides = [one + extra - sum(pad) for one, extra, pad in zip(whole, more, padding, strict=True)]
    else:  # which say the padding; of an odd one the larger half is in front, but for SAME_UPPER
        pads = []
        for one, extra, side in zip(whole, more, sides, strict=True):
            total = max(0, one + extra - side)
            less, most = total // 2, total - total // 2
            pads.append((less, most) if auto == "SAME_UPPER" else (most, less))
        padding = pads[0], pads[1]
    groups = node.integer("group", 1)
    given = {"stride": strides, "padding": padding, "outputs": tuple(sides)}
    return net.draft.deconv(node.name, x, weight, bias, groups, **given)


def _pool(net: Translation, node: Node) -> Signal:
    pool, zeros = "max" if node.op == "MaxPool" else "avg", node.inputs[0] in net.paddings
    counts = bool(node.integer("count_include_pad", 0))
    x = net.signal(node, padded=pool == "avg")
    window = node.pair("kernel_shape")
    if node.pair("dilations") != (1, 1):
        raise ValueError("pools without gaps only: dilations must be 1")
    padding = _padding(node, x.shape, window)
    outputs = None
    if zeros:
        top, left, bottom, right = net.paddings[node.inputs[0]]
        (a, b), (c, d) = padding
        added = (a + top, b + bottom), (c + left, d + right)
        if counts or not any((a, b, c, d)):
            padding = added
        elif not a and not c and node.text("auto_pad", "NOTSET") not in _SAME:
            # What is behind the Pad's zeros does not count, so the number of windows alone depends on it.
            rounding = "ceil" if node.integer("ceil_mode", 0) else "floor"
            outputs = tuple(map(windows, x.shape, window, node.pair("strides"), added, (rounding,) * 2))
            padding = (top, bottom), (left, right)
        else:
            raise ValueError("does not count its own padding, but that of a Pad before it")
        counts = True
    # auto_pad sets the number of windows; its padding gives it with either rounding.
    ceil = node.integer("ceil_mode", 0) and node.text("auto_pad", "NOTSET") not in _SAME
    y = net.draft.add(
        PoolSpec,
        node.name,
        [_image(x)],
        pool=pool,
        window=window,
        stride=node.pair("strides"),
        padding=padding,
        rounding="ceil" if ceil else "floor",
        outputs=outputs,
        count_padding=counts and pool == "avg",
    )
    if len(node.outputs) > 1 and node.outputs[1]:
        net.places[node.outputs[1]] = node, x, y
    return y


def _unpool(net: Translation, node: Node) -> Signal:
    x, name = _image(net.signal(node)), node.inputs[1] if net.has(node, 1) else ""
    if name not in net.places:
        raise ValueError(f"its input 1, {name!r}, is not the indices of a MaxPool")
    pool, u, y = net.places[name]
    windows = cast(PoolSpec, net.draft.layers[y.layer])
    same = (node.pair("kernel_shape"), node.pair("strides")) == (windows.window, windows.stride)
    if not same or not tiles(windows, u.shape) or pool.integer("storage_order", 0):
        raise ValueError(
            "only the windows of its MaxPool are translated, if they fill its image without overlap"
        )
    if net.has(node, 2) and net.small(node, 2, "the shape")[1:] != [u.shape[2], *u.shape[:2]]:
        raise ValueError("its shape is not that of its MaxPool's image")
    return net.draft.add(UnpoolSpec, node.name, [x, u], **windows.windows)


def _whole_pool(net: Translation, node: Node) -> Signal:
    x = _image(net.signal(node))
    pool, whole = "max" if node.op == "GlobalMaxPool" else "avg", x.shape[:2]
    return net.draft.add(PoolSpec, node.name, [x], pool=pool, window=whole, stride=whole)


def _reduce_mean(net: Translation, node: Node) -> Signal:
    axes = net.small(node, 1, "the axes") if net.has(node, 1) else node.integers("axes")
    if sorted(axis % 4 for axis in axes) != [2, 3]:
        raise ValueError(f"is the mean over the axes {axes}, not over height and width")
    y = _whole_pool(net, node)
    return y if node.integer("keepdims", 1) else Signal(y.layer, y.shape, flat=True)


def _image(x: Signal) -> Signal:
    if x.flat and not x.is_row:
        raise ValueError("reads a row of values, not an image")
    return x


# ---- products ------------------------------------------------------------------------------------------


def _gemm(net: Translation, node: Node) -> Signal:
    x, weight = net.signal(node), net.constant(node, 1, "the weight")
    if node.integer("transA", 0):
        raise ValueError("transA must be 0")
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    y = net.draft.fc(node.name, _row(x), weight, None, outputs_first=bool(node.integer("transB", 0)))
    offset = net.constant(node, 2, "the bias") if net.has(node, 2) else None
    if offset is None and alpha == 1:
        return y
    if offset is None:
        offset = np.zeros(1)
    if offset.size not in (1, y.shape[2]):
        raise ValueError(f"the bias {list(offset.shape)} must have 1 or {y.shape[2]} values")
    return net.draft.scale(node.name, y, np.array([alpha]), offset.reshape(-1) * np.float64(beta), True)


def _matmul(net: Translation, node: Node) -> Signal:
    return net.draft.fc(node.name, _row(net.signal(node)), net.constant(node, 1, "the weight"), None, False)


def _row(x: Signal) -> Signal:
    if not x.flat:
        raise ValueError("reads an image, not a row of values; a Flatten is missing before it")
    return x


# ---- values by themselves ------------------------------------------------------------------------------


def _neuron(kind: str) -> Operator:
    function = Neuron(kind, 1.0, 1.0 if kind == "tanh" else 0.0)

    def translate(net: Translation, node: Node) -> Signal:
        return net.draft.activate(node.name, net.signal(node), function, net.alone(node.inputs[0]))

    return translate


def _clip(net: Translation, node: Node) -> Signal:
    limits = []
    for index, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        limit = node.real(name, default)
        if net.has(node, index):
            values = net.constant(node, index, name)
            if values.size != 1:
                raise ValueError(f"{name} must be one number")
            limit = float(str(values.reshape(-1)[0]))
        limits.append(limit)
    low, high = limits
    if low != 0 or not high > 0:
        raise ValueError(f"values are limited to {low:g} and {high:g}; the lower limit must be 0")
    neuron = Neuron("relu") if high > 3e38 else Neuron("brelu", high)
    return net.draft.activate(node.name, net.signal(node), neuron, net.alone(node.inputs[0]))


def _lrn(net: Translation, node: Node) -> Signal:
    size = node.integer("size", 0)
    if size < 1 or size % 2 == 0:
        raise ValueError(f"the size must be odd, so that windows are centred, not {size}")
    # ONNX multiplies the mean of the squares, and the layer their sum.
    fields = {"alpha": node.real("alpha", 1e-4) / size, "beta": node.real("beta", 0.75)}
    return net.draft.add(
        LrnSpec, node.name, [_image(net.signal(node))], size=size, k=node.real("bias", 1.0), **fields
    )


def _norm(net: Translation, node: Node) -> Signal:
    if node.integer("training_mode", 0) or not node.integer("spatial", 1):
        raise ValueError("normalises by its own batch, or each pixel by itself")
    names = ("weight", "bias", "mean", "variance")
    vectors = {name: net.constant(node, index, name) for index, name in enumerate(names, 1)}
    # ONNX's momentum is the share of the old statistics.
    momentum = round(1 - node.real("momentum", 0.9), 7)
    return net.draft.norm(
        node.name, net.signal(node), vectors, eps=node.real("epsilon", 1e-5), momentum=momentum
    )


def _dropout(net: Translation, node: Node) -> Signal:
    rate = node.real("ratio", 0.5)
    if net.has(node, 1):
        values = net.constant(node, 1, "the ratio")
        rate = float(str(values.reshape(-1)[0])) if values.size == 1 else math.nan
    if not 0 <= rate < 1:
        raise ValueError(f"the ratio must be at least 0 and below 1, not {rate:g}")
    x = net.signal(node)
    return net.draft.add(DropoutSpec, node.name, [x], keep=1 - rate, inverted=True)


# ---- several inputs ------------------------------------------------------------------------------------


def _signals(net: Translation, node: Node) -> list[Signal]:
    found = [net.signal(node, index) for index in range(len(node.inputs))]
    if len({one.flat for one in found if not one.is_row}) > 1:
        raise ValueError("reads images and rows of values")
    return found


def _sum(net: Translation, node: Node) -> Signal:
    constants = [index for index, name in enumerate(node.inputs) if net.is_constant(name)]
    if constants:
        return _with_constant(net, node, constants)
    inputs = _signals(net, node)
    if len(inputs) == 1:
        return inputs[0]
    coeffs = (1.0, -1.0) if node.op == "Sub" else ()
    return net.draft.add(SumSpec, node.name, inputs, coeffs=coeffs)


def _product(net: Translation, node: Node) -> Signal:
    constants = [index for index, name in enumerate(node.inputs) if net.is_constant(name)]
    if constants:
        return _with_constant(net, node, constants)
    if node.op == "Mul" and len(node.inputs) == 2:
        inputs = _signals(net, node)
        if node.inputs[0] == node.inputs[1]:
            return net.draft.add(NeuronSpec, node.name, inputs[:1], neuron=Neuron("square"))
        for x, gate in (inputs, inputs[::-1]):
            spec = net.draft.layers.get(gate.layer)
            if isinstance(spec, NeuronSpec) and spec.neuron.kind == "logistic" and spec.inputs == (x.layer,):
                return net.draft.add(NeuronSpec, node.name, [x], neuron=Neuron("silu"))
    raise ValueError("only products with constants, x * x and x * Sigmoid(x) are layers")


def _with_constant(net: Translation, node: Node, constants: list[int]) -> Signal:
    """Translate a sum or a product of a signal and a constant."""
    if len(node.inputs) != 2 or len(constants) != 1:
        raise ValueError("one of two inputs may be a constant")
    at = constants[0]
    x, values = net.signal(node, 1 - at), net.constant(node, at, "the constant")
    channels = _per_channel(values, x)
    alone = net.alone(node.inputs[1 - at])
    if channels is None:
        planes = values.reshape(values.shape[-3:])
        sign = {"Add": 1, "Sum": 1, "Sub": -1}.get(node.op, 0) if at == 1 else 0
        whole = planes.shape == (x.shape[2], *x.shape[:2]) and x.layer == DATA and sign and alone
        if whole and net.draft.subtract_image(-planes if sign > 0 else planes):
            return x
        raise ValueError(f"the constant {list(values.shape)} is no number for each channel")
    one, zero = np.ones(1), np.zeros(1)
    wide = channels.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        if node.op in ("Add", "Sum"):
            factor, offset = one, wide
        elif node.op == "Sub":
            factor, offset = (one, -wide) if at == 1 else (-one, wide)
        elif node.op == "Mul":
            factor, offset = wide, zero
        elif at == 1:
            factor, offset = 1 / wide, zero
        else:
            raise ValueError("a constant divided by a result is no layer")
    return net.draft.scale(node.name, x, factor, offset, alone)


def _per_channel(values: Array, x: Signal) -> Array | None:
    """Return the number, or the one for each channel, that a constant is; None if it is neither."""
    if values.size == 1:
        return values.reshape(1)
    rank = 2 if x.flat else 4
    shape = (1,) * (rank - values.ndim) + values.shape
    if len(shape) != rank:
        raise ValueError(
            f"the constant has the shape {list(values.shape)}, of more dimensions than the result"
        )
    if shape[1] in (1, x.shape[2]) and math.prod(shape) == shape[1]:
        return values.reshape(-1)
    if x.is_row and rank == 4:
        raise ValueError(f"the constant {list(values.shape)} would enlarge the result")
    return None


def _max(net: Translation, node: Node) -> Signal:
    inputs = _signals(net, node)
    return inputs[0] if len(inputs) == 1 else net.draft.add(MaxSpec, node.name, inputs)


def _concat(net: Translation, node: Node) -> Signal:
    inputs = _signals(net, node)
    axis = node.integer("axis", 1)
    if axis not in (1, -1 if inputs[0].flat else -3):
        raise ValueError(f"joins along axis {axis}, not the channels")
    if inputs[0].flat and not all(one.is_row for one in inputs):
        raise ValueError("joins rows of values of images")
    return inputs[0] if len(inputs) == 1 else net.draft.add(ConcatSpec, node.name, inputs)


# ---- other shapes --------------------------------------------------------------------------------------


def _same(net: Translation, node: Node) -> Signal:
    return net.signal(node, ended=True)


def _flatten(net: Translation, node: Node) -> Signal:
    x = net.signal(node, ended=True)
    if node.integer("axis", 1) not in (1, -1 if x.flat else -3):
        raise ValueError("must keep the first axis, that of the images")
    return Signal(x.layer, x.shape, flat=True)


def _reshape(net: Translation, node: Node) -> Signal:
    x = net.signal(node, ended=True)
    shape = net.small(node, 1, "the shape") if net.has(node, 1) else node.integers("shape")
    return _as_shape(x, shape)


def _as_shape(x: Signal, shape: list[int]) -> Signal:
    """Return a signal in another shape, whose first axis is that of the images."""
    h, w, c = x.shape
    own = [1, c * h * w] if x.flat else [1, c, h, w]
    rest = [own[index] if side == 0 and index < len(own) else side for index, side in enumerate(shape)][1:]
    known = math.prod(side for side in rest if side != -1)
    rest = [c * h * w // max(1, known) if side == -1 else side for side in rest]
    if rest == [c * h * w]:
        return Signal(x.layer, x.shape, flat=True)
    if rest == [c, h, w]:
        return Signal(x.layer, x.shape)
    raise ValueError(f"gives the shape {shape}; only [N, -1], and what it was before, are translated")


def _squeeze(net: Translation, node: Node) -> Signal:
    x = net.signal(node, ended=True)
    axes = net.small(node, 1, "the axes") if net.has(node, 1) else node.integers("axes")
    rank = 2 if x.flat else 4
    ends = sorted(axis % max(1, rank if node.op == "Squeeze" else rank + len(axes)) for axis in axes)
    if not x.is_row or ends != [2, 3]:
        raise ValueError(f"changes the axes {axes}; only height and width of 1 can come or go")
    return Signal(x.layer, x.shape, flat=node.op == "Squeeze")


def _softmax(net: Translation, node: Node) -> Signal:
    x = net.signal(node)
    old = net.opset < 13
    axis = node.integer("axis", 1 if old else -1)
    rank = 2 if x.flat else 4
    # Before version 13 all axes from this one on were one.
    if axis % rank != 1 or (not x.is_row and (x.flat or old)):
        raise ValueError(f"axis {axis} is not that of the channels")
    net.softmax[node.outputs[0]] = node.name
    return x


OPERATORS: dict[str, Operator] = {
    "Conv": _conv,
    "ConvTranspose": _deconv,
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    "MaxUnpool": _unpool,
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _whole_pool),
    "ReduceMean": _reduce_mean,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Relu": _neuron("relu"),
    "Sigmoid": _neuron("logistic"),
    "Tanh": _neuron("tanh"),
    "Softplus": _neuron("softrelu"),
    "Abs": _neuron("abs"),
    "Sqrt": _neuron("sqrt"),
    "Clip": _clip,
    "LRN": _lrn,
    "BatchNormalization": _norm,
    "Dropout": _dropout,
    **dict.fromkeys(("Add", "Sum", "Sub"), _sum),
    **dict.fromkeys(("Mul", "Div"), _product),
    "Max": _max,
    "Concat": _concat,
    **dict.fromkeys(("Identity", "Cast"), _same),
    "Flatten": _flatten,
    "Reshape": _reshape,
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _squeeze),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "Pad": onnx_channels.pad,
    "Slice": onnx_channels.take_slice,
    "Gather": onnx_channels.gather,
    "Split": onnx_channels.split,
}
