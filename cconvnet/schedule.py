"""Learning rates: which rate each parameter of a network has at a moment of the training.

A rate is a product: the first rate, the factors of the steps behind, a tenth for each time the test error
stayed on a plateau, and what a user asked for a layer by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cconvnet.checks import real
from cconvnet.nets.specs import LrStep, nearest


@dataclass(frozen=True)
class StepSchedule:
    """A rate that is multiplied at given epochs; the factors of all epochs reached multiply.

    Attributes
        lr: the first rate. steps: when it changes, and whose.
    """

    lr: float
    steps: tuple[LrStep, ...] = ()

    def __post_init__(self) -> None:
        real("lr", self.lr, low=0)

    def at(self, epoch: float, layer: str | None = None, of: str = "weight") -> float:
        """The rate in an epoch, counted from 0 (parts are allowed): of a layer's weights or biases.

        Without a layer it is the rate of the layers that no step names.
        """
        factors = [
            step.factor
            for step in self.steps
            if epoch >= step.epoch and (not step.layers or layer in step.layers) and step.of in ("both", of)
        ]
        return self.lr * math.prod(factors)


class Parameter(Protocol):
    """What has to be known of a parameter: see cconvnet.optim.Parameter."""

    @property
    def layer(self) -> str: ...

    @property
    def of(self) -> str: ...


class Rates:
    """The rate of each parameter of a network, before the factor that its layer's spec gives it.

    Args
        schedule: the rates by epoch.
        parameters: by name; each has a `layer`, and what it is `of` there, "weight" or "bias".
        lr_scale: what the rates of a layer are multiplied by from beginning to end; 0 freezes it.

    Raises
        ValueError: a step or `lr_scale` names a layer that has no parameters; the text has the nearest.
    """

    def __init__(
        self, schedule: StepSchedule, parameters: Mapping[str, Parameter], lr_scale: Mapping[str, float]
    ) -> None:
        self._schedule = schedule
        self._parameters = dict(parameters)
        self._lr_scale = dict(lr_scale)
        layers = {parameter.layer for parameter in self._parameters.values()}
        named = [("--lr-scale and --freeze: a layer", name) for name in lr_scale]
        named += [("lr steps: a layer", name) for step in schedule.steps for name in step.layers]
        for what, name in named:
            if name not in layers:
                raise ValueError(nearest(what, name, layers))

    def general(self, epoch: float, divisions: int = 0) -> float:
        """The rate of weights that neither a step nor `lr_scale` names, after `divisions` plateaus."""
        return self._schedule.at(epoch) * 0.1**divisions

    def at(self, epoch: float, divisions: int = 0) -> dict[str, float]:
        """The rate of every parameter by its name, after `divisions` plateaus."""
        return {
            name: self._schedule.at(epoch, part.layer, part.of)
            * 0.1**divisions
            * self._lr_scale.get(part.layer, 1.0)
            for name, part in self._parameters.items()
        }


def on_plateau(epoch: int, best_epoch: int, divisions: list[int], patience: int) -> bool:
    """Whether the rates fall after this epoch: the test error has not fallen for `patience` epochs.

    They are counted from the epoch with the lowest error, or from the last time the rates fell.

    Args
        epoch: how many epochs are done; best_epoch: after which the error was lowest.
        divisions: the epochs after which the rates fell before.
        patience: 0 is never.
    """
    return patience > 0 and epoch - max([best_epoch, *divisions]) >= patience
