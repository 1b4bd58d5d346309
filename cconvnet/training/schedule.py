"""Learning rates: the rate of each parameter of a network at each moment of the training.

A rate is a product of the first rate, of the factors of the steps that were passed, of warm-up and curve, of
a tenth for each plateau of the test error, and of the factor that a user gives a layer by name. But for
plateaus it is a function of the step alone, so that a resumed run has the same rates.
"""

from __future__ import annotations

import fnmatch
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cconvnet.checks import real
from cconvnet.errors import nearest
from cconvnet.nets import CONSTANT, LrStep, RateCurve


@dataclass(frozen=True)
class StepSchedule:
    """A rate that is multiplied at given epochs, by the factors of all epochs that were reached.

    It may also rise in a warm-up, and fall along a curve from there to the end of the run.

    Attributes:
        lr: The rate before any step, at the end of the warm-up.
        steps: Epochs, factors and layers of the changes.
        curve: The curve after the warm-up.
        warmup: The length of the warm-up in epochs; 0: none.
        warmup_from: The first rate of the warm-up, as a part of `lr`.
    """

    lr: float
    steps: tuple[LrStep, ...] = ()
    curve: RateCurve = CONSTANT
    warmup: float = 0.0
    warmup_from: float = 0.1

    def __post_init__(self) -> None:
        real("lr", self.lr, low=0)

    def at(self, epoch: float, layer: str | None = None, of: str = "weight") -> float:
        """Return the rate of a layer's weights or biases in an epoch.

        Args:
            epoch: Counted from 0, parts included.
            layer: The layer; None: the layers that no step names.
            of: "weight" or "bias".
        """
        factors = [
            step.factor
            for step in self.steps
            if epoch >= step.epoch and (not step.layers or layer in step.layers) and step.of in ("both", of)
        ]
        return self.lr * math.prod(factors)

    def course(self, epoch: float, epochs: float) -> float:
        """Return the factor of warm-up and curve.

        In a warm-up of w epochs it is f + (1 - f) e/w in epoch e, f being `warmup_from`. Then the progress of
        the curve is (e - w) / (epochs - w), so that it begins where the warm-up ends.
        Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 2.2, where f is one divided by the
        number of workers.

        Args:
            epoch: Counted from 0, parts included.
            epochs: The length of the run.
        """
        if epoch < self.warmup:
            return self.warmup_from + (1 - self.warmup_from) * (epoch / self.warmup)
        left = epochs - self.warmup
        progress = min(1.0, (epoch - self.warmup) / left) if left > 0 else 1.0
        return curve_factor(self.curve, progress, epoch - self.warmup)


def curve_factor(curve: RateCurve, progress: float, epoch: float = 0.0) -> float:
    """Return the factor of a rate's curve, from 1 at the run's beginning to 1 / curve.factor at its end.

    With f the factor, n the steps and p the progress: ``constant`` 1; ``linear`` 1 - p + p/f; ``exp`` f^-p;
    ``dexp`` f^(-i/(n-1)) in the i-th of n equal parts, 1/f if n is 1; ``jdexp`` the same, but between
    progress 0.2 and 0.9 the second half of a part has the geometric mean of its own factor and the part's
    before; ``cosine`` 1/f + (1 - 1/f) (1 + cos(pi p)) / 2; ``poly`` 1/f + (1 - 1/f) (1 - p)^power; ``epochs``
    power^e in epoch e, which is whole, but at least 1/f. Without a factor 1/f is 0.
    Sources: the original program's lr.cu; for ``cosine`` Loshchilov and Hutter 2017, "SGDR: Stochastic
    Gradient Descent with Warm Restarts", equation 5, without restarts; for ``poly`` Caffe's solver.

    Args:
        curve: The curve.
        progress: The part of the run that is done, from 0 to 1.
        epoch: Of ``epochs``: the epoch since the curve's beginning, counted from 0, parts included.
    """
    if curve.kind == "constant":
        return 1.0
    last = 0.0 if curve.factor is None else 1 / curve.factor
    if curve.kind == "linear":
        return 1 - progress + progress * last
    if curve.kind == "cosine":
        return last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2
    if curve.kind == "epochs":
        return max(last, float(curve.power ** math.floor(epoch)))
    if curve.kind == "poly":
        return float(last + (1 - last) * (1 - progress) ** curve.power)
    assert curve.factor is not None
    factor = curve.factor
    if curve.kind == "exp":
        return float(factor**-progress)
    count = curve.steps
    part = next((i for i in range(count) if progress <= (i + 1) / count), count - 1)

    def of(index: int) -> float:
        return last if index == count - 1 else float(factor ** (-index / (count - 1)))

    if curve.kind == "jdexp" and part > 0 and 0.2 < progress < 0.9 and progress > (part + 0.5) / count:
        return math.sqrt(of(part) * of(part - 1))
    return of(part)


class Parameter(Protocol):
    """The attributes of a parameter that decide its rate; see :class:`cconvnet.optim.Parameter`."""

    @property
    def layer(self) -> str:
        """The name of its layer."""

    @property
    def of(self) -> str:
        """Its part of the layer, "weight" or "bias"."""

    @property
    def learns(self) -> bool:
        """False if no rate moves it."""

    @property
    def lr_curve(self) -> RateCurve | None:
        """The curve that its rate follows."""


class Rates:
    """The rate of each parameter of a network, before the factor of its layer's spec.

    Args:
        schedule: The rates by epoch.
        parameters: The parameters by name.
        lr_scale: The factor of a layer's rates from the beginning to the end; 0 freezes the layer. A name may
            be a pattern such as "conv*"; a layer's own name wins, then the last pattern that fits.
        epochs: The length of the run, over which rates with a curve fall.
        seed: Of the noise of rates that have some.

    Raises:
        ValueError: A step or `lr_scale` names a layer without parameters; the text contains the nearest name.
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
        self._parameters = {name: own for name, own in parameters.items() if own.learns}
        layers = {parameter.layer for parameter in self._parameters.values()}
        for name in lr_scale:
            if not fnmatch.filter(layers, name) and name not in layers:
                raise ValueError(nearest("--lr-scale and --freeze: a layer", name, layers))
        for name in (name for step in schedule.steps for name in step.layers):
            if name not in layers:
                raise ValueError(nearest("lr steps: a layer", name, layers))
        self._lr_scale = {layer: _factor(lr_scale, layer) for layer in layers}

    def general(self, epoch: float, divisions: int = 0) -> float:
        """Return the rate of weights without a curve that neither a step nor `lr_scale` names.

        Args:
            epoch: Counted from 0, parts included.
            divisions: The number of plateaus so far.
        """
        return self._schedule.at(epoch) * 0.1**divisions * self._schedule.course(epoch, self._epochs)

    def at(self, epoch: float, divisions: int = 0, step: int = 0) -> dict[str, float]:
        """Return the rate of every parameter by its name.

        Args:
            epoch: Counted from 0, parts included.
            divisions: The number of plateaus so far.
            step: The training step, which decides the noise.
        """
        course = self._schedule.course(epoch, self._epochs)
        return {
            name: self._schedule.at(epoch, part.layer, part.of)
            * 0.1**divisions
            * course
            * self._lr_scale[part.layer]
            * self._of_curve(name, part.lr_curve, epoch, step)
            for name, part in self._parameters.items()
        }

    def _of_curve(self, name: str, curve: RateCurve | None, epoch: float, step: int) -> float:
        if curve is None:
            return 1.0
        factor = curve_factor(curve, min(1.0, epoch / self._epochs), epoch)
        if curve.noise:
            # A function of the step, so that a resumed run draws the same.
            draws = np.random.Philox(key=[self._seed, zlib.crc32(name.encode())], counter=step)
            factor *= 1 + curve.noise * abs(float(np.random.Generator(draws).standard_normal()))
        return factor


def on_plateau(epoch: int, best_epoch: int, divisions: list[int], patience: int) -> bool:
    """Return True if the rates fall after this epoch, as the test error has not fallen for `patience` epochs.

    They are counted from the epoch with the lowest error, or from the last time the rates fell.

    Args:
        epoch: The number of epochs done.
        best_epoch: The epoch after which the error was lowest.
        divisions: The epochs after which the rates fell before.
        patience: 0 means never.
    """
    return patience > 0 and epoch - max([best_epoch, *divisions]) >= patience


def _factor(lr_scale: Mapping[str, float], layer: str) -> float:
    """Return the factor of a layer's rates."""
    fitting = [factor for name, factor in lr_scale.items() if fnmatch.fnmatchcase(layer, name)]
    return lr_scale.get(layer, fitting[-1] if fitting else 1.0)
