"""Parameters, and stochastic gradient descent with momentum, as in Krizhevsky et al. 2012, section 5."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cconvnet._problem import NormLimitProblem, SgdProblem
from cconvnet.checks import real
from cconvnet.devices import Device
from cconvnet.nets import RateCurve

Array = np.ndarray[Any, Any]


@dataclass
class Piece:
    """A part of a parameter on one device.

    Attributes
        value, gradient, velocity: float arrays of one shape on `device`.
        working: what products read: `value` itself, or it rounded to bfloat16.
        index: where the piece lies in the whole, viewed in the shape `view`.
    """

    parameter: Parameter
    device: Device
    value: Any
    gradient: Any
    velocity: Any
    working: Any
    view: tuple[int, ...]
    index: tuple[slice, ...]

    @property
    def rounded(self) -> Any:
        """The working copy, None where it is the value itself."""
        return None if self.working is self.value else self.working

    def round(self) -> None:
        """Makes the working copy anew after the value has changed."""
        if self.rounded is not None:
            with self.device as device:
                device.module.to_bf16(self.value, self.working, device.stream)

    def limit_norm(self) -> None:
        """Keeps the parameter's contrast limits, then its norm limit, after an update."""
        p, rows = self.parameter, len(self.value)
        limits = []
        if p.contrast_limits is not None:
            low, high = p.contrast_limits
            limits.append(NormLimitProblem(rows, self.value.size // rows, high, low, centered=True))
        if p.norm_limit > 0:
            limits.append(NormLimitProblem(rows, self.value.size // rows, p.norm_limit))
        with self.device as device:
            for limit in limits:
                device.module.limit_norm(limit, self.value, device.stream)
        if limits:
            self.round()


@dataclass
class Parameter:
    """One learned tensor, whole on one device or in pieces on several.

    Attributes
        name: "conv1.weight", "conv1.bias"; with several inputs "conv3.weight.0".
        layer, of: the layer's name, and "weight" or "bias".
        shape: of the whole.
        first: makes the whole's first value. fan_in: how many weights an output has.
        lr_scale: multiplies the trainer's rate; 0 freezes the parameter.
        weight_decay: the gradient of 1/2 weight_decay * |w|^2 is added to the loss's.
        momentum: None: the trainer's.
        norm_limit: the largest Euclidean norm of an output's weights, value[k]; 0: none.
        lr_curve: how its rate falls over the run; None: it stays.
        contrast_limits: the least and the largest norm of an output's weights minus their mean; None: none.
    """

    name: str
    layer: str
    of: str
    shape: tuple[int, ...]
    first: Callable[[], Array]
    fan_in: int
    lr_scale: float
    weight_decay: float
    momentum: float | None = None
    norm_limit: float = 0.0
    lr_curve: RateCurve | None = None
    contrast_limits: tuple[float, float] | None = None
    pieces: list[Piece] = field(default_factory=list)

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def add_piece(
        self,
        device: Device,
        allocate: Callable[..., Any],
        view: Sequence[int],
        index: tuple[slice, ...],
        shape: Sequence[int],
        element: Any = np.float32,
    ) -> Piece:
        """Takes memory for the part `index` of the whole, as arrays of the given shape; products read it as
        `element`."""
        value, gradient, velocity = (allocate(device, tuple(shape)) for _ in range(3))
        working = value if element == np.float32 else allocate(device, tuple(shape), element)
        self.pieces.append(Piece(self, device, value, gradient, velocity, working, tuple(view), index))
        return self.pieces[-1]

    def reset(self) -> None:
        """Gives the parameter its first value, without gradient and velocity."""
        self.fill("value", self.first())
        for what in ("gradient", "velocity"):
            for piece in self.pieces:
                piece.device.fill(getattr(piece, what), np.zeros(piece.value.shape, np.float32))

    def host(self, what: str = "value") -> Array:
        """A host copy of the whole "value", "gradient" or "velocity"."""
        return self.whole([piece.device.host(getattr(piece, what)) for piece in self.pieces])

    def whole(self, parts: Sequence[Array]) -> Array:
        """The whole of host copies of its pieces; of one piece a view."""
        if len(parts) == 1:
            return parts[0].reshape(self.shape)
        whole = np.empty(self.shape, parts[0].dtype)
        for piece, part in zip(self.pieces, parts, strict=True):
            target = whole.reshape(piece.view)[piece.index]
            target[...] = part.reshape(target.shape)
        return whole

    def fill(self, what: str, whole: Array) -> None:
        """Writes the whole "value" or "velocity" to the devices."""
        for piece in self.pieces:
            array = getattr(piece, what)
            part = whole.reshape(piece.view)[piece.index]
            piece.device.fill(array, np.ascontiguousarray(part).reshape(array.shape))
            if what == "value":
                piece.round()


# A rate lasts for many steps, so the problems of one rate are made once.
@functools.lru_cache(maxsize=1024)
def _problem(count: int, lr: float, momentum: float, weight_decay: float) -> SgdProblem:
    return SgdProblem(count, lr, momentum, weight_decay)


def _rates(p: Parameter, lr: float | Mapping[str, float], momentum: float) -> tuple[float, float]:
    rate = p.lr_scale * real("lr", lr[p.name] if isinstance(lr, Mapping) else lr)
    return rate, real("momentum", momentum if p.momentum is None else p.momentum)


def update(
    parameters: Iterable[Parameter],
    lr: float | Mapping[str, float],
    momentum: float,
    do: Callable[..., None],
) -> None:
    """v = momentum*v - lr*lr_scale*(g + weight_decay*w); w = w + v, for every parameter not frozen.

    `lr` is one rate or each parameter's by its name. Limits are applied afterwards. `do` calls the work; see
    cconvnet.network.do.
    """
    for p in parameters:
        rate, kept = _rates(p, lr, momentum)
        if rate == 0:
            continue
        for piece in p.pieces:
            do(p, piece.device, "update", _update, piece, rate, kept)


def _update(piece: Piece, rate: float, momentum: float) -> None:
    with piece.device as device:
        device.module.sgd_update(
            _problem(piece.value.size, rate, momentum, piece.parameter.weight_decay),
            piece.gradient,
            piece.velocity,
            piece.value,
            device.stream,
            w_bf16=piece.rounded,
        )
    piece.limit_norm()


class Updates:
    """Updates that layers do themselves as soon as they have a gradient, on one device.

    Rates lie on the device, so that a captured step goes on with those of its day; where `halt` is not 0
    nothing moves.

    Attributes
        frozen: the parameters that do not move at the present rates.
    """

    def __init__(self, parameters: Iterable[Parameter], device: Device, allocate: Callable[..., Any]) -> None:
        self.frozen: frozenset[str] = frozenset()
        self.halt = allocate(device, (1,), np.int32)
        self._device = device
        self._parameters = list(parameters)
        self._rates = allocate(device, (len(self._parameters), 2))
        self._row = {p.name: self._rates[row] for row, p in enumerate(self._parameters)}
        self._given: Array | None = None

    def set(self, lr: float | Mapping[str, float], momentum: float) -> None:
        """The rates from now on, as for :func:`update`."""
        rates = np.array([_rates(p, lr, momentum) for p in self._parameters], np.float32)
        if self._given is None or not np.array_equal(rates, self._given):
            self._device.fill(self._rates, rates)
            self._given = rates
            self.frozen = frozenset(
                p.name for p, row in zip(self._parameters, rates, strict=True) if row[0] == 0
            )

    def of(self, piece: Piece) -> tuple[Any, ...] | None:
        """A piece's update as a filter gradient takes it along; None if it is frozen."""
        p = piece.parameter
        if p.name in self.frozen:
            return None
        problem = _problem(piece.value.size, 0.0, 0.0, p.weight_decay)
        return (problem, piece.velocity, piece.value, piece.rounded, self._row[p.name], self.halt)

    def apply(self, piece: Piece) -> None:
        """Updates a piece by its gradient."""
        if (update := self.of(piece)) is None:
            return
        problem, velocity, value, rounded, rates, halt = update
        device = self._device
        device.module.sgd_update(
            problem, piece.gradient, velocity, value, device.stream, w_bf16=rounded, rates=rates, halt=halt
        )
        piece.limit_norm()
