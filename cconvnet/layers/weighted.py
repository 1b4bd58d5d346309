"""Layers with weights: the passes that convolution, local and FC layers share."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cconvnet._problem import (
    BiasProblem,
    ConvProblem,
    DropoutProblem,
    FilterBlocksProblem,
    NeuronProblem,
)
from cconvnet.layers.base import Array, Layer, Place, Tensor, length
from cconvnet.layers.dropout import Dropout
from cconvnet.nets import (
    DropoutSpec,
    Init,
    LocalSpec,
)
from cconvnet.optim import Parameter, Piece, Updates


def initial_weights(init: Init, shape: tuple[int, ...], fan_in: int, name: str, seed: int) -> Array:
    """The first value of a weight tensor, float32: its draws depend on its name and the seed alone.

    `fan_in` is how many weights an output has.
    """
    sigma = math.sqrt(2 / fan_in) if init.kind == "he" else init.sigma
    draws = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
    weights = draws.standard_normal(shape, dtype=np.float32)
    weights *= np.float32(sigma)
    return weights


@dataclass
class Blocks:
    """Filters over images that lie in blocks: made of the weights before use, their gradient taken apart."""

    problem: FilterBlocksProblem
    filters: Any
    gradient: Any


@dataclass
class Branch:
    """What one input contributes: its problem and its weights."""

    x: Tensor
    problem: Any
    weight: Piece
    blocks: Blocks | None = None


class WeightedLayer(Layer):
    """Convolution, local and FC layers: the same three passes of three families of functions.

    Each input has its own weights; so has each part of an input that is split over devices, where they are
    pieces of the same parameter. The products are summed in the order of the inputs.

    Attributes
        gradient_masked: whether who writes the output's gradient takes it through the ReLU already.
    """

    def __init__(
        self,
        spec: Any,
        inputs: Sequence[Sequence[Tensor]],
        place: Place,
        dropout: DropoutSpec | None = None,
    ) -> None:
        branches: list[Branch] = []
        for index, tensors in enumerate(inputs):
            own = spec.for_input(index)
            suffix = f".{index}" if len(inputs) > 1 else ""
            branches += [self._branch(own, x, f"{spec.name}.weight{suffix}", place) for x in tensors]
        self.branches = branches
        shapes = {branch.problem.y_shape: branch.x.name for branch in branches}
        if len(shapes) != 1:
            raise ValueError(
                "inputs must give outputs of one shape, not "
                + ", ".join(f"{list(shape[1:])} from {name}" for shape, name in shapes.items())
            )
        y_shape = branches[0].problem.y_shape
        super().__init__(spec.name, place, [branch.x for branch in branches], y_shape, learns=True)

        shared = getattr(spec, "shared_bias", not isinstance(spec, LocalSpec))
        self.bias = (
            None if spec.bias is None else self._bias(spec, y_shape[-1:] if shared else y_shape[1:], place)
        )
        columns = y_shape[-1] if shared else math.prod(y_shape[1:])
        self.bias_problem = BiasProblem(self.output.count // columns, columns)
        self.relu = spec.neuron is not None and spec.neuron.kind == "relu"
        self.gradient_masked = False
        # One product may take its bias, its ReLU and its dropout along; any other function is applied
        # afterwards.
        self.fused = len(branches) == 1 and (shared or isinstance(spec, LocalSpec))
        self.neuron: NeuronProblem | None = None
        self.product = self.output.array
        if spec.neuron is not None and not self.relu:
            self.neuron = NeuronProblem(self.output.count, spec.neuron.kind, spec.neuron.a, spec.neuron.b)
            self.product = place.allocate(place.device, y_shape, place.element)
        self.dropout: Dropout | None = None
        if dropout is not None:
            self.output.name = dropout.name
            self.names.append(dropout.name)
            self.dropout = Dropout(dropout, self.output, place)
        module = place.device.module
        self._fprop = getattr(module, f"{self.type}_fprop")
        self._dgrad = getattr(module, f"{self.type}_dgrad")
        self._wgrad = getattr(module, f"{self.type}_wgrad")

    @property
    def pieces(self) -> list[Piece]:
        own = [] if self.bias is None else [self.bias]
        return [branch.weight for branch in self.branches] + own

    def _branch(self, spec: Any, x: Tensor, name: str, place: Place) -> Branch:
        raise NotImplementedError

    def _weight(
        self,
        spec: Any,
        name: str,
        place: Place,
        *,
        whole: tuple[int, ...],
        view: tuple[int, ...],
        index: tuple[slice, ...],
        shape: tuple[int, ...],
        fan_in: int,
    ) -> Piece:
        """A piece of a weight tensor: that part `index` of the `whole`, viewed in the shape `view`."""
        if name not in place.parameters:
            place.parameters[name] = Parameter(
                name,
                spec.name,
                "weight",
                whole,
                functools.partial(initial_weights, spec.init, whole, fan_in, name, place.seed),
                fan_in,
                spec.lr_scale,
                spec.weight_decay,
                spec.momentum,
                spec.norm_limit,
                spec.lr_curve,
                spec.contrast_limits,
            )
        if spec.limits and math.prod(shape[1:]) != math.prod(whole[1:]):
            raise ValueError(f"{spec.limits[0]} cannot be kept where an input is split over several devices")
        return place.parameters[name].add_piece(
            place.device, place.allocate, view, index, shape, place.element
        )

    def _bias(self, spec: Any, shape: tuple[int, ...], place: Place) -> Piece:
        name, own, whole = f"{spec.name}.bias", shape[-1], (*shape[:-1], shape[-1] * place.parts)
        if name not in place.parameters:
            place.parameters[name] = Parameter(
                name,
                spec.name,
                "bias",
                whole,
                functools.partial(np.full, whole, spec.bias, np.float32),
                1,
                spec.bias_lr_scale,
                spec.bias_weight_decay,
                spec.bias_momentum,
                lr_curve=spec.bias_lr_curve,
            )
        index = (*(slice(None) for _ in shape[:-1]), slice(place.part * own, (place.part + 1) * own))
        return place.parameters[name].add_piece(place.device, place.allocate, whole, index, shape)

    def workspace_bytes(self) -> int:
        module = self.device.module
        needs = [int(module.bias_grad_workspace(self.bias_problem))]
        for branch in self.branches:
            passes = ["fprop", "wgrad", *(["dgrad"] if branch.x.needs_gradient else [])]
            needs += [
                int(getattr(module, f"{self.type}_{name}_workspace")(branch.problem)) for name in passes
            ]
        return max(needs)

    def scratch_count(self) -> int:
        return self.output.count if len(self.branches) > 1 else 0

    def forward(self, train: bool) -> None:
        self._compute(self.output.array, None if self.dropout is None else self.dropout.problem(train))

    def _compute(self, y: Any, dropout: DropoutProblem | None) -> None:
        module, stream = self.device.module, self.device.stream
        # The product of a function that is neither part of it nor can work in place lies apart.
        product = y if self.neuron is None else self.product
        bias = None if self.bias is None else self.bias.value
        step = None if self.dropout is None else self.dropout.step
        for number, branch in enumerate(self.branches):
            # The first product is written where the sum is to be, the others are added to it.
            target = product if number == 0 else self.scratch[: self.output.count].reshape(product.shape)
            filters = branch.weight.working
            if (blocks := branch.blocks) is not None:
                module.filters_to_blocks(blocks.problem, branch.weight.value, blocks.filters, stream)
                filters = blocks.filters
            fused = (bias, self.relu) if self.fused else (None, False)
            dropped = {"dropout": dropout, "step": step} if self.fused and dropout is not None else {}
            self._fprop(
                branch.problem, branch.x.array, filters, *fused, target, self.workspace, stream, **dropped
            )
            if number > 0:
                module.add(product, target, product, stream)
        if not self.fused:
            if bias is not None:
                module.bias_add(self.bias_problem, product, bias, self.relu, product, stream)
            elif self.relu:
                module.relu_forward(product, product, stream)
            if dropout is not None:
                module.dropout(dropout, product, product, stream, step=step)
        if self.neuron is not None:
            module.neuron_forward(self.neuron, product, y, stream)

    def activation(self, name: str) -> Any:
        if name == self.names[-1]:
            return self.output.array
        y = self.device.empty(self.output.shape, self.output.array.dtype)
        self._compute(y, None)
        return y

    def backward(self, updates: Updates | None = None) -> None:
        self._backward_to_product()
        # Before weights move.
        module, stream, dy = self.device.module, self.device.stream, self.output.gradient
        for branch, dx in zip(self.branches, self.input_gradients, strict=True):
            if dx is not None:
                self._dgrad(branch.problem, dy, branch.weight.working, dx, self.workspace, stream)
        for branch in self.branches:
            weight, blocks = branch.weight, branch.blocks
            if updates is not None and weight.parameter.name in updates.frozen:
                continue
            if blocks is None:
                update = None if updates is None else updates.of(weight)
                self._wgrad(
                    branch.problem, branch.x.array, dy, weight.gradient, self.workspace, stream, update=update
                )
                if updates is not None:
                    weight.limit_norm()
            else:
                self._wgrad(branch.problem, branch.x.array, dy, blocks.gradient, self.workspace, stream)
                module.filters_from_blocks(blocks.problem, blocks.gradient, weight.gradient, stream)
                if updates is not None:
                    updates.apply(weight)
        if self.bias is not None and updates is not None:
            updates.apply(self.bias)

    def _backward_to_product(self) -> None:
        """Turns the output's gradient, in place, into the product's, and finds the bias's."""
        module, stream = self.device.module, self.device.stream
        y, dy = self.output.array, self.output.gradient
        if self.neuron is not None:
            module.neuron_backward(self.neuron, self.product, y, dy, dy, stream)
        elif self.relu and not self.gradient_masked:
            # Where the ReLU or the dropout gave 0 the output is 0.
            scale = 1.0 if self.dropout is None else self.dropout.last.scale
            if self.bias is not None:
                module.relu_bias_backward(
                    self.bias_problem, y, dy, scale, dy, self.bias.gradient, self.workspace, stream
                )
                return
            if self.dropout is not None:
                module.dropout(self.dropout.last, dy, dy, stream, step=self.dropout.step)
            module.relu_backward(y, dy, dy, stream)
        elif self.dropout is not None:
            module.dropout(self.dropout.last, dy, dy, stream, step=self.dropout.step)
        if self.bias is not None:
            module.bias_grad(self.bias_problem, dy, self.bias.gradient, self.workspace, stream)


class FilterLayer(WeightedLayer):
    """Convolution and local layers."""

    problem_type: ClassVar[Any]

    @staticmethod
    def mixes(spec: Any, index: int) -> bool:
        return bool(spec.for_input(index).groups == 1)

    def _branch(self, spec: Any, x: Tensor, name: str, place: Place) -> Branch:
        filters = place.share("filters", spec.filters)
        groups, channels = 1, slice(None) if x.blocks else slice(x.first, x.first + x.channels)
        if spec.groups > 1:
            groups, channels = length(place.share("groups", spec.groups)), slice(None)
            if x.of_channels % spec.groups:
                raise ValueError(f"groups ({spec.groups}) must divide c ({x.of_channels})")
        blocks = x.blocks
        problem = self.problem_type(
            *x.image,
            length(filters),
            *spec.window,
            spec.stride,
            spec.padding,
            groups,
            spec.rounding,
            place.precision,
        )
        # w[K,R,S,C/groups], or w[P,Q,K,R,S,C/groups] of a local layer.
        *positions, _, r, s, _ = problem.w_shape
        of_channels = x.of_channels if blocks is None else blocks.c
        whole = (*positions, spec.filters, r, s, of_channels // spec.groups)
        index = (*(slice(None) for _ in positions), filters, slice(None), slice(None), channels)
        weight = self._weight(
            spec,
            name,
            place,
            whole=whole,
            view=whole,
            index=index,
            shape=problem.w_shape,
            fan_in=math.prod(whole[-3:]),
        )
        if blocks is None:
            return Branch(x, problem, weight)
        of_filters = FilterBlocksProblem(length(filters), r, s, blocks.c, blocks.block)
        _, r, s, _ = of_filters.blocks_shape
        over_blocks = ConvProblem(*blocks.y_shape, length(filters), r, s, precision=place.precision)
        return Branch(
            x,
            over_blocks,
            weight,
            Blocks(
                of_filters,
                place.allocate(place.device, of_filters.blocks_shape, place.element),
                place.allocate(place.device, of_filters.blocks_shape),
            ),
        )
