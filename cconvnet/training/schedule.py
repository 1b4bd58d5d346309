"""Learning rates: which rate each parameter of a network has at a moment of the training.

A rate is a product: the first rate, the factors of the steps behind, a tenth for each time the test error
stayed on a plateau, and what a user asked for a layer by name.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cconvnet.checks import real
from cconvnet.errors import nearest
from cconvnet.nets import LrStep, RateCurve


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


def curve_factor(curve: RateCurve, progress: float) -> float:
    """The factor of a rate's curve, from 1 at the run's begin to 1 / curve.factor at its end.

    With f the factor, n the steps and p the progress: ``linear`` 1 - p + p/f; ``exp`` f^-p; ``dexp``
    f^(-i/(n-1)) in the i-th of n equal parts, 1/f if n is 1; ``jdexp`` the same, but between progress 0.2 and
    0.9 the second half of a part has the geometric mean of its own factor and the part's before.
    Source: the original program's lr.cu.

    Args
        progress: the part of the run that is done, from 0 to 1.
    """
    last = 1 / curve.factor
    if curve.kind == "linear":
        return 1 - progress + progress * last
    if curve.kind == "exp":
        return float(curve.factor**-progress)
    count = curve.steps
    part = next((i for i in range(count) if progress <= (i + 1) / count), count - 1)

    def of(index: int) -> float:
        return last if index == count - 1 else float(curve.factor ** (-index / (count - 1)))

    if curve.kind == "jdexp" and part > 0 and 0.2 < progress < 0.9 and progress > (part + 0.5) / count:
        return math.sqrt(of(part) * of(part - 1))
    return of(part)


class Parameter(Protocol):
    """What has to be known of a parameter: see cconvnet.optim.Parameter."""

    @property
    def layer(self) -> str: ...

    @property
    def of(self) -> str: ...

    @property
    def lr_curve(self) -> RateCurve | None: ...


class Rates:
    """The rate of each parameter of a network, before the factor that its layer's spec gives it.

    Args
        schedule: the rates by epoch.
        parameters: by name; each has a `layer`, and what it is `of` there, "weight" or "bias".
        lr_scale: what the rates of a layer are multiplied by from beginning to end; 0 freezes it.
        epochs: how long the run is, over which rates with a curve fall.
        seed: of the noise of rates that have some.

    Raises
        ValueError: a step or `lr_scale` names a layer that has no parameters; the text has the nearest.
    """

    def __init__(
        self,
        schedule: StepSchedule,
        parameters: Mapping[str, Parameter],
        lr_scale: Mapping[str, float],
        epochs: float,
        seed: int = 0,
    ) -> None:
        self._schedule, self._epochs, self._seed = schedule, epochs, seed
        self._parameters = dict(parameters)
        self._lr_scale = dict(lr_scale)
        layers = {parameter.layer for parameter in self._parameters.values()}
        named = [("--lr-scale and --freeze: a layer", name) for name in lr_scale]
        named += [("lr steps: a layer", name) for step in schedule.steps for name in step.layers]
        for what, name in named:
            if name not in layers:
                raise ValueError(nearest(what, name, layers))

    def general(self, epoch: float, divisions: int = 0) -> float:
        """The rate of weights with no curve that neither a step nor `lr_scale` names, after plateaus."""
        return self._schedule.at(epoch) * 0.1**divisions

    def at(self, epoch: float, divisions: int = 0, step: int = 0) -> dict[str, float]:
        """The rate of every parameter by its name, after `divisions` plateaus, in a training step."""
        return {
            name: self._schedule.at(epoch, part.layer, part.of)
            * 0.1**divisions
            * self._lr_scale.get(part.layer, 1.0)
            * self._of_curve(name, part.lr_curve, epoch, step)
            for name, part in self._parameters.items()
        }

    def _of_curve(self, name: str, curve: RateCurve | None, epoch: float, step: int) -> float:
        if curve is None:
            return 1.0
        factor = curve_factor(curve, min(1.0, epoch / self._epochs))
        if curve.noise:
            # A function of the step, so that a resumed run draws the same.
            draws = np.random.Philox(key=[self._seed, zlib.crc32(name.encode())], counter=step)
            factor *= 1 + curve.noise * abs(float(np.random.Generator(draws).standard_normal()))
        return factor


def on_plateau(epoch: int, best_epoch: int, divisions: list[int], patience: int) -> bool:
    """Whether the rates fall after this epoch: the test error has not fallen for `patience` epochs.

    They are counted from the epoch with the lowest error, or from the last time the rates fell.

    Args
        epoch: how many epochs are done; best_epoch: after which the error was lowest.
        divisions: the epochs after which the rates fell before.
        patience: 0 is never.
    """
    return patience > 0 and epoch - max([best_epoch, *divisions]) >= patience
