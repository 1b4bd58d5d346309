"""Networks without one of their parts, as the AlexNet paper compares them.

Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
2012, sections 3.1 to 4.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cconvnet.errors import nearest
from cconvnet.nets.layer_spec import LayerSpec
from cconvnet.nets.recipe import NetSpec
from cconvnet.nets.shapes import shapes
from cconvnet.nets.specs import DropoutSpec, FilterSpec, LrnSpec, PoolSpec
from cconvnet.nets.values import NO_DISTORTION, RELU, Neuron, Pair


@dataclass(frozen=True)
class Ablation:
    """A part of networks, and what a network is without it.

    Attributes:
        word: the part on the command line.
        variant: the network without it, as the name of a folder.
        part: the part in a text.
        without: returns the network without it; the same network if it has no such part.
        section: of the paper.
        finding: what the paper reports.
    """

    word: str
    variant: str
    part: str
    without: Callable[[NetSpec], NetSpec]
    section: str
    finding: str

    def applies_to(self, spec: NetSpec) -> bool:
        """Return True if the network has the part."""
        return self.without(spec) != spec

    def apply(self, spec: NetSpec) -> NetSpec:
        """Return the network without the part, under a name of its own.

        Raises:
            ValueError: it has no such part, or what is left does not fit together.
        """
        if not self.applies_to(spec):
            raise ValueError(f"--what {self.word}: {spec.name} has no {self.part}")
        changed = dataclasses.replace(self.without(spec), name=f"{spec.name}-{self.variant}")
        try:
            changed.table()
        except ValueError as error:
            raise ValueError(f"--what {self.word}: {changed.name}: {error}") from None
        return changed


def chosen(words: Sequence[str] | None, spec: NetSpec) -> list[Ablation]:
    """Return the ablations of these words; None: all that apply to the network.

    Raises:
        ValueError: there is no such word, or the network has nothing of the kind.
    """
    if words is None:
        found = [ablation for ablation in ABLATIONS.values() if ablation.applies_to(spec)]
        if not found:
            raise ValueError(f"{spec.name} has nothing to leave out: none of {', '.join(ABLATIONS)}")
        return found
    for word in words:
        if word not in ABLATIONS:
            raise ValueError(nearest("--what", word, ABLATIONS))
    return [ABLATIONS[word] for word in dict.fromkeys(words)]


# ---- networks without a part ----------------------------------------------------------------------------


def _each(spec: NetSpec, change: Callable[[LayerSpec], LayerSpec]) -> NetSpec:
    return dataclasses.replace(spec, layers=tuple(map(change, spec.layers)))


def _with_tanh(spec: NetSpec) -> NetSpec:
    """Return the network with tanh in place of every ReLU."""

    def changed(layer: LayerSpec) -> LayerSpec:
        if getattr(layer, "neuron", None) != RELU:
            return layer
        return dataclasses.replace(layer, neuron=Neuron("tanh", 1.0, 1.0))  # type: ignore[call-arg]

    return _each(spec, changed)


def _without_layers(spec: NetSpec, kind: type[LayerSpec]) -> NetSpec:
    """Return the network without its layers of one kind; their readers read what they read."""
    source: dict[str, str] = {}  # of each layer that is left out
    layers: list[LayerSpec] = []
    for layer in spec.layers:
        inputs = tuple(source.get(name, name) for name in layer.inputs)
        if isinstance(layer, kind):
            source[layer.name] = inputs[0]
        else:
            layers.append(dataclasses.replace(layer, inputs=inputs))
    return dataclasses.replace(spec, layers=tuple(layers))


def _without_overlap(spec: NetSpec) -> NetSpec:
    """Return the network with pooling windows as large as their stride, and outputs of the same size.

    Pooling of stride 1 keeps its windows, without which it would compute nothing.
    """
    found = shapes(spec)

    def changed(layer: LayerSpec) -> LayerSpec:
        if not isinstance(layer, PoolSpec) or min(layer.stride) == 1:
            return layer
        outputs = found[layer.name][:2]
        window: Pair = min(layer.window[0], layer.stride[0]), min(layer.window[1], layer.stride[1])
        if window == layer.window or outputs == (1, 1):
            return layer
        return dataclasses.replace(layer, window=window, padding=(0, 0), outputs=outputs)

    return _each(spec, changed)


def _one_tower(spec: NetSpec) -> NetSpec:
    """Return one tower with half the filters of every convolution but the last, as in the paper's footnote 2.

    Two towers are convolutions of two groups. The layers after the last convolution keep their sizes.
    """
    filters = [layer for layer in spec.layers if isinstance(layer, FilterSpec)]
    if not any(layer.for_input(index).groups == 2 for layer in filters for index in range(len(layer.inputs))):
        return spec

    def changed(layer: LayerSpec) -> LayerSpec:
        layer = dataclasses.replace(layer, split=False)
        if isinstance(layer, LrnSpec):
            return dataclasses.replace(layer, groups=1)
        if not isinstance(layer, FilterSpec):
            return layer
        count = layer.filters if layer.name == filters[-1].name else max(1, layer.filters // 2)
        entries = ({name: own[name] for name in own if name != "groups"} for own in layer.per_input)
        return dataclasses.replace(layer, filters=count, groups=1, per_input=tuple(entries))

    return _each(spec, changed)


def _without_augmentation(spec: NetSpec) -> NetSpec:
    """Return the network with a recipe that trains on the centre of every image as it is."""
    recipe = dataclasses.replace(
        spec.recipe,
        crop=False,
        pad=0,
        mirror=False,
        color_noise=0.0,
        distort=NO_DISTORTION,
        random_resized_crop=False,
    )
    return dataclasses.replace(spec, recipe=recipe)


ABLATIONS = {
    ablation.word: ablation
    for ablation in (
        Ablation(
            "relu",
            "tanh",
            "ReLU",
            _with_tanh,
            "3.1",
            "on CIFAR-10 a four-layer network with ReLUs reaches 25% training error six times faster than "
            "with tanh, at rates chosen for each",
        ),
        Ablation(
            "lrn",
            "no-lrn",
            "LRN",
            lambda spec: _without_layers(spec, LrnSpec),
            "3.3",
            "LRN reduces top-1 and top-5 error by 1.4 and 1.2 points, and that of a four-layer network on "
            "CIFAR-10 from 13% to 11%",
        ),
        Ablation(
            "overlap",
            "no-overlap",
            "overlapping pooling",
            _without_overlap,
            "3.4",
            "overlapping pooling reduces top-1 and top-5 error by 0.4 and 0.3 points, and makes overfitting "
            "slightly more difficult",
        ),
        Ablation(
            "dropout",
            "no-dropout",
            "dropout",
            lambda spec: _without_layers(spec, DropoutSpec),
            "4.2",
            "without dropout substantial overfitting; dropout roughly doubles the iterations to converge",
        ),
        Ablation(
            "towers",
            "one-tower",
            "towers: convolutions of two groups",
            _one_tower,
            "3.2",
            "two towers reduce top-1 and top-5 error by 1.7 and 1.2 points, compared with half as many "
            "kernels in each convolution (but the last) on one GPU",
        ),
        Ablation(
            "augmentation",
            "no-augmentation",
            "augmentation: random crops, mirror images, colour noise or distortion",
            _without_augmentation,
            "4.1",
            "without crops and mirror images substantial overfitting; colour noise reduces top-1 error by "
            "over 1 point",
        ),
    )
}
