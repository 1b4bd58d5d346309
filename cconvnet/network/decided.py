"""Activations that have no gradient, because their readers only decide by them what becomes of others."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from cconvnet.layers import Layer


def stop_gradients(order: Sequence[Layer]) -> None:
    """Let activations need no gradient that would get none, since no reader differentiates by them.

    Args:
        order: the inputs, layers and copies in the order of the forward pass.

    Raises:
        ValueError: a layer with parameters would learn nothing.
    """
    readers: dict[int, list[tuple[Layer, int]]] = collections.defaultdict(list)
    for layer in order:
        for index, tensor in enumerate(layer.inputs):
            readers[id(tensor)].append((layer, index))
    for layer in reversed(order):
        read = readers[id(layer.output)]
        if not layer.output.needs_gradient or not read:
            continue
        if any(reader.output.needs_gradient and reader.differentiates(index) for reader, index in read):
            continue
        if layer.pieces:
            raise ValueError(
                f"layer {layer.name}: it would learn nothing, since only the places of its maxima are read, "
                f"by {read[0][0].name}"
            )
        layer.output.needs_gradient = False
