"""Networks that end in a layer of another network, and networks whose activation functions stand apart."""

from __future__ import annotations

import dataclasses

from cconvnet.errors import nearest
from cconvnet.nets.layer_spec import LayerSpec, WeightedSpec
from cconvnet.nets.recipe import NetSpec
from cconvnet.nets.specs import NeuronSpec


def ending_in(spec: NetSpec, name: str) -> NetSpec:
    """Return the network without a cost that computes the output of a layer.

    Raises:
        ValueError: there is no such layer.
    """
    layers = {layer.name: layer for layer in spec.layers}
    if name not in layers:
        raise ValueError(nearest("layer", name, list(layers)))
    needed, waiting = set(), [name]
    while waiting:
        if (layer := layers.get(waiting.pop())) is not None and layer.name not in needed:
            needed.add(layer.name)
            waiting += layer.inputs
    return dataclasses.replace(spec, layers=tuple(layer for layer in spec.layers if layer.name in needed))


def neurons_apart(spec: NetSpec) -> tuple[NetSpec, dict[str, str]]:
    """Return the network with each product's activation function as a layer of its own.

    Returns:
        The network, in which products keep their names, and the new name of the output of each layer.
    """
    names: dict[str, str] = {}
    taken = {layer.name for layer in spec.layers}
    layers: list[LayerSpec] = []
    for layer in spec.layers:
        layer = dataclasses.replace(layer, inputs=tuple(names.get(name, name) for name in layer.inputs))
        names[layer.name] = layer.name
        if not isinstance(layer, WeightedSpec) or layer.neuron is None:
            layers.append(layer)
            continue
        name = f"{layer.name}_neuron"
        while name in taken:
            name += "_"
        taken.add(name)
        names[layer.name] = name
        layers.append(dataclasses.replace(layer, neuron=None))
        place = {"device": layer.device, "split": layer.split}
        layers.append(NeuronSpec(name=name, inputs=(layer.name,), neuron=layer.neuron, **place))  # type: ignore[arg-type]
    return dataclasses.replace(spec, layers=tuple(layers)), names
