"""The layers a network is made of: each joins a spec to the functions of one device's module.

A layer is made once for a fixed batch. Its constructor makes the problem (which does all shape arithmetic)
and takes its memory; forward() and backward() then only call functions of the module with arrays that never
change. A layer knows nothing of training: it reads its inputs' arrays, writes its output's array, and in
the backward pass turns the output's gradient into its parameters' and inputs' gradients.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cconvnet._problem import (
    BiasProblem,
    ContrastNormProblem,
    ConvProblem,
    DropoutProblem,
    FcProblem,
    FilterBlocksProblem,
    InputProblem,
    LocalProblem,
    LrnProblem,
    NeuronProblem,
    PoolProblem,
    SoftmaxProblem,
)
from cconvnet.bfloat16 import pack
from cconvnet.devices import Device
from cconvnet.nets.specs import (
    DATA,
    BlurSpec,
    ConcatSpec,
    ContrastNormSpec,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    Init,
    LayerSpec,
    LocalSpec,
    LrnSpec,
    MaxSpec,
    NetSpec,
    NeuronSpec,
    PoolSpec,
    SelectSpec,
    SoftmaxCostSpec,
    SumSpec,
)
from cconvnet.optim import Parameter, Piece, Updates

# Takes memory on a device for as long as the network lives: (device, shape, dtype) -> array.
Allocate = Callable[..., Any]
Array = np.ndarray[Any, Any]


@dataclass
class Tensor:
    """An activation [N, ..., channels] on one device, and its gradient if anything before it learns.

    Of a layer that is split over devices it is one part, the channels from `first` on of `of_channels`.

    Attributes
        gradient: where its gradient is gathered; None where none is needed.
        more_gradients: what else its readers' backward passes write, to be added to it in this order.
        blocks: of images that lie in blocks of pixels (see InputProblem), how; else None.
    """

    name: str
    shape: tuple[int, ...]
    device: Device
    array: Any
    needs_gradient: bool
    first: int
    of_channels: int
    gradient: Any = None
    more_gradients: list[Any] = dataclasses.field(default_factory=list)
    blocks: InputProblem | None = None

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @property
    def image(self) -> tuple[int, int, int, int]:
        """The shape as (N, H, W, C); what an FC layer puts out is an image of one pixel, and blocks are the
        image they were cut from."""
        if (o := self.blocks) is not None:
            return o.n, o.p, o.q, o.c
        n, *rest = self.shape
        h, w, c = rest if len(rest) == 3 else (1, 1, math.prod(rest))
        return n, h, w, c


@dataclass(frozen=True)
class Place:
    """Where a layer is made: all that is not in its spec.

    Attributes
        part, parts: of a layer that is split over devices, which part this is, and of how many.
        parameters: those of the network so far, by name.
        step: int64[1] on the device, the number of the training step that runs.
    """

    device: Device
    part: int
    parts: int
    allocate: Allocate
    parameters: dict[str, Parameter]
    seed: int
    precision: str
    step: Any

    @property
    def element(self) -> Any:
        """The type of activations, their gradients and working weights."""
        return np.uint16 if self.precision == "bf16" else np.float32

    def share(self, what: str, count: int) -> slice:
        """The range of `count` things, channels or groups, that belongs to this part."""
        if count % self.parts:
            raise ValueError(f"{what} ({count}) cannot be split over {self.parts} devices")
        own = count // self.parts
        return slice(self.part * own, (self.part + 1) * own)


def _length(share: slice) -> int:
    return int(share.stop - share.start)


class Layer:
    """One operation on one device.

    Attributes
        name, type, device, inputs, output.
        names: of the spec's layers that it computes, in order; its output is that of the last.
        input_gradients: for each input the array the backward pass writes, None where no gradient is needed.
        workspace: memory shared by all layers of a device, at least workspace_bytes().
        scratch: likewise, of activations' elements, at least scratch_count() of them.
    """

    type: ClassVar[str]
    # Whether an input's gradient may lie where the output's lies.
    backward_in_place: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        place: Place,
        inputs: Sequence[Tensor],
        shape: tuple[int, ...],
        learns: bool = False,
        element: Any = None,
    ) -> None:
        self.name = name
        self.names = [name]
        self.device = place.device
        self.inputs = list(inputs)
        needs_gradient = learns or any(tensor.needs_gradient for tensor in inputs)
        first, of_channels = shape[-1] * place.part, shape[-1] * place.parts
        array = place.allocate(place.device, shape, element or place.element)
        self.output = Tensor(name, shape, place.device, array, needs_gradient, first, of_channels)
        self.input_gradients: list[Any] = [None] * len(inputs)
        self.workspace: Any = None
        self.scratch: Any = None

    def __repr__(self) -> str:
        return f"<{self.type} {self.name} on {self.device.name} -> {self.output.shape}>"

    @staticmethod
    def mixes(spec: Any, index: int) -> bool:
        """Whether an output channel depends on all channels of that input, so that a part reads all parts."""
        return False

    @property
    def pieces(self) -> list[Piece]:
        """What it has of parameters."""
        return []

    def workspace_bytes(self) -> int:
        return 0

    def scratch_count(self) -> int:
        return 0

    def activation(self, name: str) -> Any:
        """What one of `names` puts out, on the device; of those inside it is computed anew."""
        return self.output.array

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of what one of `names` puts out."""
        return self.output.shape

    def forward(self, train: bool) -> None:
        raise NotImplementedError

    def backward(self, updates: Updates | None = None) -> None:
        """With `updates`, parameters move as soon as their gradients are there, which are then not kept."""
        raise NotImplementedError


def _only(inputs: Sequence[Sequence[Tensor]]) -> Tensor:
    """The one input of a layer that has one."""
    ((tensor,),) = inputs
    return tensor


# ---- weights ---------------------------------------------------------------------------------------------


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
class _Blocks:
    """Filters over images that lie in blocks: made of the weights before use, their gradient taken apart."""

    problem: FilterBlocksProblem
    filters: Any
    gradient: Any


@dataclass
class _Branch:
    """What one input contributes: its problem and its weights."""

    x: Tensor
    problem: Any
    weight: Piece
    blocks: _Blocks | None = None


class _WeightedLayer(Layer):
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
        branches: list[_Branch] = []
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

    def _branch(self, spec: Any, x: Tensor, name: str, place: Place) -> _Branch:
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


class _FilterLayer(_WeightedLayer):
    """Convolution and local layers."""

    problem_type: ClassVar[Any]

    @staticmethod
    def mixes(spec: Any, index: int) -> bool:
        return bool(spec.for_input(index).groups == 1)

    def _branch(self, spec: Any, x: Tensor, name: str, place: Place) -> _Branch:
        filters = place.share("filters", spec.filters)
        groups, channels = 1, slice(None) if x.blocks else slice(x.first, x.first + x.channels)
        if spec.groups > 1:
            groups, channels = _length(place.share("groups", spec.groups)), slice(None)
            if x.of_channels % spec.groups:
                raise ValueError(f"groups ({spec.groups}) must divide c ({x.of_channels})")
        blocks = x.blocks
        problem = self.problem_type(
            *x.image,
            _length(filters),
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
            return _Branch(x, problem, weight)
        of_filters = FilterBlocksProblem(_length(filters), r, s, blocks.c, blocks.block)
        _, r, s, _ = of_filters.blocks_shape
        over_blocks = ConvProblem(*blocks.y_shape, _length(filters), r, s, precision=place.precision)
        return _Branch(
            x,
            over_blocks,
            weight,
            _Blocks(
                of_filters,
                place.allocate(place.device, of_filters.blocks_shape, place.element),
                place.allocate(place.device, of_filters.blocks_shape),
            ),
        )


class ConvLayer(_FilterLayer):
    type = "conv"
    problem_type = ConvProblem

    @staticmethod
    def blocks(spec: ConvSpec, net: NetSpec, batch: int, precision: str) -> InputProblem | None:
        """How images would lie in blocks, so that this convolution of them has stride 1; None: it does not
        pay or cannot be."""
        own, image = spec.for_input(0), net.input
        (r, s), (block, across), (pad, sideways) = own.window, own.stride, own.padding
        if (
            block != across
            or block == 1
            or pad != sideways
            or min(r, s) < block
            or own.groups != 1
            or image.channels > 4
        ):
            return None
        given = (batch, image.height, image.width, image.channels)
        plain = ConvProblem(*given, 1, r, s, own.stride, own.padding, 1, own.rounding, precision)
        problem = InputProblem(
            batch, *net.stored_shape, image.height, image.width, image.center_mean, block, pad
        )
        # Windows beyond the blocks, as ceil rounding makes, would read what is not there.
        _, h, w, _ = problem.y_shape
        over_blocks = (h - -(-r // block) + 1, w - -(-s // block) + 1)
        return problem if over_blocks == (plain.p, plain.q) else None


class LocalLayer(_FilterLayer):
    type = "local"
    problem_type = LocalProblem

    def _branch(self, spec: Any, x: Tensor, name: str, place: Place) -> _Branch:
        if spec.norm_limit > 0:
            raise ValueError("norm_limit is for layers that share their weights; a local layer has none")
        return super()._branch(spec, x, name, place)


class FcLayer(_WeightedLayer):
    type = "fc"

    @staticmethod
    def mixes(spec: Any, index: int) -> bool:
        return True

    def _branch(self, spec: Any, x: Tensor, name: str, place: Place) -> _Branch:
        outputs = place.share("outputs", spec.outputs)
        n, h, w, c = x.image
        problem = FcProblem(n, h * w * c, _length(outputs), place.precision)
        view = (spec.outputs, h * w, x.of_channels)
        weight = self._weight(
            spec,
            name,
            place,
            whole=(spec.outputs, h * w * x.of_channels),
            view=view,
            index=(outputs, slice(None), slice(x.first, x.first + c)),
            shape=problem.w_shape,
            fan_in=h * w * x.of_channels,
        )
        return _Branch(x, problem, weight)


# ---- layers without weights ------------------------------------------------------------------------------


class NeuronLayer(Layer):
    type = "neuron"
    backward_in_place = True

    def __init__(self, spec: NeuronSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = _only(inputs)
        super().__init__(spec.name, place, [x], x.shape)
        self.problem = NeuronProblem(x.count, spec.neuron.kind, spec.neuron.a, spec.neuron.b)

    def forward(self, train: bool) -> None:
        self.device.module.neuron_forward(
            self.problem, self.inputs[0].array, self.output.array, self.device.stream
        )

    def backward(self, updates: Updates | None = None) -> None:
        x, y, dy = self.inputs[0].array, self.output.array, self.output.gradient
        self.device.module.neuron_backward(
            self.problem, x, y, dy, self.input_gradients[0], self.device.stream
        )


class PoolLayer(Layer):
    type = "pool"

    def __init__(self, spec: PoolSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = _only(inputs)
        self.problem = PoolProblem(
            *x.image,
            spec.window,
            spec.stride,
            spec.padding,
            spec.rounding,
            spec.outputs,
        )
        self.is_max = spec.pool == "max"
        super().__init__(spec.name, place, [x], self.problem.y_shape)

    def forward(self, train: bool) -> None:
        module = self.device.module
        pool = module.maxpool_forward if self.is_max else module.avgpool_forward
        pool(self.problem, self.inputs[0].array, self.output.array, self.device.stream)

    def backward(self, updates: Updates | None = None) -> None:
        module, stream = self.device.module, self.device.stream
        dy, dx = self.output.gradient, self.input_gradients[0]
        if self.is_max:
            x, y = self.inputs[0].array, self.output.array
            module.maxpool_backward(self.problem, x, y, dy, dx, stream)
        else:
            module.avgpool_backward(self.problem, dy, dx, stream)


def lrn_problem(spec: LrnSpec, x: Tensor, place: Place) -> LrnProblem:
    groups = _length(place.share("groups", spec.groups)) if spec.region == "across_channels" else 1
    return LrnProblem(*x.image, spec.size, spec.alpha, spec.beta, spec.k, groups, spec.region)


class LrnLayer(Layer):
    type = "lrn"

    def __init__(self, spec: LrnSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = _only(inputs)
        self.problem = lrn_problem(spec, x, place)
        super().__init__(spec.name, place, [x], x.shape)

    def workspace_bytes(self) -> int:
        return int(self.device.module.lrn_backward_workspace(self.problem))

    def forward(self, train: bool) -> None:
        self.device.module.lrn_forward(
            self.problem, self.inputs[0].array, self.output.array, self.device.stream
        )

    def backward(self, updates: Updates | None = None) -> None:
        x, dy, dx = self.inputs[0].array, self.output.gradient, self.input_gradients[0]
        self.device.module.lrn_backward(self.problem, x, dy, dx, self.workspace, self.device.stream)


class LrnPoolLayer(Layer):
    """Normalisation across channels and the max pooling after it; what lies between is never stored.

    Attributes
        relu: whether it also takes the gradient through the ReLU of the layer before it.
    """

    type = "lrn_pool"

    def __init__(
        self, lrn: LrnSpec, pool: PoolSpec, inputs: Sequence[Sequence[Tensor]], place: Place
    ) -> None:
        x = _only(inputs)
        self.lrn = lrn_problem(lrn, x, place)
        self.pool = PoolProblem(*x.image, pool.window, pool.stride, pool.padding, pool.rounding, pool.outputs)
        super().__init__(pool.name, place, [x], self.pool.y_shape)
        self.names.insert(0, lrn.name)
        self.relu = False

    def shape_of(self, name: str) -> tuple[int, ...]:
        return self.output.shape if name == self.name else self.inputs[0].shape

    def workspace_bytes(self) -> int:
        return int(self.device.module.lrn_maxpool_backward_workspace(self.lrn, self.pool))

    def activation(self, name: str) -> Any:
        if name == self.name:
            return self.output.array
        x = self.inputs[0]
        y = self.device.empty(x.shape, x.array.dtype)
        self.device.module.lrn_forward(self.lrn, x.array, y, self.device.stream)
        return y

    def forward(self, train: bool) -> None:
        x, y = self.inputs[0].array, self.output.array
        self.device.module.lrn_maxpool_forward(self.lrn, self.pool, x, y, self.device.stream)

    def backward(self, updates: Updates | None = None) -> None:
        x, y = self.inputs[0].array, self.output.array
        self.device.module.lrn_maxpool_backward(
            self.lrn,
            self.pool,
            x,
            y,
            self.output.gradient,
            self.relu,
            self.input_gradients[0],
            self.workspace,
            self.device.stream,
        )


class ContrastNormLayer(Layer):
    type = "contrast_norm"

    def __init__(self, spec: ContrastNormSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = _only(inputs)
        self.problem = ContrastNormProblem(*x.image, spec.size, spec.alpha, spec.beta, spec.k)
        super().__init__(spec.name, place, [x], x.shape)

    def workspace_bytes(self) -> int:
        module = self.device.module
        forward = module.contrast_norm_forward_workspace(self.problem)
        return int(max(forward, module.contrast_norm_backward_workspace(self.problem)))

    def forward(self, train: bool) -> None:
        x, y = self.inputs[0].array, self.output.array
        self.device.module.contrast_norm_forward(self.problem, x, y, self.workspace, self.device.stream)

    def backward(self, updates: Updates | None = None) -> None:
        x, dy, dx = self.inputs[0].array, self.output.gradient, self.input_gradients[0]
        module = self.device.module
        module.contrast_norm_backward(self.problem, x, dy, dx, self.workspace, self.device.stream)


class Dropout:
    """What a dropout does to the tensor x, by itself or as part of another layer.

    Attributes
        step: int64[1] on the device, added to the problem's subsequence.
        last: the problem of the last forward pass.
    """

    def __init__(self, spec: DropoutSpec, x: Tensor, place: Place) -> None:
        # No two layers and no two steps draw the same mask; a part draws that of its channels of the whole.
        place_in_whole = {}
        if x.channels != x.of_channels:
            place_in_whole = {"columns": x.channels, "row_stride": x.of_channels, "first": x.first}
        # At test time everything is kept.
        self._test = self.last = DropoutProblem(x.count, 1.0, 1.0 if spec.inverted else spec.keep)
        self._train = self._test
        if spec.enabled:
            scale = 1 / spec.keep if spec.inverted else 1.0
            subsequence = zlib.crc32(spec.name.encode()) << 32
            self._train = DropoutProblem(x.count, spec.keep, scale, place.seed, subsequence, **place_in_whole)
        self.step = place.step

    def problem(self, train: bool) -> DropoutProblem:
        self.last = self._train if train else self._test
        return self.last


class DropoutLayer(Layer):
    type = "dropout"
    backward_in_place = True

    def __init__(self, spec: DropoutSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = _only(inputs)
        super().__init__(spec.name, place, [x], x.shape)
        self.dropout = Dropout(spec, x, place)

    def forward(self, train: bool) -> None:
        self._apply(self.dropout.problem(train), self.inputs[0].array, self.output.array)

    def backward(self, updates: Updates | None = None) -> None:
        self._apply(self.dropout.last, self.output.gradient, self.input_gradients[0])

    def _apply(self, problem: DropoutProblem, x: Any, y: Any) -> None:
        self.device.module.dropout(problem, x, y, self.device.stream, step=self.dropout.step)


class _ElementwiseLayer(Layer):
    """Several inputs of one shape make one output of that shape."""

    def __init__(self, spec: SumSpec | MaxSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        if len(inputs) < 2:
            raise ValueError(f"inputs must be at least two, not {len(inputs)}")
        tensors = [_only([tensors]) for tensors in inputs]
        if len({x.shape for x in tensors}) != 1:
            raise ValueError(
                "inputs must have one shape, not " + ", ".join(f"{x.name} {x.shape}" for x in tensors)
            )
        super().__init__(spec.name, place, tensors, tensors[0].shape)


class SumLayer(_ElementwiseLayer):
    type = "sum"

    def __init__(self, spec: SumSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        self.coeffs = spec.coeffs or (1.0,) * len(inputs)
        if len(self.coeffs) != len(inputs):
            raise ValueError(f"coeffs must be {len(inputs)} numbers, one per input, not {len(self.coeffs)}")
        super().__init__(spec, inputs, place)

    def forward(self, train: bool) -> None:
        module, stream, y = self.device.module, self.device.stream, self.output.array
        first, second, *rest = (x.array for x in self.inputs)
        module.add(first, second, y, stream, self.coeffs[0], self.coeffs[1])
        for array, coeff in zip(rest, self.coeffs[2:], strict=True):
            module.add(y, array, y, stream, 1.0, coeff)

    def backward(self, updates: Updates | None = None) -> None:
        module, stream = self.device.module, self.device.stream
        for dx, coeff in zip(self.input_gradients, self.coeffs, strict=True):
            if dx is not None:
                times = NeuronProblem(self.output.count, "linear", coeff, 0.0)
                module.neuron_forward(times, self.output.gradient, dx, stream)


class MaxLayer(_ElementwiseLayer):
    type = "max"

    def forward(self, train: bool) -> None:
        module, stream, y = self.device.module, self.device.stream, self.output.array
        first, *rest = (x.array for x in self.inputs)
        for array in rest:
            module.eltmax_forward(first, array, y, stream)
            first = y

    def backward(self, updates: Updates | None = None) -> None:
        y, dy = self.output.array, self.output.gradient
        for x, dx in zip(self.inputs, self.input_gradients, strict=True):
            if dx is not None:
                self.device.module.eltmax_backward(x.array, y, dy, dx, self.device.stream)


class ConcatLayer(Layer):
    """The channels of several inputs of one height and width, one input's behind the other's."""

    type = "concat"

    def __init__(self, spec: ConcatSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        if len(inputs) < 2:
            raise ValueError(f"inputs must be at least two, not {len(inputs)}")
        tensors = [_only([tensors]) for tensors in inputs]
        if len({x.image[:3] for x in tensors}) != 1:
            raise ValueError(
                "inputs must have one height and width, not "
                + ", ".join(f"{x.name} {x.shape}" for x in tensors)
            )
        images = [x.image for x in tensors]
        channels = sum(c for *_, c in images)
        flat = all(len(x.shape) == 2 for x in tensors)
        shape = (images[0][0], channels) if flat else (*images[0][:3], channels)
        super().__init__(spec.name, place, tensors, shape)

    def _parts(self, whole: Any) -> list[Any]:
        """The channels of each input."""
        ends = np.cumsum([x.image[3] for x in self.inputs])
        return [whole[..., end - x.image[3] : end] for x, end in zip(self.inputs, ends.tolist(), strict=True)]

    def forward(self, train: bool) -> None:
        with self.device:
            for x, part in zip(self.inputs, self._parts(self.output.array), strict=True):
                part[...] = x.array.reshape(part.shape)

    def backward(self, updates: Updates | None = None) -> None:
        with self.device:
            for dx, part in zip(self.input_gradients, self._parts(self.output.gradient), strict=True):
                if dx is not None:
                    dx.reshape(part.shape)[...] = part


class _FixedFilterLayer(Layer):
    """A convolution whose filters never change and are no parameters."""

    def __init__(self, name: str, x: Tensor, place: Place, filters: Array, groups: int) -> None:
        k, r, s, _ = filters.shape
        padding = (r // 2, s // 2)
        self.problem = ConvProblem(*x.image, k, r, s, (1, 1), padding, groups, precision=place.precision)
        shape = (x.shape[0], k) if len(x.shape) == 2 else self.problem.y_shape
        super().__init__(name, place, [x], shape)
        values = pack(filters) if place.element == np.uint16 else filters
        self._filters = place.allocate(place.device, filters.shape, place.element)
        place.device.fill(self._filters, values)

    def workspace_bytes(self) -> int:
        module = self.device.module
        needs = [module.conv_fprop_workspace(self.problem)]
        if self.inputs[0].needs_gradient:
            needs.append(module.conv_dgrad_workspace(self.problem))
        return int(max(needs))

    def forward(self, train: bool) -> None:
        x, y = self.inputs[0].array, self.output.array
        self.device.module.conv_fprop(
            self.problem,
            x.reshape(self.problem.x_shape),
            self._filters,
            None,
            False,
            y.reshape(self.problem.y_shape),
            self.workspace,
            self.device.stream,
        )

    def backward(self, updates: Updates | None = None) -> None:
        dy, dx = self.output.gradient, self.input_gradients[0]
        if dx is not None:
            self.device.module.conv_dgrad(
                self.problem,
                dy.reshape(self.problem.y_shape),
                self._filters,
                dx.reshape(self.problem.x_shape),
                self.workspace,
                self.device.stream,
            )


class SelectLayer(_FixedFilterLayer):
    """Some of the input's channels: filters of one pixel that are 1 for a channel and 0 for the others.

    Products with 1 and sums with 0 change no value, so each channel is bit-identical to the one it is.
    """

    type = "select"

    def __init__(self, spec: SelectSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = _only(inputs)
        if max(spec.channels) >= x.channels:
            raise ValueError(
                f"channels must be below {x.channels}, as many as {x.name} has, not {max(spec.channels)}"
            )
        filters = np.zeros((len(spec.channels), 1, 1, x.channels), np.float32)
        filters[range(len(spec.channels)), 0, 0, spec.channels] = 1
        super().__init__(spec.name, x, place, filters, groups=1)


class BlurLayer(_FixedFilterLayer):
    """Each channel convolved with the same Gaussian."""

    type = "blur"

    def __init__(self, spec: BlurSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = _only(inputs)
        if spec.size > min(x.image[1:3]):
            raise ValueError(f"size must be at most the image's side, {min(x.image[1:3])}, not {spec.size}")
        line = np.exp(-((np.arange(spec.size) - spec.size // 2) ** 2) / (2 * spec.stdev**2))
        window = np.outer(line, line) / line.sum() ** 2
        filters = np.broadcast_to(window[None, :, :, None], (x.channels, spec.size, spec.size, 1))
        super().__init__(spec.name, x, place, filters.astype(np.float32), groups=x.channels)


class SoftmaxCostLayer(Layer):
    """Its output is the probabilities; `losses` and `ranks` have a value for each image.

    Training, the forward pass finds the logits' gradient along the way. Nothing else lies in that memory by
    then: gradients are of no use before the cost's.
    """

    type = "softmax_cost"

    def __init__(self, spec: SoftmaxCostSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> None:
        x = _only(inputs)
        n, k = x.shape[0], x.count // x.shape[0]
        self.problem = SoftmaxProblem(n, k)
        super().__init__(spec.name, place, [x], (n, k), element=np.float32)
        self.coeff = spec.coeff
        self.labels = place.allocate(place.device, (n,), np.int32)
        self.losses = place.allocate(place.device, (n,))
        self.ranks = place.allocate(place.device, (n,), np.int32)
        self.count = n  # how many rows hold images; the loss is their mean
        self._trained = False

    def forward(self, train: bool) -> None:
        module, stream = self.device.module, self.device.stream
        x, dx = self.inputs[0].array, self.input_gradients[0]
        self._trained = train and dx is not None
        if not self._trained:
            module.softmax_cross_entropy_forward(
                self.problem, x, self.labels, self.output.array, self.losses, self.ranks, stream
            )
            return
        module.softmax_cross_entropy(
            self.problem,
            x,
            self.labels,
            self.coeff / self.count,
            self.output.array,
            self.losses,
            self.ranks,
            dx,
            stream,
        )
        self._clear_missing(dx)

    def backward(self, updates: Updates | None = None) -> None:
        dx = self.input_gradients[0]
        if dx is None or self._trained:
            return
        self.device.module.softmax_cross_entropy_backward(
            self.problem, self.output.array, self.labels, self.coeff / self.count, dx, self.device.stream
        )
        self._clear_missing(dx)

    def _clear_missing(self, dx: Any) -> None:
        """Rows without an image have no gradient."""
        if self.count < len(dx):
            dx[self.count :] = 0


# ---- what the network adds itself ------------------------------------------------------------------------


class InputLayer(Layer):
    """The images of a batch on one device: uint8 in, an activation [N, height, width, C] out, or its
    blocks."""

    type = "data"

    def __init__(self, net: NetSpec, batch: int, place: Place, blocks: InputProblem | None = None) -> None:
        image = net.input
        self.problem = blocks or InputProblem(
            batch, *net.stored_shape, image.height, image.width, image.center_mean
        )
        super().__init__(DATA, place, (), self.problem.y_shape)
        self.output.blocks = blocks
        self.scale = self._net_scale = image.scale
        device, allocate = place.device, place.allocate
        self.images = allocate(device, (batch, *net.stored_shape), np.uint8)
        self._feed = device.feed(self.images)
        self.top = allocate(device, (batch,), np.int32)
        self.left = allocate(device, (batch,), np.int32)
        self.mirror = allocate(device, (batch,), np.uint8)
        self._mean = allocate(device, net.stored_shape)
        self._shift = allocate(device, (batch, image.channels))
        self.mean: Any = None
        self.shift: Any = None

    def load(self, images: Any, top: Any, left: Any, mirror: Any, shift: Any, scale: float) -> None:
        """Host arrays of one batch; rows beyond theirs are filled with zeros."""
        self.scale = self._net_scale * scale
        self._feed.start(images)
        targets = [(self.top, top), (self.left, left), (self.mirror, mirror)]
        if shift is not None:
            targets.append((self._shift, shift))
        self.shift = None if shift is None else self._shift
        with self.device:
            for target, host in targets:
                self.device.fill(target[: len(host)], host)
                if len(host) < len(target):
                    target[len(host) :] = 0

    def set_mean(self, mean: Any) -> None:
        self.mean = None if mean is None else self._mean
        if mean is not None:
            self.device.fill(self._mean, mean)

    def forward(self, train: bool) -> None:
        self._transform(self.problem, self.output.array)

    def activation(self, name: str) -> Any:
        o = self.problem
        if o.block == 1:
            return self.output.array
        plain = InputProblem(o.n, o.h, o.w, o.c, o.p, o.q, o.center_mean)
        y = self.device.empty(plain.y_shape, self.output.array.dtype)
        self._transform(plain, y)
        return y

    def _transform(self, problem: InputProblem, y: Any) -> None:
        self._feed.wait()
        self.device.module.input_transform(
            problem,
            self.images,
            self.top,
            self.left,
            self.mirror,
            self.mean,
            self.shift,
            self.scale,
            y,
            self.device.stream,
        )
        self._feed.been_read()


class CopyLayer(Layer):
    """An edge that crosses devices: the activation goes forward, its gradient back, beside other work.

    A copy begins when what it reads is computed and what it overwrites is no longer read, and who needs it
    waits for it; nobody else does.

    Attributes
        reader: the first layer that needs it on this device. bytes: of one copy in one direction.
    """

    type = "copy"

    def __init__(self, source: Tensor, reader: str, place: Place) -> None:
        whole = dataclasses.replace(place, part=0, parts=1)
        super().__init__(f"{source.name}@{place.device.name}", whole, (source,), source.shape)
        self.output.first, self.output.of_channels = source.first, source.of_channels
        self.reader = reader
        self.bytes = int(source.array.nbytes)
        self.copied_bytes = 0
        self._there = source.device.transfer(self.output.array, self.device, source.array)
        self._back: Any = None
        self._read: Any = None  # the mark behind the last reader of the copied activation
        self._done: Any = None  # the mark behind the last copy

    def forward(self, train: bool) -> None:
        self._done = self._there.start(self.inputs[0].device.mark(), self._read)
        self.copied_bytes += self.bytes

    def backward(self, updates: Updates | None = None) -> None:
        source, gradient = self.inputs[0].device, self.input_gradients[0]
        if self._back is None:
            self._back = self.device.transfer(gradient, source, self.output.gradient)
        # The source's mark: other gradients lay in this memory before.
        self._done = self._back.start(self.device.mark(), source.mark())
        self.copied_bytes += self.bytes

    def last(self, back: bool) -> list[tuple[Device | None, Any, Any]]:
        """What the last copy forward, or back, was made of; see Transfer."""
        return list((self._back if back else self._there).last)

    def wait(self) -> None:
        """Later work of both devices finds the last copy done: one needs it, the other may overwrite it."""
        self.device.wait(self._done)
        self.inputs[0].device.wait(self._done)

    def wait_here(self) -> None:
        """Later work of the receiving device finds the activation copied."""
        self.device.wait(self._done)

    def been_read(self) -> None:
        """The next copy need only wait for the work that its device has been given so far."""
        self._read = self.device.mark()

    @property
    def seconds(self) -> float:
        """How long its copies took so far."""
        return float(self._there.seconds + (self._back.seconds if self._back else 0.0))


_LAYERS: dict[type[LayerSpec], Any] = {
    ConvSpec: ConvLayer,
    LocalSpec: LocalLayer,
    FcSpec: FcLayer,
    NeuronSpec: NeuronLayer,
    PoolSpec: PoolLayer,
    LrnSpec: LrnLayer,
    ContrastNormSpec: ContrastNormLayer,
    DropoutSpec: DropoutLayer,
    SumSpec: SumLayer,
    MaxSpec: MaxLayer,
    ConcatSpec: ConcatLayer,
    SelectSpec: SelectLayer,
    BlurSpec: BlurLayer,
    SoftmaxCostSpec: SoftmaxCostLayer,
}
_SEVERAL_INPUTS = (_WeightedLayer, _ElementwiseLayer, ConcatLayer)


def layer_type(spec: LayerSpec) -> Any:
    """The class of the layer a spec describes, to be called with (spec, the tensors of each input, place).

    Raises ValueError if it has too many inputs.
    """
    kind = _LAYERS[type(spec)]
    if len(spec.inputs) != 1 and not issubclass(kind, _SEVERAL_INPUTS):
        raise ValueError(f"inputs must be one layer, not {len(spec.inputs)}")
    return kind


def can_join(first: LayerSpec, second: LayerSpec) -> bool:
    """Whether one layer can do the work of two, the second of which is the only one to read the first."""
    if isinstance(first, LrnSpec) and isinstance(second, PoolSpec):
        return first.region == "across_channels" and second.pool == "max"
    if isinstance(first, ConvSpec | FcSpec) and isinstance(second, DropoutSpec):
        return first.neuron is None or first.neuron.kind == "relu"
    return False


def join(first: LayerSpec, second: LayerSpec, inputs: Sequence[Sequence[Tensor]], place: Place) -> Layer:
    """The layer that does the work of both."""
    if isinstance(first, LrnSpec) and isinstance(second, PoolSpec):
        return LrnPoolLayer(first, second, inputs, place)
    assert isinstance(second, DropoutSpec)
    return (ConvLayer if isinstance(first, ConvSpec) else FcLayer)(first, inputs, place, second)
