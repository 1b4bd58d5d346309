"""The passes that convolution, local and FC layers share.

Each input has its own branch, a product of the input with weights. The products are summed in the order of
the inputs. One product takes bias, ReLU and dropout along. Otherwise they are applied to the sum afterwards.
"""

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
    DropoutProblem,
    FilterBlocksProblem,
    NeuronProblem,
)
from cconvnet.layers.base import Array, InputEpilogue, Layer, Site, Tensor, length
from cconvnet.layers.blocks import over_blocks
from cconvnet.layers.dropout import Dropout
from cconvnet.nets import DropoutSpec, Init
from cconvnet.operations import workspace_size
from cconvnet.optim import FusedUpdates, Parameter, Piece


def initial_weights(init: Init, shape: tuple[int, ...], fan_in: int, name: str, seed: int) -> Array:
    """Draw the first value of a weight tensor, float32.

    Args:
        init: the distribution.
        shape: of the tensor.
        fan_in: how many weights an output has.
        name: of the tensor; the draws depend on it and the seed alone.
        seed: of the network.
    """
    if init.kind == "bilinear":
        return bilinear_weights(shape)
    sigma = math.sqrt(2 / fan_in) if init.kind == "he" else init.sigma
    draws = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
    weights = draws.standard_normal(shape, dtype=np.float32)
    weights *= np.float32(sigma)
    return weights


def bilinear_weights(shape: tuple[int, ...]) -> Array:
    """Return the weights [C,R,S,C/groups] of a transposed convolution that interpolates each channel.

    A window of 2 * stride - stride % 2 pixels interpolates between the pixels of the input.
    """
    c, r, s, per_group = shape
    lines = [1 - np.abs(np.arange(size) - (size - 1) / 2) / ((size + 1) // 2) for size in (r, s)]
    weights = np.zeros(shape, np.float32)
    channels = np.arange(c)
    weights[channels, :, :, channels % per_group] = np.outer(*lines)
    return weights


@dataclass
class Blocks:
    """Filters over images in blocks.

    Attributes:
        problem: the rearrangement of the weights.
        filters: the rearranged weights, computed before each use.
        gradient: the gradient of `filters`, which is rearranged back into the weights' gradient.
    """

    problem: FilterBlocksProblem
    filters: Any
    gradient: Any


@dataclass
class Branch:
    """The product of one input with its weights.

    Attributes:
        x: the input.
        problem: of the product.
        weight: the piece of the weights.
        blocks: the rearranged weights if the input is in blocks, else None.
    """

    x: Tensor
    problem: Any
    weight: Piece
    blocks: Blocks | None = None


class WeightedLayer(Layer):
    """Convolution, local and FC layers: the same three passes of three families of functions.

    Each input has weights of its own. So has each part of an input that is split over devices; its weights
    are pieces of the input's parameter.

    Attributes:
        fuses_bias: whether one product can take along bias, ReLU and dropout.
        fuses_own_biases: whether one product can take along a bias of each output position.
        branches: the product of each input with its weights, in order.
        fprop_problems: that of each branch's forward pass, which has the output's place.
        bias: the piece of the bias, None without one.
        relu: whether the activation function is a ReLU.
        neuron: the problem of any other activation function, else None.
        product: the sum of the products before such a function; otherwise the output.
        fused: whether the one product takes bias, ReLU and dropout along.
        dropout: the dropout after the activation function, None without one.
        factors: keeps inputs and output gradients for the weights' gradients, which the backward pass then
            does not compute; None without.
        columns: computes the products of all images together with other ranks; None without.
    """

    several_inputs = True
    fuses_bias: ClassVar[bool] = True
    fuses_own_biases: ClassVar[bool] = False

    def __init__(
        self,
        spec: Any,
        inputs: Sequence[Sequence[Tensor]],
        site: Site,
        dropout: DropoutSpec | None = None,
    ) -> None:
        branches: list[Branch] = []
        for index, tensors in enumerate(inputs):
            own = spec.for_input(index)
            suffix = f".{index}" if len(inputs) > 1 else ""
            branches += [self._branch(own, x, f"{spec.name}.weight{suffix}", site) for x in tensors]
        self.branches = branches
        shapes = {branch.problem.y_shape: branch.x.name for branch in branches}
        if len(shapes) != 1:
            raise ValueError(
                "inputs must give outputs of one shape, not "
                + ", ".join(f"{list(shape[1:])} from {name}" for shape, name in shapes.items())
            )
        y_shape = branches[0].problem.y_shape
        super().__init__(spec.name, site, [branch.x for branch in branches], y_shape, learns=True)

        shape_of_bias = y_shape[-1:] if spec.shared_bias else y_shape[1:]
        self.bias: Piece | None = None
        if spec.bias is not None:
            self.bias = site.vector(
                spec.name,
                "bias",
                shape_of_bias,
                spec.bias,
                rate_factor=spec.bias_lr_scale,
                weight_decay=spec.bias_weight_decay,
                momentum=spec.bias_momentum,
                lr_curve=spec.bias_lr_curve,
            )
        columns = math.prod(shape_of_bias)
        self.bias_problem = BiasProblem(self.output.count // columns, columns)
        self.fprop_problems = [branch.problem for branch in branches]
        if (place := site.place) is not None:
            self.bias_problem = self.bias_problem.placed(place.pitch, place.first)
            self.fprop_problems = [
                problem.placed(place.pitch, place.first) for problem in self.fprop_problems
            ]
        self.relu = spec.neuron is not None and spec.neuron.kind == "relu"
        takes_bias = self.fuses_bias if spec.shared_bias else self.fuses_own_biases
        self.fused = len(branches) == 1 and takes_bias
        self.neuron: NeuronProblem | None = None
        self.product = self.output.storage
        if spec.neuron is not None and not self.relu:
            self.neuron = NeuronProblem(self.output.count, spec.neuron.kind, spec.neuron.a, spec.neuron.b)
            # Its backward pass needs the product, so that it cannot work in place.
            self.product = site.allocate(site.device, y_shape, site.element)
        self.factors: Any = None
        self.columns: Any = None
        self.dropout: Dropout | None = None
        if dropout is not None:
            self.take_along(dropout)
            self.dropout = Dropout(dropout, self.output, site)

    def _pass(self, name: str) -> Any:
        """Return the function of a pass in the device's module, which may change between steps."""
        return getattr(self.device.module, f"{self.type}_{name}")

    def _workspace(self, name: str, problem: Any, *, sums: bool = False) -> int:
        """Return the bytes of workspace of a pass; see workspace_size."""
        return workspace_size(self.device.module, f"{self.type}_{name}", problem, sums=sums)

    @property
    def weights(self) -> list[Piece]:
        """The weights of each branch."""
        return [branch.weight for branch in self.branches]

    @property
    def biases(self) -> list[Piece]:
        """The bias, if there is one."""
        return [] if self.bias is None else [self.bias]

    @property
    def pieces(self) -> list[Piece]:
        """The weights of each branch, then the bias."""
        return self.weights + self.biases

    @property
    def epilogue(self) -> InputEpilogue | None:
        """The gradients of its ReLU and its bias, if they need only the output's sign and a scale."""
        if self.neuron is not None or (self.dropout is not None and not self.relu):
            return None
        if not self.relu and self.bias is None:
            return None
        return InputEpilogue(
            self.output.array if self.relu else None,
            None if self.bias is None else self.bias.gradient,
            self.dropout is not None,
            self._scale,
        )

    def can_finish(self, index: int, epilogue: InputEpilogue) -> bool:
        """True if it has a bias for each channel of this input, and no rank computes columns alone."""
        return self.columns is None and epilogue.sums(self.branches[index].problem.c)

    def _scale(self) -> float:
        """The factor by which the last forward pass multiplied the outputs that it kept."""
        return 1.0 if self.dropout is None else float(self.dropout.last.scale)

    def _branch(self, spec: Any, x: Tensor, name: str, site: Site) -> Branch:
        raise NotImplementedError

    def _weight(
        self,
        spec: Any,
        name: str,
        site: Site,
        *,
        whole: tuple[int, ...],
        view: tuple[int, ...],
        index: tuple[slice, ...],
        shape: tuple[int, ...],
        fan_in: int,
    ) -> Piece:
        """Make a piece of a weight tensor.

        Args:
            spec: the layer, with the values that hold for this input.
            name: of the tensor.
            site: where the layer is built.
            whole: the shape of the whole tensor.
            view: the shape in which `index` selects the piece.
            index: the piece.
            shape: of the piece's arrays.
            fan_in: how many weights an output has.
        """
        if name not in site.parameters:
            site.parameters[name] = Parameter(
                name=name,
                layer=spec.name,
                of="weight",
                shape=whole,
                first=functools.partial(initial_weights, spec.init, whole, fan_in, name, site.seed),
                fan_in=fan_in,
                rate_factor=spec.lr_scale,
                weight_decay=spec.weight_decay,
                momentum=spec.momentum,
                norm_limit=spec.norm_limit,
                lr_curve=spec.lr_curve,
                contrast_limits=spec.contrast_limits,
            )
        if spec.limits and math.prod(shape[1:]) != math.prod(whole[1:]):
            raise ValueError(f"{spec.limits[0]} cannot be kept where an input is split over several devices")
        return site.parameters[name].add_piece(site.device, site.allocate, view, index, shape, site.element)

    @property
    def backward_flops(self) -> float:
        """Those of the gradients of weights and inputs."""
        return sum(float(branch.problem.flops) * (1 + branch.x.needs_gradient) for branch in self.branches)

    def workspace_bytes(self) -> int:
        """The bytes of workspace of the most demanding pass."""
        module = self.device.module
        needs = [int(module.bias_grad_workspace(self.bias_problem))]
        for branch, epilogue in zip(self.branches, self.input_epilogues, strict=True):
            needs.append(self._workspace("fprop", branch.problem, sums=self.measure is not None))
            needs.append(self._workspace("wgrad", branch.problem))
            if branch.x.needs_gradient:
                needs.append(self._workspace("dgrad", branch.problem, sums=epilogue is not None))
        for problem in () if self.factors is None else self.factors.problems:
            needs.append(self._workspace("wgrad", problem))
        for problem in () if self.columns is None else self.columns.problems:
            needs += [self._workspace(name, problem) for name in ("fprop", "dgrad", "wgrad")]
        return max(needs)

    def workspace_bytes_beside(self) -> int:
        """The bytes of workspace of the most demanding gradient of weights."""
        return max(self._workspace("wgrad", branch.problem) for branch in self.branches)

    def scratch_count(self) -> int:
        """One product, where several are summed, or its gradient, where the output has a place."""
        return self.output.count if len(self.branches) > 1 or self.output.place is not None else 0

    def forward(self, train: bool) -> None:
        """Compute the output: products, bias, activation function, dropout."""
        dropout = None if self.dropout is None else self.dropout.problem(train)
        statistics = self.measure() if train and self.measure is not None else {}
        self._compute(self.output.storage, dropout, statistics)

    def _compute(self, y: Any, dropout: DropoutProblem | None, statistics: dict[str, Any]) -> None:
        module, stream = self.device.module, self.device.stream
        product = y if self.neuron is None else self.product
        bias = None if self.bias is None else self.bias.value
        step = None if self.dropout is None else self.dropout.step
        if self._is_shared:
            self.columns.product(product)
        else:
            dropped = {"dropout": dropout, "step": step} if self.fused and dropout is not None else {}
            self._multiply(product, bias if self.fused else None, {**dropped, **statistics})
        if not self.fused or self._is_shared:
            if bias is not None:
                module.bias_add(self.bias_problem, product, bias, self.relu, product, stream)
            elif self.relu:
                module.relu_forward(product, product, stream)
            if dropout is not None:
                module.dropout(dropout, product, product, stream, step=step)
        if self.neuron is not None:
            module.neuron_forward(self.neuron, product, y, stream)

    @property
    def _is_shared(self) -> bool:
        """True in a step in which ranks compute the product together."""
        return self.columns is not None and self.columns.row is not None

    def _multiply(self, product: Any, bias: Any, options: dict[str, Any]) -> None:
        """Compute the sum of the products, where it is one with what is fused with it."""
        module, stream = self.device.module, self.device.stream
        for number, (branch, problem) in enumerate(zip(self.branches, self.fprop_problems, strict=True)):
            # The sum starts as the first product; the others are added to it.
            target = product if number == 0 else self.scratch[: self.output.count].reshape(product.shape)
            filters = branch.weight.working
            if (blocks := branch.blocks) is not None:
                module.filters_to_blocks(blocks.problem, branch.weight.value, blocks.filters, stream)
                filters = blocks.filters
            fused = bias, self.fused and self.relu
            self._pass("fprop")(
                problem, branch.x.array, filters, *fused, target, self.workspace, stream, **options
            )
            if number > 0:
                module.add(product, target, product, stream)

    def compute_inside(self, y: Any, name: str) -> None:
        """Compute the output before the dropout."""
        self._compute(y, None, {})

    def backward(self, updates: FusedUpdates | None = None) -> None:
        """Compute the gradients of inputs, weights and bias; with `updates`, move weights and bias."""
        dy = self._backward_to_product()
        if self._is_shared:
            self.columns.keep(dy)
            return
        stream = self.device.stream
        # The inputs' gradients come first: they read the weights that the updates change.
        for index, (branch, dx) in enumerate(zip(self.branches, self.input_gradients, strict=True)):
            if dx is not None:
                options = self.epilogue_options(index)
                self._pass("dgrad")(
                    branch.problem, dy, branch.weight.working, dx, self.workspace, stream, **options
                )
        if self.factors is not None:
            self.factors.keep(dy)
        elif updates is not None and updates.beside is not None and self._moves_beside(updates):
            updates.beside(functools.partial(self._learn, dy, updates, self.workspace_beside))
        else:
            self._learn(dy, updates, self.workspace)
        if self.bias is not None and updates is not None:
            updates.apply(self.bias)

    def _moves_beside(self, updates: FusedUpdates) -> bool:
        """True if it learns beside others, and is not frozen."""
        return self.learns_beside and any(one.parameter.name not in updates.frozen for one in self.weights)

    def _learn(self, dy: Any, updates: FusedUpdates | None, workspace: Any) -> None:
        """Compute the gradients of the weights from the product's; with `updates`, move them."""
        module, stream = self.device.module, self.device.stream
        for branch in self.branches:
            weight, blocks = branch.weight, branch.blocks
            if updates is not None and weight.parameter.name in updates.frozen:
                continue
            if blocks is None:
                update = None if updates is None else updates.of(weight)
                self._pass("wgrad")(
                    branch.problem, branch.x.array, dy, weight.gradient, workspace, stream, update=update
                )
                if updates is not None:
                    updates.complete(weight, update is not None)
            else:
                self._pass("wgrad")(branch.problem, branch.x.array, dy, blocks.gradient, workspace, stream)
                module.filters_from_blocks(blocks.problem, blocks.gradient, weight.gradient, stream)
                if updates is not None:
                    updates.apply(weight)

    def _backward_to_product(self) -> Any:
        """Turn the output's gradient into the product's, compute the bias's, and return the product's.

        It works in place, unless the output has a place: the product's gradient is always dense.
        """
        module, stream = self.device.module, self.device.stream
        y, dy = self.output.storage, self.output.gradient
        if self.gradient_is_finished:
            return dy
        if self.output.place is not None and self.bias is not None:
            product = self.scratch[: self.output.count].reshape(self.output.shape)
            module.relu_bias_backward(
                self.bias_problem, y, dy, self._scale(), product, self.bias.gradient, self.workspace, stream
            )
            return product
        if self.neuron is not None:
            module.neuron_backward(self.neuron, self.product, y, dy, dy, stream)
        elif self.relu:
            # Where the ReLU or the dropout gave 0, the output is 0.
            if self.bias is not None:
                module.relu_bias_backward(
                    self.bias_problem, y, dy, self._scale(), dy, self.bias.gradient, self.workspace, stream
                )
                return dy
            if self.dropout is not None:
                module.dropout(self.dropout.last, dy, dy, stream, step=self.dropout.step)
            module.relu_backward(y, dy, dy, stream)
        elif self.dropout is not None:
            module.dropout(self.dropout.last, dy, dy, stream, step=self.dropout.step)
        if self.bias is not None:
            module.bias_grad(self.bias_problem, dy, self.bias.gradient, self.workspace, stream)
        return dy


class FilterLayer(WeightedLayer):
    """Convolution and local layers.

    Attributes:
        problem_type: the class of the branches' problems.
    """

    problem_type: ClassVar[Any]

    @staticmethod
    def mixes(spec: Any, index: int) -> bool:
        """True if the filters of that input read all of its channels."""
        return bool(spec.for_input(index).groups == 1)

    def _branch(self, spec: Any, x: Tensor, name: str, site: Site) -> Branch:
        filters = site.share("filters", spec.filters)
        groups, channels = 1, slice(None) if x.blocks else slice(x.first, x.first + x.channels)
        if spec.groups > 1:
            groups, channels = length(site.share("groups", spec.groups)), slice(None)
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
            site.precision,
            dilation=spec.dilation,
        )
        # w[K,R,S,C/groups], or w[P,Q,K,R,S,C/groups] of a local layer.
        *positions, _, r, s, _ = problem.w_shape
        of_channels = x.of_channels if blocks is None else blocks.c
        whole = (*positions, spec.filters, r, s, of_channels // spec.groups)
        index = (*(slice(None) for _ in positions), filters, slice(None), slice(None), channels)
        weight = self._weight(
            spec,
            name,
            site,
            whole=whole,
            view=whole,
            index=index,
            shape=problem.w_shape,
            fan_in=math.prod(whole[-3:]),
        )
        if blocks is None:
            return Branch(x, problem, weight)
        of_filters = FilterBlocksProblem(length(filters), r, s, blocks.c, blocks.block)
        return Branch(
            x,
            over_blocks(problem),
            weight,
            Blocks(
                of_filters,
                site.allocate(site.device, of_filters.blocks_shape, site.element),
                site.allocate(site.device, of_filters.blocks_shape),
            ),
        )
