"""Parameters, and stochastic gradient descent with momentum, as in Krizhevsky et al. 2012, section 5.

A parameter is updated in one of two ways, to the same bits. Either all gradients are computed first and
:func:`moves` lists the pieces that :func:`update` then changes. Or each layer updates its pieces as soon as
it has their gradients, by :class:`FusedUpdates`. These move biases and the like together at the end of a
step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cconvnet._problem import LarsProblem, NormLimitProblem, SgdProblem
from cconvnet.checks import real
from cconvnet.devices import Device

Array = np.ndarray[Any, Any]


@dataclass
class Piece:
    """A part of a parameter on one device.

    Attributes:
        parameter: the whole.
        device: where its arrays are.
        value: float array on `device`.
        gradient: likewise, of the same shape.
        velocity: likewise, the last change of the value.
        working: what products read: `value` itself, or `value` rounded to bfloat16.
        view: the shape of the whole in which `index` selects this piece.
        index: this piece of the whole.
        gradients: the sum of the gradients of earlier batches of the step; None where they are not summed.
        collected: whether `velocity` is host memory into which it is collected from several processes.
    """

    parameter: Parameter
    device: Device
    value: Any
    gradient: Any
    velocity: Any
    working: Any
    view: tuple[int, ...]
    index: tuple[slice, ...]
    gradients: Any = None
    collected: bool = False

    def host(self, tensor: str) -> Array:
        """Return a host copy of its "value", "gradient" or "velocity"."""
        array = getattr(self, tensor)
        return np.array(array) if self._on_host(tensor) else self.device.host(array)

    def fill(self, tensor: str, host: Array) -> None:
        """Copy a host array of its shape into its "value", "gradient" or "velocity"."""
        array = getattr(self, tensor)
        if self._on_host(tensor):
            array[...] = host
        else:
            self.device.fill(array, host)

    def _on_host(self, tensor: str) -> bool:
        return self.collected and tensor == "velocity"

    @property
    def rounded(self) -> Any:
        """The working copy; None where it is the value itself."""
        return None if self.working is self.value else self.working

    def be_part_of(self, wholes: Sequence[Any], first: int, release: Callable[..., None]) -> None:
        """Let value, gradient and velocity be parts of larger arrays, instead of arrays of their own.

        Args:
            wholes: the arrays, in this order.
            first: where its parts begin.
            release: gives back the arrays of its own: (device, array).
        """
        shape, rounded, here = self.value.shape, self.rounded, slice(first, first + self.value.size)
        for own in (self.value, self.gradient, self.velocity):
            release(self.device, own)
        self.value, self.gradient, self.velocity = (whole[here].reshape(shape) for whole in wholes)
        self.working = self.value if rounded is None else rounded

    def add_gradient(self, first: bool) -> None:
        """Add the gradient to the sum, or begin that with it."""
        total = self.gradient if first else self.gradients
        with self.device as device:
            device.module.add(total, self.gradient, self.gradients, device.stream, beta=float(not first))

    def average_gradient(self, count: int) -> None:
        """Replace the gradient by the mean of it and the `count` that are summed."""
        part = 1 / (count + 1)
        with self.device as device:
            device.module.add(
                self.gradients, self.gradient, self.gradient, device.stream, alpha=part, beta=part
            )

    def round(self) -> None:
        """Round the value into the working copy again, after it has changed."""
        if self.rounded is not None:
            with self.device as device:
                device.module.to_bf16(self.value, self.working, device.stream)

    def limit_norm(self) -> None:
        """Apply the parameter's contrast limits, then its norm limit, after an update."""
        parameter, outputs = self.parameter, len(self.value)
        weights = self.value.size // outputs
        limits = []
        if parameter.contrast_limits is not None:
            low, high = parameter.contrast_limits
            limits.append(NormLimitProblem(outputs, weights, high, low, centered=True))
        if parameter.norm_limit > 0:
            limits.append(NormLimitProblem(outputs, weights, parameter.norm_limit))
        with self.device as device:
            for limit in limits:
                device.module.limit_norm(limit, self.value, device.stream)
        if limits:
            self.round()


@dataclass
class Parameter:
    """One learned tensor, whole on one device or in pieces on several.

    Attributes:
        name: "conv1.weight", "conv1.bias"; with several inputs "conv3.weight.0".
        layer: the layer's name.
        of: "weight" or "bias"; "mean" or "variance" of a running average.
        shape: of the whole.
        first: returns the whole's first value.
        fan_in: how many weights an output has.
        rate_factor: multiplies the learning rate; 0 freezes the parameter. It is the lr_scale of the spec.
        weight_decay: the gradient of 1/2 weight_decay * |w|^2 is added to the loss's.
        momentum: None: that of the update.
        nesterov: whether its momentum is Nesterov's.
        norm_limit: the largest Euclidean norm of an output's weights, value[k]; 0: none.
        lr_curve: the fall of its rate over the run, a RateCurve of cconvnet.nets; None: it stays.
        contrast_limits: the least and the largest norm of an output's weights minus their mean; None: none.
        average: the share of the gradient in the new value of a running average, which no rate moves; None:
            it is none, but learns.
        joins: whether one update may move it with others: a vector that no product reads.
        pieces: its parts, in the order of the devices.
    """

    name: str
    layer: str
    of: str
    shape: tuple[int, ...]
    first: Callable[[], Array]
    fan_in: int
    rate_factor: float
    weight_decay: float
    momentum: float | None = None
    nesterov: bool = False
    norm_limit: float = 0.0
    lr_curve: Any = None
    contrast_limits: tuple[float, float] | None = None
    average: float | None = None
    joins: bool = False
    pieces: list[Piece] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of elements of the whole."""
        return math.prod(self.shape)

    @property
    def learns(self) -> bool:
        """False of a running average."""
        return self.average is None

    @property
    def decay(self) -> float:
        """The weight decay of its updates. That of an average makes them average * (gradient - value)."""
        return self.weight_decay if self.average is None else -1.0

    def add_piece(
        self,
        device: Device,
        allocate: Callable[..., Any],
        view: Sequence[int],
        index: tuple[slice, ...],
        shape: Sequence[int],
        element: Any = np.float32,
    ) -> Piece:
        """Take memory for a part of the whole.

        Args:
            device: where the arrays are to be.
            allocate: takes the memory: (device, shape, dtype) -> array.
            view: the shape of the whole in which `index` selects the part.
            index: the part.
            shape: of the piece's arrays.
            element: the type that products read.
        """
        value, gradient, velocity = (allocate(device, tuple(shape)) for _ in range(3))
        working = value if element == np.float32 else allocate(device, tuple(shape), element)
        self.pieces.append(Piece(self, device, value, gradient, velocity, working, tuple(view), index))
        return self.pieces[-1]

    def reset(self) -> None:
        """Set the parameter to its first value, gradient and velocity to 0."""
        self.fill("value", self.first())
        for piece in self.pieces:
            zeros = np.zeros(piece.value.shape, np.float32)
            piece.fill("gradient", zeros)
            if not piece.collected:
                piece.fill("velocity", zeros)

    def host(self, tensor: str = "value") -> Array:
        """Return a host copy of the whole "value", "gradient" or "velocity"."""
        return self.whole([piece.host(tensor) for piece in self.pieces])

    def whole(self, parts: Sequence[Array]) -> Array:
        """Return the whole of host copies of its pieces; of one piece a view."""
        if len(parts) == 1:
            return parts[0].reshape(self.shape)
        whole = np.empty(self.shape, parts[0].dtype)
        for piece, part in zip(self.pieces, parts, strict=True):
            target = whole.reshape(piece.view)[piece.index]
            target[...] = part.reshape(target.shape)
        return whole

    def fill(self, tensor: str, whole: Array) -> None:
        """Write the whole "value" or "velocity" to the devices."""
        for piece in self.pieces:
            part = whole.reshape(piece.view)[piece.index]
            piece.fill(tensor, np.ascontiguousarray(part).reshape(piece.value.shape))
            if tensor == "value":
                piece.round()


# A rate lasts for many steps, so the problems of one rate are made once.
@functools.lru_cache(maxsize=1024)
def _problem(count: int, lr: float, momentum: float, weight_decay: float, nesterov: bool) -> SgdProblem:
    return SgdProblem(count, lr, momentum, weight_decay, nesterov)


def _rates(parameter: Parameter, lr: float | Mapping[str, float], momentum: float) -> tuple[float, float]:
    """The learning rate and the momentum of one parameter."""
    if parameter.average is not None:
        return -parameter.average, 0.0
    rate = parameter.rate_factor * real("lr", lr[parameter.name] if isinstance(lr, Mapping) else lr)
    return rate, real("momentum", momentum if parameter.momentum is None else parameter.momentum)


def moves(
    parameters: Iterable[Parameter], lr: float | Mapping[str, float], momentum: float
) -> Iterator[tuple[Piece, float, float]]:
    """List the pieces of all parameters that are not frozen, each with its learning rate and momentum.

    Args:
        parameters: the parameters.
        lr: one rate, or each parameter's by its name; multiplied by the parameter's rate_factor.
        momentum: of parameters that have none of their own.
    """
    for parameter in parameters:
        rate, kept = _rates(parameter, lr, momentum)
        if rate == 0:
            continue
        for piece in parameter.pieces:
            yield piece, rate, kept


def update(piece: Piece, rate: float, momentum: float) -> None:
    """Compute v = momentum * v - rate * (g + weight_decay * w) and w = w + v, then apply the limits.

    With Nesterov's momentum w = w + momentum * v - rate * (g + weight_decay * w), with the new v.
    """
    parameter = piece.parameter
    with piece.device as device:
        device.module.sgd_update(
            _problem(piece.value.size, rate, momentum, parameter.decay, parameter.nesterov),
            piece.gradient,
            piece.velocity,
            piece.value,
            device.stream,
            w_bf16=piece.rounded,
        )
    piece.limit_norm()


_VECTOR = 4  # floats; kernels load as many at once where an array begins at a multiple of them


class JoinedVectors:
    """Vectors that are neighbours in memory, so that one update can move them all.

    Attributes:
        parameters: whose they are, each with one piece.
        value: float[count] on the device, the values of all pieces, with zeros between them.
        gradient: likewise.
        velocity: likewise.
    """

    TENSORS = ("value", "gradient", "velocity")

    def __init__(
        self,
        parameters: Sequence[Parameter],
        device: Device,
        allocate: Callable[..., Any],
        release: Callable[..., None],
    ) -> None:
        self.parameters = list(parameters)
        starts = [0]
        for parameter in parameters:
            starts.append(starts[-1] + -(-parameter.count // _VECTOR) * _VECTOR)
        count = starts[-1]
        self.value, self.gradient, self.velocity = (allocate(device, (count,)) for _ in self.TENSORS)
        for parameter, begin in zip(parameters, starts, strict=False):
            (piece,) = parameter.pieces
            piece.be_part_of((self.value, self.gradient, self.velocity), begin, release)

    def reset(self, device: Device) -> None:
        """Set all values, gradients and velocities to 0."""
        for tensor in self.TENSORS:
            device.fill(getattr(self, tensor), np.zeros(self.value.shape, np.float32))


def _joinable(parameters: Iterable[Parameter]) -> list[list[Parameter]]:
    """Return groups of two or more vectors whose updates differ in nothing but their arrays."""
    groups: dict[Any, list[Parameter]] = {}
    for parameter in parameters:
        if not parameter.joins or len(parameter.pieces) != 1:
            continue
        key = (
            *(parameter.rate_factor, parameter.decay, parameter.average),
            *(parameter.momentum, parameter.nesterov, parameter.lr_curve),
        )
        groups.setdefault(key, []).append(parameter)
    return [group for group in groups.values() if len(group) > 1]


class DeviceRates:
    """The rates of all parameters on one device, so that a captured graph reads the current ones.

    With LARS the rate of weights is in proportion to their norm and that of their gradient; each piece of a
    parameter has a rate of its own then.

    Source: You, Gitman, Ginsburg 2017, "Large batch training of convolutional networks".

    Attributes:
        halt: int32[1] on the device; while it is not 0, no parameter moves.
        frozen: the names of the parameters whose rate is 0.
        lars: the ratio of a step to the weights; 0: rates are those that are set.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        device: Device,
        allocate: Callable[..., Any],
        lars: float = 0.0,
    ) -> None:
        """Take memory for the rates.

        Args:
            parameters: all of the network.
            device: where they are.
            allocate: takes memory for as long as the network lives: (device, shape, dtype) -> array.
            lars: the ratio of a step to the weights.
        """
        self.frozen: frozenset[str] = frozenset()
        self.halt = allocate(device, (1,), np.int32)
        self._device = device
        self._parameters = list(parameters)
        self._rates = allocate(device, (len(self._parameters), 2))
        self._rates_of = {
            parameter.name: self._rates[index] for index, parameter in enumerate(self._parameters)
        }
        self._last: Array | None = None
        self.lars = real("lars", lars, low=0, high=1)
        self._scaled: dict[int, tuple[LarsProblem, Any]] = {}  # by the piece's id: of its own rates
        scaled = [piece for one in self._parameters if self.scales(one) for piece in one.pieces]
        own = allocate(device, (len(scaled), 2)) if scaled else ()
        for piece, rates in zip(scaled, own, strict=True):
            problem = LarsProblem(piece.value.size, self.lars, piece.parameter.decay)
            self._scaled[id(piece)] = problem, rates
        sizes = [device.module.lars_rate_workspace(problem) for problem, _ in self._scaled.values()]
        self._workspace = allocate(device, (max(sizes),), np.uint8) if sizes and max(sizes) else None

    def scales(self, parameter: Parameter) -> bool:
        """True if the rate of a parameter depends on its gradient."""
        return self.lars > 0 and parameter.of == "weight"

    def scale(self, piece: Piece) -> None:
        """Find the rate of a piece by its gradient, if it depends on that."""
        if (found := self._scaled.get(id(piece))) is not None:
            problem, own = found
            device, rates = self._device, self._rates_of[piece.parameter.name]
            device.module.lars_rate(
                problem, piece.value, piece.gradient, rates, own, self._workspace, device.stream
            )

    def set_rates(self, lr: float | Mapping[str, float], momentum: float) -> None:
        """Set the rates from now on, as for :func:`moves`."""
        rates = np.array([_rates(parameter, lr, momentum) for parameter in self._parameters], np.float32)
        if self._last is None or not np.array_equal(rates, self._last):
            self._device.fill(self._rates, rates)
            self._last = rates
            self._changed({p.name: tuple(row) for p, row in zip(self._parameters, rates, strict=True)})

    def _changed(self, rates: Mapping[str, tuple[float, float]]) -> None:
        """Take note of new rates and momenta, by the parameters' names."""
        self.frozen = frozenset(name for name, (rate, _) in rates.items() if rate == 0)

    def of(self, piece: Piece) -> tuple[Any, ...] | None:
        """The arguments by which a filter gradient also updates a piece.

        None if it is frozen, or if its rate depends on the whole gradient; see :meth:`complete`.
        """
        parameter = piece.parameter
        if parameter.name in self.frozen or self.scales(parameter):
            return None
        problem = _problem(piece.value.size, 0.0, 0.0, parameter.decay, parameter.nesterov)
        return (problem, piece.velocity, piece.value, piece.rounded, self._rates_for(piece), self.halt)

    def _rates_for(self, piece: Piece) -> Any:
        """The rate and the momentum of a piece, on the device."""
        _, own = self._scaled.get(id(piece), (None, None))
        return self._rates_of[piece.parameter.name] if own is None else own

    def apply(self, piece: Piece) -> None:
        """Update a piece by its gradient."""
        self.scale(piece)
        self.move(piece, piece.gradient, piece.velocity, piece.value, piece.rounded)
        piece.limit_norm()

    def complete(self, piece: Piece, updated: bool) -> None:
        """Do what is left of a piece's update behind its gradient.

        Args:
            piece: the piece, which is not frozen.
            updated: whether the operation that computed the gradient took the arguments of :meth:`of`.
        """
        if updated:
            piece.limit_norm()
        else:
            self.apply(piece)

    def move(self, piece: Piece, gradient: Any, velocity: Any, value: Any, rounded: Any = None) -> None:
        """Update values of a piece, or others of equal rates, by their gradients."""
        device, parameter = self._device, piece.parameter
        device.module.sgd_update(
            _problem(value.size, 0.0, 0.0, parameter.decay, parameter.nesterov),
            gradient,
            velocity,
            value,
            device.stream,
            w_bf16=rounded,
            rates=self._rates_for(piece),
            halt=self.halt,
        )


class FusedUpdates(DeviceRates):
    """Updates on one device that layers do themselves as soon as they have a gradient.

    Vectors of equal rates are joined, as a bias alone is a launch for little work; :meth:`finish` moves them.

    Attributes:
        groups: the vectors that may move together.
        joined: the names of those that do, by `finish`, since their rates are equal.
        beside: takes the work of layers that learn beside others; None: they do it at once.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        device: Device,
        allocate: Callable[..., Any],
        release: Callable[..., None],
        lars: float = 0.0,
    ) -> None:
        """Join vectors.

        Args:
            parameters: all of the network, whose pieces are not yet used.
            device: where they are.
            allocate: takes memory for as long as the network lives: (device, shape, dtype) -> array.
            release: gives back what it took: (device, array).
            lars: the ratio of a step to the weights; 0: rates are those that are set.
        """
        super().__init__(parameters, device, allocate, lars)
        self.joined: frozenset[str] = frozenset()
        self.beside: Callable[[Callable[[], None]], None] | None = None
        self.groups = [JoinedVectors(one, device, allocate, release) for one in _joinable(self._parameters)]

    def reset(self) -> None:
        """Set the joined vectors to 0, before the parameters are set to their first values; halt nothing."""
        self._device.fill(self.halt, np.zeros(1, np.int32))
        for group in self.groups:
            group.reset(self._device)

    def _changed(self, rates: Mapping[str, tuple[float, float]]) -> None:
        super()._changed(rates)
        self.joined = frozenset(
            parameter.name
            for group in self.groups
            if len({rates[parameter.name] for parameter in group.parameters}) == 1
            for parameter in group.parameters
        )

    def apply(self, piece: Piece) -> None:
        """Update a piece by its gradient, unless it is joined with others."""
        if piece.parameter.name not in self.joined and piece.parameter.name not in self.frozen:
            super().apply(piece)

    def finish(self) -> None:
        """Update the joined vectors, once all of them have their gradients."""
        for group in self.groups:
            first = group.parameters[0]
            if first.name in self.joined and first.name not in self.frozen:
                self.move(first.pieces[0], group.gradient, group.velocity, group.value)
