"""Layers of our networks as PyTorch modules, with our weights.

Activations are [N,C,H,W] and filters [K,C/groups,R,S]. The input of an FC layer is flattened in the order
(C,H,W).
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cconvnet.bench.processes import PeerMissing
from cconvnet.nets import (
    BatchNormSpec,
    ConvSpec,
    DeconvSpec,
    DropoutSpec,
    FcSpec,
    LrnSpec,
    Neuron,
    NeuronSpec,
    PoolSpec,
    SelectSpec,
    SumSpec,
    UnpoolSpec,
)
from cconvnet.nets.shapes import Shape, pool_outputs, transposed, windows
from cconvnet.nets.values import Pair, both_sides

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Learned:
    """One of our parameters in PyTorch's layout.

    Attributes:
        view: The shape in which ours is viewed.
        axes: The transpose of that view.
        lr_scale: As in cconvnet.optim.Parameter.
        weight_decay: As in cconvnet.optim.Parameter.
        momentum: As in cconvnet.optim.Parameter.
    """

    tensor: nn.Parameter
    ours: tuple[int, ...]
    view: tuple[int, ...]
    axes: tuple[int, ...]
    lr_scale: float
    weight_decay: float
    momentum: float | None

    def to_ours(self, values: Tensor) -> Array:
        """Return values of this parameter in our shape and order."""
        transposed = values.detach().float().cpu().numpy().reshape([self.view[axis] for axis in self.axes])
        return np.ascontiguousarray(transposed.transpose(np.argsort(self.axes)).reshape(self.ours))


def _learned(
    value: Array,
    view: tuple[int, ...],
    axes: tuple[int, ...],
    shape: tuple[int, ...],
    rates: tuple[float, float, float | None],
) -> Learned:
    transposed = np.ascontiguousarray(value.reshape(view).transpose(axes)).reshape(shape)
    return Learned(nn.Parameter(torch.from_numpy(transposed)), value.shape, view, axes, *rates)


# ---- layers ----------------------------------------------------------------------------------------------


def neuron(function: Neuron, x: Tensor) -> Tensor:
    """Apply an activation function."""
    a, b = function.a, function.b
    match function.kind:
        case "linear":
            return a * x + b
        case "relu":
            return F.relu(x)
        case "tanh":
            return a * torch.tanh(b * x)
        case "logistic":
            return torch.sigmoid(x)
        case "softrelu":
            return F.softplus(x)
        case "abs":
            return x.abs()
        case "square":
            return x * x
        case "sqrt":
            return x.sqrt()
        case "brelu":
            return x.clamp(0, a)
        case "silu":
            return F.silu(x)
    raise PeerMissing(f"PyTorch has no neuron like {function.kind}")


class Weighted(nn.Module):
    """Sum of one product for each input, with a bias and an activation function.

    Attributes:
        learned: Its parameters by our names.
    """

    def __init__(self, spec: Any, state: Mapping[str, Array]) -> None:
        super().__init__()
        self.spec = spec
        self.learned: dict[str, Learned] = {}
        self.weights = nn.ParameterList()
        self.bias: nn.Parameter | None = None
        for index in range(len(spec.inputs)):
            own = spec.for_input(index)
            if own.limits:
                raise PeerMissing(f"PyTorch has no update that keeps {own.limits[0]} ({spec.name})")
            name = f"{spec.name}.weight" + (f".{index}" if len(spec.inputs) > 1 else "")
            rates = own.lr_scale, own.weight_decay, own.momentum
            self.learned[name] = self._weight(index, state[name], rates)
            self.weights.append(self.learned[name].tensor)
        if spec.bias is not None:
            name = f"{spec.name}.bias"
            value = state[name]
            # [K], or [P,Q,K] where each position has a bias of its own.
            axes = (2, 0, 1) if value.ndim == 3 else (0,)
            shape = tuple(value.shape[axis] for axis in axes)
            rates = spec.bias_lr_scale, spec.bias_weight_decay, spec.bias_momentum
            self.learned[name] = _learned(value, value.shape, axes, shape, rates)
            self.bias = self.learned[name].tensor

    def _weight(self, index: int, value: Array, rates: tuple[float, float, float | None]) -> Learned:
        raise NotImplementedError

    def _product(self, index: int, x: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute the output."""
        # PyTorch's products have no bias for each position.
        unshared = self.bias if self.bias is not None and self.bias.ndim > 1 else None
        y = self._product(0, inputs[0], self.bias if unshared is None else None)
        for index, x in enumerate(inputs[1:], 1):
            y = y + self._product(index, x, None)
        if unshared is not None:
            y = y + unshared
        if self.spec.neuron is None:
            return y
        # No other operation reads the overwritten tensor.
        return F.relu(y, inplace=True) if self.spec.neuron.kind == "relu" else neuron(self.spec.neuron, y)


class Conv(Weighted):
    """Convolutions of the inputs, summed."""

    def __init__(self, spec: ConvSpec, inputs: list[Shape], state: Mapping[str, Array]) -> None:
        super().__init__(spec, state)
        self.paddings = [self._padding(spec.for_input(index), x) for index, x in enumerate(inputs)]

    @staticmethod
    def _padding(spec: ConvSpec, x: Shape) -> tuple[int, int, int, int] | None:
        """Return the zeros around the image for outputs that PyTorch's own geometry does not give."""
        around: list[int] = []
        for size, window, stride, padding, dilation in zip(
            x[:2], spec.window, spec.stride, spec.padding, spec.dilation, strict=True
        ):
            before, after = both_sides(padding)
            count = windows(size, window, stride, padding, spec.rounding, dilation)
            last = (count - 1) * stride + (window - 1) * dilation + 1
            around = [before, max(after, last - before - size), *around]
        left, right, top, bottom = around
        return None if (left, top) == (right, bottom) else (left, right, top, bottom)

    def _weight(self, index: int, value: Array, rates: tuple[float, float, float | None]) -> Learned:
        k, r, s, c = value.shape
        return _learned(value, value.shape, (0, 3, 1, 2), (k, c, r, s), rates)

    def _product(self, index: int, x: Tensor, bias: Tensor | None) -> Tensor:
        own = self.spec.for_input(index)
        vertical, horizontal = (both_sides(padding)[0] for padding in own.padding)
        if (around := self.paddings[index]) is not None:
            x, vertical, horizontal = F.pad(x, around), 0, 0
        return F.conv2d(
            x, self.weights[index], bias, own.stride, (vertical, horizontal), own.dilation, own.groups
        )


class Deconv(Weighted):
    """Transposed convolutions of the inputs, summed."""

    def __init__(self, spec: DeconvSpec, inputs: list[Shape], state: Mapping[str, Array]) -> None:
        super().__init__(spec, state)
        self.geometry = [self._geometry(spec.for_input(index), x) for index, x in enumerate(inputs)]

    @staticmethod
    def _geometry(spec: DeconvSpec, x: Shape) -> tuple[Pair, Pair, tuple[slice, slice]]:
        """Return PyTorch's padding and output_padding, and the part of its output that is ours.

        PyTorch cuts off both sides alike.
        """
        problem, each = transposed(spec, (1, *x)), []
        for axis, size in enumerate((problem.h, problem.w)):
            before, after = both_sides(spec.padding[axis])
            cut = before if before == after else 0
            whole, first = (x[axis] - 1) * spec.stride[axis] + spec.window[axis] - 2 * cut, before - cut
            each.append((cut, max(0, first + size - whole), slice(first, first + size)))
        cuts, more, parts = zip(*each, strict=True)
        return cuts, more, parts

    def _weight(self, index: int, value: Array, rates: tuple[float, float, float | None]) -> Learned:
        c, r, s, k = value.shape
        return _learned(value, value.shape, (0, 3, 1, 2), (c, k, r, s), rates)

    def _product(self, index: int, x: Tensor, bias: Tensor | None) -> Tensor:
        own, (cut, more, part) = self.spec.for_input(index), self.geometry[index]
        return F.conv_transpose2d(x, self.weights[index], bias, own.stride, cut, more, own.groups)[
            :, :, *part
        ]


class Fc(Weighted):
    """Fully connected layers of the inputs, summed."""

    def __init__(self, spec: FcSpec, inputs: list[Shape], state: Mapping[str, Array]) -> None:
        self.inputs = inputs
        super().__init__(spec, state)

    def _weight(self, index: int, value: Array, rates: tuple[float, float, float | None]) -> Learned:
        return _learned(value, (len(value), *self.inputs[index]), (0, 3, 1, 2), value.shape, rates)

    def _product(self, index: int, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x.flatten(1), self.weights[index], bias)


class Activation(nn.Module):
    """An activation function as a layer of its own."""

    def __init__(self, spec: NeuronSpec) -> None:
        super().__init__()
        self.neuron = spec.neuron

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return neuron(self.neuron, x)


class EveryTie(torch.autograd.Function):
    """Max pooling of padded images in which every tied maximum of a window gets its gradient, as in ours."""

    @staticmethod
    def forward(context: Any, x: Tensor, window: Pair, stride: Pair) -> Tensor:
        """Compute the maxima."""
        y = F.max_pool2d(x, window, stride)
        context.save_for_backward(x, y)
        context.sizes = window, stride
        return y

    @staticmethod
    def backward(context: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        """Give each tied maximum the whole gradient."""
        x, y = context.saved_tensors
        window, stride = context.sizes
        dx = torch.zeros_like(x)
        rows, columns = ((count - 1) * step + 1 for count, step in zip(y.shape[2:], stride, strict=True))
        for r, s in itertools.product(*map(range, window)):
            part = np.s_[:, :, r : r + rows : stride[0], s : s + columns : stride[1]]
            dx[part] += dy * (x[part] == y)
        return dx, None, None


class Pool(nn.Module):
    """Pooling with PyTorch's own geometry if it gives our windows, else of a padded or cropped image.

    Attributes:
        every_tie: Whether all tied maxima get the gradient, as in ours. PyTorch's own pooling gives it to one
            of them. They are many where one pooling reads another's overlapping windows.
    """

    every_tie = False

    def __init__(self, spec: PoolSpec, x: Shape) -> None:
        super().__init__()
        self.spec = spec
        self.ceil_mode: bool | None = None
        outputs = pool_outputs(spec, x)
        within = all(
            isinstance(pad, int) and 0 <= 2 * pad <= window
            for pad, window in zip(spec.padding, spec.window, strict=True)
        )
        for ceil_mode in (False, True):
            if self.ceil_mode is None and within and outputs == self._own_outputs(x, ceil_mode):
                self.ceil_mode = ceil_mode
        around: list[int] = []
        counted: list[int] = []
        for axis in range(2):
            before, after = both_sides(spec.padding[axis])
            rest = (outputs[axis] - 1) * spec.stride[axis] + spec.window[axis] - before - x[axis]
            around = [before, rest, *around]
            counted = [before, min(after, rest), *counted] if spec.count_padding else [0, 0, *counted]
        self.around = tuple(around)
        ones = F.pad(torch.ones(1, 1, *x[:2]), counted, value=1.0)
        ones = F.pad(ones, [whole - part for whole, part in zip(around, counted, strict=True)])
        sizes = F.avg_pool2d(ones, spec.window, spec.stride, divisor_override=1)
        self.sizes: Tensor
        self.register_buffer("sizes", sizes, persistent=False)

    def _own_outputs(self, x: Shape, ceil_mode: bool) -> tuple[int, int]:
        spec = self.spec
        own = PoolSpec(
            name=spec.name,
            window=spec.window,
            stride=spec.stride,
            padding=spec.padding,
            rounding="ceil" if ceil_mode else "floor",
        )
        return pool_outputs(own, x)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        spec, is_max = self.spec, self.spec.pool == "max"
        if is_max and self.every_tie:
            padded = F.pad(x, self.around, value=-torch.inf)
            return cast(Tensor, EveryTie.apply(padded, spec.window, spec.stride))  # type: ignore[no-untyped-call]
        if self.ceil_mode is not None:
            if is_max:
                return F.max_pool2d(x, spec.window, spec.stride, spec.padding, ceil_mode=self.ceil_mode)
            return F.avg_pool2d(x, spec.window, spec.stride, spec.padding, self.ceil_mode, spec.count_padding)
        x = F.pad(x, self.around, value=-torch.inf if is_max else 0.0)
        if is_max:
            return F.max_pool2d(x, spec.window, spec.stride)
        return F.avg_pool2d(x, spec.window, spec.stride, divisor_override=1) / self.sizes


class Unpool(nn.Module):
    """Max unpooling. Windows must not overlap: PyTorch does not add values that share a maximum."""

    def __init__(self, spec: UnpoolSpec, u: Shape) -> None:
        super().__init__()
        self.pool = Pool(PoolSpec(name=spec.name, **spec.windows), u)
        if min(map(operator.sub, spec.stride, spec.window)) < 0 or self.pool.ceil_mode is None:
            raise PeerMissing(f"PyTorch's unpooling has no windows like those of {spec.name}")

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """Compute the output."""
        spec, ceil_mode = self.pool.spec, bool(self.pool.ceil_mode)
        places = F.max_pool2d(u, spec.window, spec.stride, spec.padding, 1, ceil_mode, return_indices=True)[1]
        return F.max_unpool2d(x, places, spec.window, spec.stride, output_size=u.shape[2:])


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation with our gamma, beta and running statistics.

    Attributes:
        learned: Its parameters by our names.
    """

    def __init__(self, spec: BatchNormSpec, state: Mapping[str, Array]) -> None:
        name = spec.name
        super().__init__(len(state[f"{name}.weight"]), spec.eps, spec.momentum)
        self.learned: dict[str, Learned] = {}
        for of, lr_scale, decay in (
            ("weight", spec.lr_scale, spec.weight_decay),
            ("bias", spec.bias_lr_scale, spec.bias_weight_decay),
        ):
            value = state[f"{name}.{of}"]
            own = _learned(value, value.shape, (0,), value.shape, (lr_scale, decay, None))
            self.learned[f"{name}.{of}"] = own
            setattr(self, of, own.tensor)
        self.running_mean = torch.from_numpy(state[f"{name}.mean"].copy())
        self.running_var = torch.from_numpy(state[f"{name}.variance"].copy())

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return super().forward(x if x.ndim == 4 else x[:, :, None, None]).view(x.shape)


class Lrn(nn.Module):
    """Local response normalisation by F.local_response_norm or, `by_hand`, as a PyTorch user could write it.

    The library takes a mean over a three-dimensional window and a power. By hand the shifted squares are
    added, and a power of 3/4 is two square roots.
    """

    def __init__(self, spec: LrnSpec, by_hand: bool) -> None:
        super().__init__()
        self.spec, self.by_hand = spec, by_hand
        self.reach = spec.size // 2, (spec.size - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        groups = self.spec.groups
        if self.spec.region == "same_map":
            return self._same_map(x)
        norm = self._sum_of_shifts if self.by_hand else self._library
        if groups == 1:
            return norm(x)
        if x.is_contiguous():
            n, c, h, w = x.shape
            return norm(x.view(n * groups, c // groups, h, w)).view(n, c, h, w)
        return torch.cat([norm(group) for group in x.chunk(groups, dim=1)], dim=1)

    def _library(self, x: Tensor) -> Tensor:
        spec = self.spec
        # The library divides alpha by the window's size.
        return F.local_response_norm(x, spec.size, spec.alpha * spec.size, spec.beta, spec.k)

    def _sum_of_shifts(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        squares = F.pad(x * x, (0, 0, 0, 0, *self.reach))
        total = squares[:, :channels]
        for shift in range(1, self.spec.size):
            total = total + squares[:, shift : shift + channels]
        return x * self._power(total)

    def _same_map(self, x: Tensor) -> Tensor:
        squares = F.pad(x * x, (*self.reach, *self.reach))
        return x * self._power(F.avg_pool2d(squares, self.spec.size, 1, divisor_override=1))

    def _power(self, total: Tensor) -> Tensor:
        d = self.spec.k + self.spec.alpha * total
        if self.by_hand and self.spec.beta == 0.75:
            root = d.rsqrt()
            return root * root.sqrt()
        return d.pow(-self.spec.beta)


class Dropout(nn.Module):
    """PyTorch's own dropout, or in training a product with the factors of a `mask`."""

    def __init__(self, spec: DropoutSpec) -> None:
        super().__init__()
        self.spec = spec
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        if not (self.training and self.spec.enabled):
            return x if self.spec.inverted else x * self.spec.keep
        if self.mask is not None:
            return x * self.mask.to(x.dtype)
        return F.dropout(x, 1 - self.spec.keep, training=True)


class Sum(nn.Module):
    """The sum of the inputs, each times its coefficient."""

    def __init__(self, spec: SumSpec) -> None:
        super().__init__()
        self.coeffs = spec.coeffs or (1.0,) * len(spec.inputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute the output."""
        y, *terms = (x if c == 1 else c * x for x, c in zip(inputs, self.coeffs, strict=True))
        for term in terms:
            y = y + term
        return y


class Max(nn.Module):
    """Maximum of several inputs. Ours gives each of equal inputs the gradient, PyTorch's shares it."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute the output."""
        y, *others = inputs
        for x in others:
            y = torch.maximum(y, x)
        return y


class Concat(nn.Module):
    """The channels of all inputs."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute the output."""
        return torch.cat(inputs, dim=1)


class Select(nn.Module):
    """Some channels of the input, and channels of zeros."""

    def __init__(self, spec: SelectSpec) -> None:
        super().__init__()
        self.channels: Tensor
        # A channel of zeros is the one behind the last.
        self.register_buffer(
            "channels", torch.tensor([-1 if own is None else own for own in spec.channels]), persistent=False
        )
        self.has_zeros = None in spec.channels

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        if self.has_zeros:
            x = F.pad(x, (0, 0, 0, 0, 0, 1))
        return x.index_select(1, self.channels % x.shape[1])
