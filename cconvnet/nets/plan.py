"""The layers of a network under construction: their order, their names, and which of them are one."""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cconvnet.nets.arguments import Place
from cconvnet.nets.layer_spec import DATA, LayerSpec, WeightedSpec
from cconvnet.nets.recipe import InputSpec
from cconvnet.nets.shapes import Shape, check_layer, output_shape
from cconvnet.nets.specs import SPLIT_BY_CHANNEL, NeuronSpec
from cconvnet.nets.values import Pair

_created = itertools.count()


@dataclass(frozen=True, eq=False)
class Node:
    """A layer that knows what it reads, or the images.

    Attributes:
        shape: (H, W, C) of one image's activation.
        spec: the layer, under the name that it has if the network ends here; None: the images.
        inputs: what it reads.
        base: the start of its name, which a number follows; empty: the user named it.
        images: of the images: how the first layer reads them, and the size that they are cropped from.
        heads: of the images: the heads that are kept somewhere and were given to no network yet.
        number: in the order of creation, in which inputs come first.
    """

    shape: Shape
    spec: LayerSpec | None = None
    inputs: tuple[Node, ...] = ()
    base: str = ""
    images: tuple[InputSpec, Pair] | None = None
    heads: weakref.WeakSet[Node] = field(default_factory=weakref.WeakSet)
    number: int = field(default_factory=_created.__next__)


def images_of(node: Node) -> Node:
    """Return the images that lead to a node."""
    while node.inputs:
        node = node.inputs[0]
    return node


def new_node(
    kind: type[LayerSpec],
    given: Mapping[str, Any],
    inputs: tuple[Node, ...],
    place: Mapping[str, Any],
    base: str,
) -> Node:
    """Return a new layer.

    Args:
        kind: its spec.
        given: the spec's fields, but for those of every layer.
        inputs: what it reads.
        place: as :class:`~cconvnet.nets.arguments.Place`.
        base: the start of its name, if `place` has none.

    Raises:
        TypeError: `place` has other keys.
        ValueError: it does not fit its inputs.
    """
    for key in place:
        if key not in Place.__annotations__:
            raise TypeError(f"a {kind.type} layer has no argument {key!r}")
    plan = Plan(inputs)
    if "name" in place:
        base, name = "", place["name"]
    else:
        name = plan.new_name(base)
    before = inputs[0].spec
    follows = issubclass(kind, SPLIT_BY_CHANNEL) and before is not None and before.split
    spec = kind(
        name=name,
        inputs=tuple(plan.names[node] for node in inputs),
        device=place.get("device"),
        split=place.get("split", follows),
        **given,
    )
    if name in plan.names.values():
        raise ValueError(f"layer {name}: another layer before it has this name")
    shapes = [node.shape for node in inputs]
    check_layer(spec, shapes)
    return Node(output_shape(spec, shapes), spec, inputs, base)


class Plan:
    """The network that ends in some layers.

    Attributes:
        nodes: all that leads to them, in the order of creation.
        names: of the layers whose outputs these are. An activation function that is part of a product has
            the product's.
    """

    def __init__(self, ends: Iterable[Node]) -> None:
        ends = tuple(ends)
        self.nodes = _before(ends)
        images = [node for node in self.nodes if node.spec is None]
        if len(images) > 1:
            raise ValueError("values of two images cannot be joined; let both begin with one image()")
        self._image = images[0]
        self._products = _products(self.nodes, ends)
        self._given = {node.spec.name for node in self.nodes if node.spec and not node.base}
        self._counts: Counter[str] = Counter()
        self.names = {self._image: DATA}
        layers: set[str] = set()
        for node in self.nodes:
            if node.spec is None:
                continue
            if node in self._products:
                self.names[node] = self.names[self._products[node]]
                continue
            self.names[node] = name = self.new_name(node.base) if node.base else node.spec.name
            if name in layers:
                raise ValueError(f"two layers are named {name!r}; give one of them another name")
            layers.add(name)

    def new_name(self, base: str) -> str:
        """Return the next name of this type that the user gave to no layer."""
        while True:
            self._counts[base] += 1
            name = f"{base}{self._counts[base]}"
            if name not in self._given:
                return name

    @property
    def images(self) -> tuple[InputSpec, Pair]:
        """The images as the first layer reads them, and the size that they are cropped from."""
        assert self._image.images is not None
        return self._image.images

    def layers(self) -> tuple[LayerSpec, ...]:
        """Return the layers with their final names and inputs."""
        neurons = {product: node.spec for node, product in self._products.items()}
        layers = []
        for node in self.nodes:
            if node.spec is None or node in self._products:
                continue
            changes: dict[str, Any] = {
                "name": self.names[node],
                "inputs": tuple(self.names[source] for source in node.inputs),
            }
            if isinstance(neuron := neurons.get(node), NeuronSpec):
                changes["neuron"] = neuron.neuron
            layers.append(dataclasses.replace(node.spec, **changes))
        return tuple(layers)


def _before(ends: Iterable[Node]) -> list[Node]:
    """Return all that leads to some nodes, in the order of creation."""
    found: set[Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.inputs
    return sorted(found, key=lambda node: node.number)


def _products(nodes: Iterable[Node], ends: tuple[Node, ...]) -> dict[Node, Node]:
    """Return, for each activation function that is part of a product, the product.

    It is part of one that nothing else reads, unless the user gave it a name or a device of its own.
    """
    readers = Counter(source for node in nodes for source in node.inputs)
    readers.update(ends)
    found = {}
    for node in nodes:
        neuron = node.spec
        if isinstance(neuron, NeuronSpec) and node.base and neuron.device is None:
            (source,) = node.inputs
            product = source.spec
            if (
                isinstance(product, WeightedSpec)
                and product.neuron is None
                and product.split == neuron.split
                and readers[source] == 1
            ):
                found[node] = source
    return found
