"""Batch normalisation folded into the products before it, for inference."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from cconvnet.nets.layer_spec import LayerSpec
from cconvnet.nets.recipe import NetSpec
from cconvnet.nets.specs import BatchNormSpec, ConvSpec, FcSpec, NeuronSpec

Array = np.ndarray[Any, Any]


def fold(spec: NetSpec, state: Mapping[str, Array]) -> tuple[NetSpec, dict[str, Array]]:
    """Return a network of fewer layers that computes what this one does outside of training, and its state.

    A normalisation that alone reads a convolution or an FC layer becomes part of its weights and its bias:
    w gamma / sqrt(variance + eps), and beta + (bias - mean) gamma / sqrt(variance + eps). An activation
    function that alone reads the normalisation becomes the product's. The product keeps its name, and stands
    for the layers that it took in. Other normalisations stay. Heads and velocities are those of this network.

    Args:
        spec: the network.
        state: its state, as Network.state returns it.
    """
    readers = collections.Counter(name for layer in spec.layers for name in layer.inputs)
    layers: dict[str, LayerSpec] = {}
    names: dict[str, str] = {}  # the product's, by each layer that it took in
    values = dict(state)
    for layer in spec.layers:
        read = layer.inputs[0]
        layer = dataclasses.replace(layer, inputs=tuple(names.get(name, name) for name in layer.inputs))
        product = layers.get(names.get(read, read)) if readers[read] == 1 else None
        if isinstance(layer, BatchNormSpec) and _is_linear(product):
            layers[product.name] = dataclasses.replace(product, bias=product.bias or 0.0)
            _fold_values(values, product.name, layer)
        elif isinstance(layer, NeuronSpec) and read in names and _is_linear(product):
            layers[product.name] = dataclasses.replace(product, neuron=layer.neuron)
        else:
            layers[layer.name] = layer
            continue
        names[layer.name] = product.name
    return dataclasses.replace(spec, layers=tuple(layers.values())), values


def _is_linear(layer: LayerSpec | None) -> TypeGuard[ConvSpec | FcSpec]:
    """True if the layer is a product with one bias for each channel, and no activation function."""
    return isinstance(layer, ConvSpec | FcSpec) and layer.neuron is None and layer.shared_bias


def _fold_values(values: dict[str, Array], product: str, norm: BatchNormSpec) -> None:
    """Replace the vectors of a normalisation by other weights and another bias of the product before it."""
    gamma, beta, mean, variance = (
        values.pop(f"{norm.name}.{of}").astype(np.float64) for of in ("weight", "bias", "mean", "variance")
    )
    for of in ("weight", "bias"):
        del values[f"{norm.name}.{of}.velocity"]
    factor = gamma / np.sqrt(variance + norm.eps)
    weights = (name for name in values if name.startswith(f"{product}.weight"))
    for name in [name for name in weights if not name.endswith(".velocity")]:
        weight = values[name]
        values[name] = (weight * factor.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
    bias = values.get(f"{product}.bias", np.zeros_like(beta))
    values[f"{product}.bias"] = ((bias - mean) * factor + beta).astype(np.float32)
    values.setdefault(f"{product}.bias.velocity", np.zeros(len(beta), np.float32))
