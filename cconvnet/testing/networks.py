"""Layers of networks, as problems for tests and benchmarks.

>>> layers("alexnet")["conv2"].problem(n=128)
ConvProblem(n=128, h=27, w=27, c=96, k=256, r=5, s=5, stride=(1, 1), padding=(2, 2), groups=2, ...)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cconvnet import nets
from cconvnet._problem import (
    ContrastNormProblem,
    ConvProblem,
    FcProblem,
    LocalProblem,
    LrnProblem,
    PoolProblem,
)
from cconvnet.formats.netfiles import AnyNet, resolve
from cconvnet.nets import DATA, LayerSpec, NetSpec, Neuron
from cconvnet.nets.shapes import Shape, shapes, transposed

_TYPES: dict[str, Any] = {
    "conv": ConvProblem,
    "fc": FcProblem,
    "maxpool": PoolProblem,
    "avgpool": PoolProblem,
    "maxunpool": PoolProblem,
    "lrn": LrnProblem,
    "local": LocalProblem,
    "contrast_norm": ContrastNormProblem,
}

WEIGHTED = ("conv", "local", "fc")


def multiply_adds(problem: Any) -> int:
    """Return the work of an operation: multiply-adds, or elements of all windows."""
    match problem:
        case ConvProblem() | LocalProblem() | FcProblem():
            return int(problem.flops) // 2
        case PoolProblem():
            return int(np.prod(problem.y_shape)) * problem.window_h * problem.window_w
        case LrnProblem():
            return int(np.prod(problem.x_shape)) * problem.size
        case ContrastNormProblem():
            return int(np.prod(problem.x_shape)) * problem.size**2
    raise TypeError(f"no layer has a {type(problem).__name__}")


@dataclass(frozen=True)
class Layer:
    """One layer of a network: all of its problem but the number of images.

    A layer that sums products of several inputs is one layer for each of them.

    Attributes:
        name: The layer's name in its network, followed by ".0" and so on for each of several inputs.
        kind: conv, local, fc, maxpool, avgpool, maxunpool, lrn or contrast_norm.
        shape: The problem's other arguments.
        source: The layer that it reads, or DATA; empty: an unknown layer.
        neuron: The activation function behind its products, if it has one. Of several inputs only the first
            has it, and the bias.
        bias: Whether it adds a bias.
        shared_bias: Whether all of its positions have the same biases.
    """

    name: str
    kind: str
    shape: dict[str, Any]
    source: str = ""
    neuron: Neuron | None = None
    bias: bool = False
    shared_bias: bool = True

    def named(self, name: str) -> Layer:
        """Return the layer under another name."""
        return replace(self, name=name)

    def problem(self, n: int = 1) -> Any:
        """Return the problem of `n` images."""
        return _TYPES[self.kind](n=n, **self.shape)

    def small(self, work: int, n: int = 1) -> Any:
        """Return a similar problem of at most `work` multiply-adds, or as near as its filter allows.

        First the image shrinks, down to a few windows. Then the channels are halved, as far as the groups
        allow. Filter, stride, padding and groups stay.
        """
        shape = dict(self.shape)

        def too_large() -> bool:
            return multiply_adds(_TYPES[self.kind](n=n, **shape)) > work

        if "h" in shape:
            least_h, least_w = self._least_image()
            while too_large() and (shape["h"] > least_h or shape["w"] > least_w):
                shape["h"] = max(least_h, shape["h"] * 3 // 4)
                shape["w"] = max(least_w, shape["w"] * 3 // 4)
        groups = shape.get("groups", 1)
        channels = [name for name in ("c", "k") if isinstance(shape.get(name), int)]
        while too_large():
            name = max(channels, key=lambda name: shape[name])
            if shape[name] % (2 * groups) != 0:
                break
            shape[name] //= 2
        return _TYPES[self.kind](n=n, **shape)

    def _least_image(self) -> tuple[int, int]:
        """Return the size of the smallest image with two windows side by side."""
        stride = self.shape.get("stride", (1, 1))
        window = self.shape.get("window", (self.shape.get("r", 1), self.shape.get("s", 1)))
        return min(self.shape["h"], window[0] + stride[0]), min(self.shape["w"], window[1] + stride[1])


def of_spec(layer: LayerSpec, inputs: Sequence[Shape]) -> Iterator[Layer]:
    """Yield a layer of a network as problems: one for each input, or none if it is of another kind.

    Args:
        layer: The layer.
        inputs: The shapes of what it reads.
    """
    for index, (source, (h, w, c)) in enumerate(zip(layer.inputs, inputs, strict=True)):
        image: dict[str, Any] = {"h": h, "w": w, "c": c}
        name = layer.name if len(inputs) == 1 else f"{layer.name}.{index}"
        match layer:
            case nets.ConvSpec() | nets.LocalSpec():
                own = layer.for_input(index)
                windows = {"k": layer.filters, "r": own.window[0], "s": own.window[1], "stride": own.stride}
                windows |= {"padding": own.padding, "groups": own.groups, "rounding": own.rounding}
                windows |= {"dilation": own.dilation} if own.dilation != (1, 1) else {}
                function = (layer.neuron, layer.bias is not None, layer.shared_bias)
                yield Layer(name, layer.type, image | windows, source, *(function if index == 0 else ()))
            case nets.DeconvSpec():
                # Its passes are those of this convolution, which reads what the layer writes.
                filters = layer.for_input(index)
                same = transposed(filters, (1, h, w, c))
                windows = {"k": c, "r": same.r, "s": same.s, "stride": filters.stride, "outputs": (h, w)}
                windows |= {"padding": filters.padding, "groups": filters.groups}
                yield Layer(name, "conv", {"h": same.h, "w": same.w, "c": same.c} | windows)
            case nets.FcSpec():
                sizes = {"c": h * w * c, "k": layer.outputs}
                function = (layer.neuron, layer.bias is not None, True)
                yield Layer(name, "fc", sizes, source, *(function if index == 0 else ()))
            case nets.PoolSpec():
                windows = _windows(layer) | {"count_padding": layer.count_padding}
                yield Layer(name, f"{layer.pool}pool", image | windows, source)
            case nets.UnpoolSpec() if index == 1:
                yield Layer(layer.name, "maxunpool", image | _windows(layer), source)
            case nets.LrnSpec():
                rest: dict[str, Any] = {
                    "size": layer.size,
                    "alpha": layer.alpha,
                    "beta": layer.beta,
                    "k": layer.k,
                }
                rest |= {"groups": layer.groups, "region": layer.region}
                yield Layer(name, "lrn", image | rest, source)
            case nets.ContrastNormSpec():
                rest = {"size": layer.size, "alpha": layer.alpha, "beta": layer.beta, "k": layer.k}
                yield Layer(name, "contrast_norm", image | rest, source)


def _windows(layer: nets.WindowsSpec) -> dict[str, Any]:
    """Return the arguments of the windows of a pooling."""
    return {name: value for name, value in layer.windows.items() if value is not None}


def layers_of(spec: NetSpec) -> dict[str, Layer]:
    """Return the layers of a network that have problems, by name, in order."""
    found = shapes(spec)
    return {
        own.name: own
        for layer in spec.layers
        for own in of_spec(layer, [found[name] for name in layer.inputs])
    }


# The networks whose layers tests and reports take for real ones.
NETWORKS = ("alexnet", "vgg16", "googlenet", "resnet50", "cifar-quick", "cifar-18pct")


def layers(net: AnyNet) -> dict[str, Layer]:
    """Return the layers of a network that have problems, by name, in order, each form once.

    Args:
        net: A network, its name or its file; see cconvnet.formats.netfiles.resolve.

    Raises:
        ValueError: There is no such network.
    """
    found: dict[str, Layer] = {}
    for layer in layers_of(resolve(net).build_sized(None)[0]).values():
        form = replace(layer, name="", source=DATA if layer.source == DATA else "")
        found.setdefault(repr(form), layer)
    return {layer.name: layer for layer in found.values()}
