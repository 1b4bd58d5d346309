"""Parameters, and stochastic gradient descent with momentum, as in Krizhevsky et al. 2012, section 5."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cconvnet._problem import NormLimitProblem, SgdProblem
from cconvnet.backends import Device

Array = np.ndarray[Any, Any]


@dataclass
class Piece:
    """A part of a parameter on one device.

    Attributes
        value, gradient, velocity: arrays of one shape on `device`.
        index: where the piece lies in the whole, viewed in the shape `view`.
    """

    device: Device
    value: Any
    gradient: Any
    velocity: Any
    view: tuple[int, ...]
    index: tuple[slice, ...]


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
    ) -> Piece:
        """Takes memory for the part `index` of the whole, as arrays of the given shape."""
        value, gradient, velocity = (allocate(device, tuple(shape)) for _ in range(3))
        self.pieces.append(Piece(device, value, gradient, velocity, tuple(view), index))
        return self.pieces[-1]

    def reset(self) -> None:
        """Gives the parameter its first value, without gradient and velocity."""
        self.fill("value", self.first())
        for what in ("gradient", "velocity"):
            for piece in self.pieces:
                piece.device.fill(getattr(piece, what), np.zeros(piece.value.shape, np.float32))

    def host(self, what: str = "value") -> Array:
        """A host copy of the whole "value", "gradient" or "velocity"."""
        parts = [piece.device.host(getattr(piece, what)) for piece in self.pieces]
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


# A rate lasts for many steps, so the problems of one rate are made once.
@functools.lru_cache(maxsize=1024)
def _problem(count: int, lr: float, momentum: float, weight_decay: float) -> SgdProblem:
    return SgdProblem(count, lr, momentum, weight_decay)


def update(parameters: Iterable[Parameter], lr: float | Mapping[str, float], momentum: float) -> None:
    """v = momentum*v - lr*lr_scale*(g + weight_decay*w); w = w + v, for every parameter not frozen.

    `lr` is one rate or each parameter's by its name. A norm limit is applied afterwards.
    """
    for p in parameters:
        rate = p.lr_scale * (lr if isinstance(lr, int | float) else lr[p.name])
        if rate == 0:
            continue
        kept = momentum if p.momentum is None else p.momentum
        for piece in p.pieces:
            with piece.device as device:
                problem = _problem(piece.value.size, rate, kept, p.weight_decay)
                device.module.sgd_update(problem, piece.gradient, piece.velocity, piece.value, device.stream)
                if p.norm_limit > 0:
                    rows = len(piece.value)
                    limit = NormLimitProblem(rows, piece.value.size // rows, p.norm_limit)
                    device.module.limit_norm(limit, piece.value, device.stream)
