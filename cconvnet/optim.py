"""Stochastic gradient descent with momentum, as in Krizhevsky et al. 2012, section 5."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cconvnet._problem import SgdProblem
from cconvnet.backends import Device


@dataclass
class Parameter:
    """One learned tensor on one device.

    Attributes
        value, gradient, velocity: arrays of one shape on `device`.
        lr_scale: multiplies the trainer's rate; 0 freezes the parameter.
        weight_decay: the gradient of 1/2 weight_decay * |w|^2 is added to the loss's.
    """

    name: str
    device: Device
    value: Any
    gradient: Any
    velocity: Any
    lr_scale: float
    weight_decay: float

    @property
    def layer(self) -> str:
        """The name of the layer it belongs to."""
        return self.name.split(".")[0]

    @property
    def of(self) -> str:
        """What it is there: "weight" or "bias"."""
        return self.name.split(".")[1]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def count(self) -> int:
        return int(self.value.size)


# A rate lasts for many steps, so the problems of one rate are made once.
@functools.lru_cache(maxsize=1024)
def _problem(count: int, lr: float, momentum: float, weight_decay: float) -> SgdProblem:
    return SgdProblem(count, lr, momentum, weight_decay)


def update(parameters: Iterable[Parameter], lr: float | Mapping[str, float], momentum: float) -> None:
    """v = momentum*v - rate*(g + weight_decay*w); w = w + v, for every parameter not frozen.

    The rate is lr*lr_scale, where `lr` is one number or a number for each parameter's name; there 0 freezes.
    """
    for p in parameters:
        rate = lr[p.name] if isinstance(lr, Mapping) else lr
        if p.lr_scale == 0 or (isinstance(lr, Mapping) and rate == 0):
            continue
        with p.device as device:
            problem = _problem(p.count, rate * p.lr_scale, momentum, p.weight_decay)
            device.module.sgd_update(problem, p.gradient, p.velocity, p.value, device.stream)
