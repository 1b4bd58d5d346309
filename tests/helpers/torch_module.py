"""Any network as a module of PyTorch whose parameters have the names of exported files.

Products are PyTorch's own functions on parameters in PyTorch's layouts, created empty: what a module computes
comes from ``load_state_dict`` alone. Layers without parameters are those of the comparison of speeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cconvnet.bench.peers.pytorch_layers import neuron
from cconvnet.bench.peers.pytorch_net import without_parameters
from cconvnet.formats.layer_names import namings
from cconvnet.nets import (
    DATA,
    BatchNormSpec,
    ConvSpec,
    DeconvSpec,
    DropoutSpec,
    FcSpec,
    FilterSpec,
    LayerSpec,
    LocalSpec,
    NetSpec,
    RbfSpec,
)
from cconvnet.nets.shapes import Shape, shapes
from cconvnet.nets.values import both_sides


class Module(nn.Module):
    """Map normalised images float[N,C,H,W] to the input of the network's cost, float[N,K] or [N,K,H,W].

    As in tests, PyTorch's dropout does nothing. Heads have parameters, and do not run.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        found, names = shapes(spec), namings(spec)[0].names
        self.spec, self.steps = spec, {}
        for layer in spec.layers:
            if layer not in spec.costs:
                module = _module(layer, [found[name] for name in layer.inputs], found[layer.name])
                self.steps[layer.name] = module
                if layer.name in names:
                    self._add(names[layer.name], module)

    def _add(self, name: str, module: nn.Module) -> None:
        """Make a module a submodule of this name, within modules for the parts of the name."""
        *around, last = name.split(".")
        place: nn.Module = self
        for part in around:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.add_module(last, module)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the answer."""
        outputs = {DATA: images}
        for layer in self.spec.layers:
            if layer.name in self.steps and layer.name not in self.spec.train_only:
                outputs[layer.name] = self.steps[layer.name](*(outputs[name] for name in layer.inputs))
        answer = self.spec.answer
        y = outputs[answer.inputs[0]]
        return y if answer.per_pixel else y.flatten(1)


def _module(layer: LayerSpec, inputs: list[Shape], output: Shape) -> nn.Module:
    match layer:
        case FilterSpec() | FcSpec():
            return _Product(layer, inputs, output)
        case BatchNormSpec():
            return nn.BatchNorm2d(output[2], layer.eps, layer.momentum)
        case DropoutSpec():
            return nn.Identity()
        case RbfSpec():
            return _Distances(layer)
    module = without_parameters(layer, inputs)
    if module is None:
        raise NotImplementedError(f"layer {layer.name}: no module is made of a {layer.type} layer")
    return module


class _Product(nn.Module):
    """The sum of one product for each input, with a bias and an activation function."""

    def __init__(self, layer: Any, inputs: Sequence[Shape], output: Shape) -> None:
        super().__init__()
        self.layer, self.outputs = layer, output[:2]
        weights = [
            nn.Parameter(torch.empty(_weight(layer.for_input(index), shape, output)))
            for index, shape in enumerate(inputs)
        ]
        self.weight = weights[0] if len(weights) == 1 else nn.ParameterList(weights)
        own = isinstance(layer, FcSpec | DeconvSpec) or layer.shared_bias
        self.bias: nn.Parameter | None = None
        if layer.bias is not None:
            self.bias = nn.Parameter(torch.empty(output[2] if own else output))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute the output."""
        weights = [self.weight] if len(inputs) == 1 else list(self.weight)  # type: ignore[arg-type]
        y = self._product(0, inputs[0], weights[0])
        for index in range(1, len(inputs)):
            y = y + self._product(index, inputs[index], weights[index])
        if self.bias is not None and self.bias.ndim == 3:
            y = y + self.bias.permute(2, 0, 1)
        elif self.bias is not None:
            y = y + self.bias.view(-1, *[1] * (y.ndim - 2))
        return y if self.layer.neuron is None else neuron(self.layer.neuron, y)

    def _product(self, index: int, x: Tensor, weight: Any) -> Tensor:
        own = self.layer.for_input(index)
        if isinstance(own, FcSpec):
            return F.linear(x.flatten(1), weight)
        before = [both_sides(padding)[0] for padding in own.padding]
        if isinstance(own, DeconvSpec):
            whole = F.conv_transpose2d(x, weight, None, own.stride, groups=own.groups)
            return _framed(whole, [-one for one in before], self.outputs)
        sides = [
            (count - 1) * stride + (window - 1) * dilation + 1
            for count, stride, window, dilation in zip(
                self.outputs, own.stride, own.window, own.dilation, strict=True
            )
        ]
        x = _framed(x, before, sides)
        if isinstance(own, ConvSpec):
            return F.conv2d(x, weight, None, own.stride, 0, own.dilation, own.groups)
        # The values of each window, [N, groups, C/groups * R * S, P * Q].
        values = F.unfold(x, own.window, stride=own.stride).unflatten(1, (own.groups, -1))
        p, q, k, r, s, c = weight.shape
        filters = weight.permute(2, 5, 3, 4, 0, 1).reshape(own.groups, k // own.groups, c * r * s, p * q)
        return torch.einsum("ngil,gkil->ngkl", values, filters).reshape(len(x), k, p, q)


def _weight(layer: Any, read: Shape, output: Shape) -> tuple[int, ...]:
    """Return the shape of the weight for one input."""
    h, w, c = read
    if isinstance(layer, FcSpec):
        return output[2], c * h * w
    if isinstance(layer, DeconvSpec):
        return c, output[2] // layer.groups, *layer.window
    if isinstance(layer, LocalSpec):  # exists only here, and keeps its layout
        return *output, *layer.window, c // layer.groups
    return output[2], c // layer.groups, *layer.window


def _framed(x: Tensor, before: Sequence[int], sides: Sequence[int]) -> Tensor:
    """Return images of these sides, of which so many pixels before the first are zeros, or cut off if < 0."""
    after = [sides[axis] - before[axis] - x.shape[2 + axis] for axis in range(2)]
    return F.pad(x, (before[1], after[1], before[0], after[0]))


class _Distances(nn.Module):
    """Minus the squared distance of a row of values from each code."""

    def __init__(self, layer: RbfSpec) -> None:
        super().__init__()
        self.codes = torch.tensor([[1.0 if sign == "+" else -1.0 for sign in code] for code in layer.codes])

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return -(x[:, None] - self.codes).square().sum(2)
