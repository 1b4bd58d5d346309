"""ONNX's operators that choose among channels, or add some, as layers."""

from __future__ import annotations

import numpy as np

from cconvnet.formats.drafts import MAX_SELECTED, Signal
from cconvnet.formats.onnx_graph import Node, Translation


def pad(net: Translation, node: Node) -> Signal:
    """Translate Pad: channels of zeros, or zeros around images that the node's readers take over."""
    if node.text("mode", "constant") != "constant":
        raise ValueError("only zeros are added, mode must be constant")
    pads = net.small(node, 1, "pads") if net.has(node, 1) else node.integers("pads")
    value = net.constant(node, 2, "the value") if net.has(node, 2) else np.array([node.real("value", 0.0)])
    if value.size and value.any():
        raise ValueError("only zeros are added")
    x = net.signal(node)
    rank = 2 if x.flat else 4
    if net.has(node, 3):
        axes = [axis % rank for axis in net.small(node, 3, "the axes")]
        given, pads = pads, [0] * 2 * rank
        if len(given) != 2 * len(axes):
            raise ValueError(f"has {len(given)} pads for {len(axes)} axes")
        for index, axis in enumerate(axes):
            pads[axis], pads[rank + axis] = given[index], given[len(axes) + index]
    if len(pads) != 2 * rank or min(pads) < 0 or pads[0] or pads[rank]:
        raise ValueError(f"the pads {pads} are not those of channels, height and width")
    before, after = pads[1], pads[rank + 1]
    if before or after:
        if x.flat and not x.is_row:
            raise ValueError("adds to a row of values of an image")
        x = _select(net, node, x, [(None, before), (0, x.shape[2]), (None, after)])
    if any(pads[2:rank] + pads[rank + 2 :]):
        net.paddings[node.outputs[0]] = pads[2], pads[3], pads[6], pads[7]
    return x


def _select(net: Translation, node: Node, x: Signal, runs: list[tuple[int | None, int]]) -> Signal:
    """Add a selection of channels, given as runs of (first channel, or None for zeros; length)."""
    if sum(length for _, length in runs) > MAX_SELECTED:
        raise ValueError(f"gives more than {MAX_SELECTED:,} channels")
    channels: list[int | None] = []
    for first, length in runs:
        channels += [None] * length if first is None else range(first, first + length)
    return _selection(net, node, x, channels)


def _selection(net: Translation, node: Node, x: Signal, channels: list[int | None]) -> Signal:
    if channels == [*range(x.shape[2])]:
        return x
    if x.flat and not x.is_row:
        raise ValueError("chooses among a row of values of an image")
    return net.draft.select(node.name, x, channels)


def take_slice(net: Translation, node: Node) -> Signal:
    """Translate Slice of channels."""
    x = net.signal(node)
    names = ("starts", "ends", "axes", "steps")
    starts, ends, axes, steps = (
        net.small(node, index, name) if net.has(node, index) else node.integers(name)
        for index, name in enumerate(names, 1)
    )
    rank = 2 if x.flat else 4
    if len(starts) != len(ends) or {axis % rank for axis in axes or range(len(starts))} != {1}:
        raise ValueError("only channels are chosen")
    channels = [*range(x.shape[2])[starts[0] : ends[0] : (steps or [1])[0] or 1]]
    return _selection(net, node, x, [*channels])


def gather(net: Translation, node: Node) -> Signal:
    """Translate Gather of channels."""
    x, indices = net.signal(node), net.small(node, 1, "the indices")
    if node.integer("axis", 0) not in (1, -1 if x.flat else -3):
        raise ValueError("only channels are chosen")
    if not all(-x.shape[2] <= index < x.shape[2] for index in indices):
        raise ValueError(f"chooses channels that are not there; there are {x.shape[2]}")
    return _selection(net, node, x, [index % x.shape[2] for index in indices])


def split(net: Translation, node: Node) -> list[Signal]:
    """Translate Split: a selection of channels for each result."""
    x, count = net.signal(node), len(node.outputs)
    if node.integer("axis", 0) not in (1, -1 if x.flat else -3):
        raise ValueError("only channels are split")
    if node.integer("num_outputs", count) != count:
        raise ValueError(f"num_outputs is {node.integer('num_outputs', count)}, but there are {count}")
    if net.has(node, 1):
        sizes = net.small(node, 1, "the sizes")
    elif "split" in node:
        sizes = node.integers("split")
    else:  # equal parts, of which the last may be smaller since version 18
        part = -(-x.shape[2] // count)
        sizes = [min(part, x.shape[2] - part * index) for index in range(count)]
        if net.opset < 18 and x.shape[2] % count:
            raise ValueError(f"splits {x.shape[2]} channels into {count} equal parts")
    if len(sizes) != count or min(sizes) < 1 or sum(sizes) != x.shape[2]:
        raise ValueError(f"splits {x.shape[2]} channels into {sizes} for {count} results")
    ends = np.cumsum(sizes).tolist()
    return [_select(net, node, x, [(end - size, size)]) for end, size in zip(ends, sizes, strict=True)]
