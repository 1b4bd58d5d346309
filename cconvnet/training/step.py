"""Training steps whose results are read one step late, so that a GPU has work while its loss is looked at."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cconvnet.data import Batch
from cconvnet.data.color_noise import color_shifts
from cconvnet.data.statistics import Statistics
from cconvnet.network import Network, StepResult
from cconvnet.training.settings import Progress, Settings
from cconvnet.training.stopping import Failures, TrainingStopped

# Colour shifts of a batch and the factor of its input.
_Noise = tuple[np.ndarray[Any, Any] | None, float]


@dataclasses.dataclass
class _Part:
    """A batch that the devices were given, with all that it takes to do it again.

    Attributes:
        number: Of all batches of the run; it selects the dropout masks.
        batch: The images.
        noise: The colour noise.
        result: Returns the result, once it is there.
    """

    number: int
    batch: Batch
    noise: _Noise
    result: Callable[[], StepResult]


@dataclasses.dataclass
class _Begun:
    """A step that the devices were given: its batches, whose gradients are averaged."""

    step: int
    epoch: int
    parts: list[_Part]


class Steps:
    """The training steps of a run: they move its weights, and its progress counts them.

    Args:
        network: The network.
        settings: The run's settings.
        progress: The run's progress.
        statistics: The components of the colour noise; they may be computed later.
        steps_per_epoch: The length of an epoch.
        failures: Makes the texts of errors.
    """

    def __init__(
        self,
        network: Network,
        settings: Settings,
        progress: Progress,
        statistics: Statistics,
        steps_per_epoch: int,
        failures: Failures,
    ) -> None:
        self._network, self._settings, self._progress = network, settings, progress
        self._statistics, self._steps_per_epoch, self._failures = statistics, steps_per_epoch, failures
        self._begun: _Begun | None = None

    def begin(self, batch: Batch, rates: Mapping[str, float], detect_anomaly: bool) -> None:
        """Begin a step, and read the result of the one before.

        Args:
            batch: The images.
            rates: The rate of each parameter.
            detect_anomaly: Look for values that are not finite after every layer.

        Raises:
            TrainingStopped: A value is not finite.
        """
        progress = self._progress
        shifts, scale = self._noise(len(batch))
        begun = _Begun(progress.step, progress.epoch, [])
        size, count = self._settings.batch, self._settings.accumulate
        for index in range(count):
            here = slice(index * size, (index + 1) * size)
            part, noise = batch[here], ((None if shifts is None else shifts[here]), scale)
            number = progress.step * count + index
            self._run(number, part, noise, rates if index == count - 1 else None, detect_anomaly)
            begun.parts.append(_Part(number, part, noise, self._network.result_later()))
        progress.step += 1
        progress.step_in_epoch += 1
        self.read_result()
        self._begun = begun

    def _run(
        self, number: int, batch: Batch, noise: _Noise, rates: Mapping[str, float] | None, checked: bool
    ) -> None:
        """Run the passes of a batch, and the update by all gradients of the step where rates are given."""
        network, progress, momentum = self._network, self._progress, self._settings.momentum
        network.load(*batch.inputs, *noise)
        if not checked:
            if rates is None:
                network.accumulate(number)
            else:
                network.train_step(number, rates, momentum)
            return
        if rates is None:
            bad = network.checked_accumulate(number)
        else:
            bad = network.checked_step(number, rates, momentum)
        if bad is not None:
            found = self._failures.of_values(progress.epoch, bad)
            raise TrainingStopped(f"stopped at step {progress.step} {found}")

    def read_result(self) -> None:
        """Wait for the result of the last step, unless it was read, and count it.

        Raises:
            TrainingStopped: The loss is not finite.
        """
        progress, network, begun = self._progress, self._network, self._begun
        if begun is None:
            return
        self._begun = None
        results = [part.result() for part in begun.parts]
        for part, result in zip(begun.parts, results, strict=True):
            if result.finite:
                continue
            # The step moved no weight, so it can be done again.
            network.load(*part.batch.inputs, *part.noise)
            network.forward(train=True, step=part.number)
            found = self._failures.of_values(begun.epoch, network.find_bad())
            losses = {"the loss": result.loss}
            losses |= {f"the loss of {name}": loss for name, loss in result.head_losses.items()}
            what, loss = next(pair for pair in losses.items() if not math.isfinite(pair[1]))
            raise TrainingStopped(f"{what} is {loss} at step {begun.step} {found}")
        for result in results:
            progress.window.add(result)
            progress.epoch_tally.add(result)

    def _noise(self, count: int) -> _Noise:
        """Return the colour shifts of the next batch and its input's factor; None and 1 without noise."""
        progress, settings = self._progress, self._settings
        sigma, ends = settings.color_noise, settings.color_noise_epochs
        if not sigma or (ends is not None and progress.step / self._steps_per_epoch >= ends):
            return None, 1.0
        colors = self._statistics.colors
        assert colors is not None
        first = progress.step_in_epoch * settings.step_images
        shifts = color_shifts(colors, sigma, count, settings.seed, progress.epoch, first)
        return shifts, 1.0 / (1.0 + sigma) if settings.color_noise_shrinks else 1.0
