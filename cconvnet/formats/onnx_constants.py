"""Nodes of an ONNX graph that no image changes: constants, and shapes that are computed from others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cconvnet.formats.onnx_graph import MAX_SMALL, Array, Node, Translation
from cconvnet.formats.onnx_schema import FLOAT, INT64, array_of

_CASTS = {FLOAT: np.float32, INT64: np.int64}


def fold(net: Translation, node: Node) -> bool:
    """Compute a node if no image changes its result; return whether it is one.

    Raises:
        ValueError: it is one that is not computed.
    """
    read = [name for name in node.inputs if name]
    if node.op == "Shape" and read and read[0] in net.signals:
        x = net.signals[read[0]]
        h, w, c = x.shape
        value: Array = np.array([-1, h * w * c] if x.flat else [-1, c, h, w])  # the batch has any size
    elif not all(net.is_constant(name) for name in read) or (not read and node.op != "Constant"):
        return False
    elif node.op not in _COMPUTED:
        raise ValueError("reads constants alone, from which it is not computed")
    else:
        value = _COMPUTED[node.op](net, node)
    net.add_constant(node.outputs[0], value)
    return True


def _constant(net: Translation, node: Node) -> Array:
    if "value" not in node:
        for name, dtype in (("value_ints", np.int64), ("value_int", np.int64)):
            if name in node:
                values = node.integers(name) if name[-1] == "s" else node.integer(name, 0)
                return np.array(values, dtype)
        if "value_float" in node:
            return np.array(node.real("value_float", 0.0), np.float32)
        raise ValueError("is no constant of a known kind")
    return _tensor(net, node)


def _tensor(net: Translation, node: Node) -> Array:
    tensor = node.attribute("value").message("t")
    if tensor is None:
        raise ValueError("has no tensor as its value")
    return array_of(tensor, node.outputs[0], net.folder)


def _filled(net: Translation, node: Node) -> Array:
    """Return a constant of a shape, one value in memory."""
    shape = net.small(node, 0, "the shape")
    value = _tensor(net, node) if "value" in node else np.zeros(1, np.float32)
    if value.size != 1:
        raise ValueError("the value must be one number")
    return np.broadcast_to(value.reshape(()), shape)


def _small(net: Translation, node: Node, index: int) -> Array:
    values = net.constant(node, index, "a constant")
    if values.size > MAX_SMALL:
        raise ValueError(f"computes a constant of more than {MAX_SMALL:,} values")
    return values


def _reshaped(net: Translation, node: Node) -> Array:
    values = net.constant(node, 0, "a constant")
    shape = net.small(node, 1, "the shape")
    return values.reshape([values.shape[i] if s == 0 and i < values.ndim else s for i, s in enumerate(shape)])


def _other_axes(net: Translation, node: Node) -> Array:
    values = net.constant(node, 0, "a constant")
    axes = net.small(node, 1, "the axes") if net.has(node, 1) else node.integers("axes")
    if len(axes) > 8:
        raise ValueError("has more than 8 axes")
    if node.op == "Squeeze":
        return np.squeeze(values, tuple(axes) or None)
    return np.expand_dims(values, tuple(axes))


def _joined(net: Translation, node: Node) -> Array:
    parts = [_small(net, node, index) for index in range(len(node.inputs))]
    if sum(part.size for part in parts) > MAX_SMALL:
        raise ValueError(f"computes a constant of more than {MAX_SMALL:,} values")
    return np.concatenate(parts, node.integer("axis", 0))


def _taken(net: Translation, node: Node) -> Array:
    values, indices = _small(net, node, 0), _small(net, node, 1)
    if values.ndim != 1 or indices.ndim > 1 or indices.dtype.kind != "i":
        raise ValueError("takes values of more than one axis")
    if indices.size and not (-values.size <= indices.min() and indices.max() < values.size):
        raise ValueError("takes values that are not there")
    return np.asarray(values[indices])


def _cast(net: Translation, node: Node) -> Array:
    to = node.integer("to", 0)
    if to not in _CASTS:
        raise ValueError(f"converts constants to ONNX's type {to}")
    return _small(net, node, 0).astype(_CASTS[to])


_COMPUTED: dict[str, Callable[[Translation, Node], Array]] = {
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Identity": lambda net, node: net.constant(node, 0, "a constant"),
    "Reshape": _reshaped,
    **dict.fromkeys(("Unsqueeze", "Squeeze"), _other_axes),
    "Concat": _joined,
    "Gather": _taken,
    "Cast": _cast,
}

FOLDED = (*_COMPUTED, "Shape")
