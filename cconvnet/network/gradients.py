"""Gradients of activations and of the images, for pictures of what a network saw."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from cconvnet.bfloat16 import pack
from cconvnet.errors import nearest
from cconvnet.layers import Layer
from cconvnet.nets import DATA
from cconvnet.network.outputs import as_floats
from cconvnet.network.step import Runner

Array = np.ndarray[Any, Any]


def gradients(runner: Runner, names: Collection[str], start: Array | None) -> dict[str, Array]:
    """Return the gradients of layers' outputs; see Network.gradients."""
    graph = runner.graph
    if len(graph.devices) > 1 or graph.updates is None:
        raise ValueError("gradients of activations are those of a network on one device")
    whole = {layer.names[-1]: layer for layer in graph.backward if not layer.gradient_is_finished}
    for name in names:
        if name == DATA and DATA not in whole:
            raise ValueError("only a network made with image_gradient=True has gradients of the images")
        if name != DATA and name not in graph.parts:
            raise ValueError(nearest("name", name, [DATA, *graph.parts]))
        if name not in whole:
            raise ValueError(f"layer {name} has no gradient of its own; fuse=False would give it one")
    if start is not None:
        _begin(graph.parts[graph.spec.answer.name][0], start)
    graph.updates.set_rates(0.0, 0.0)  # parameters whose rate is 0 need no gradient
    found = {}
    for layer in graph.backward:
        if layer.names[-1] in names:
            found[layer.names[-1]] = _gradient(layer)
        runner.backward_layer(layer, graph.updates)
    return found


def _begin(layer: Layer, start: Array) -> None:
    """Set the gradient of the output of the network's last layer."""
    gradient = layer.output.gradient
    if gradient is None:
        raise ValueError("only a network without a cost, made with image_gradient=True, takes a start")
    if start.shape != gradient.shape:
        raise ValueError(f"start must have the shape {gradient.shape}, not {start.shape}")
    values = np.ascontiguousarray(start, np.float32)
    layer.device.fill(gradient, pack(values) if gradient.dtype == np.uint16 else values)


def _gradient(layer: Layer) -> Array:
    """Return the gradient of a layer's output, to which all its readers have added theirs."""
    tensor = layer.output
    with layer.device as device:
        parts = [as_floats(device.host(part)) for part in (tensor.gradient, *tensor.more_gradients)]
    return np.array(sum(parts[1:], parts[0]))
