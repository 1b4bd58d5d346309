"""The activations of a network's layers as arrays on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cconvnet.bfloat16 import unpack
from cconvnet.errors import nearest
from cconvnet.layers import Layer
from cconvnet.nets import DATA
from cconvnet.network.graph import Graph

Array = np.ndarray[Any, Any]


def output(graph: Graph, name: str) -> Array:
    """Return a layer's activation of the last forward pass; see Network.outputs."""
    layers: Sequence[Layer]
    if name == DATA:
        layers = [*graph.inputs.values()][:1]
    elif name in graph.parts:
        layers = graph.parts[name]
    else:
        raise ValueError(nearest("name", name, [DATA, *graph.parts]))
    return np.concatenate([layer_output(layer, name) for layer in layers], axis=-1)


def layer_output(layer: Layer, name: str) -> Array:
    """Return the output of one of the names of a layer, as a float array on the host."""
    with layer.device as device:
        return as_floats(device.host(layer.activation(name)))


def as_floats(array: Array) -> Array:
    """Return bfloat16s as floats, floats as they are."""
    return unpack(array) if array.dtype == np.uint16 else array
