"""Training steps whose results are read one step late, so that a GPU has work while its loss is looked at."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cconvnet.data import Batch
from cconvnet.data.color_noise import color_shifts
from cconvnet.data.statistics import Statistics
from cconvnet.evaluate import Tally
from cconvnet.network import Network, StepResult
from cconvnet.network.anomaly import Anomaly
from cconvnet.training.settings import Progress, Settings
from cconvnet.training.stopping import Failures, StoppedTogether
from cconvnet.training.team import Team

# Colour shifts of a batch and the factor of its input.
_Noise = tuple[np.ndarray[Any, Any] | None, float]


@dataclasses.dataclass
class _Part:
    """A batch that the devices were given, with all that it takes to do it again.

    Attributes:
        number: Of all batches of the run; it selects the dropout masks.
        first_row: The place of the first image in the batch of which it is a shard.
        batch: The images.
        noise: The colour noise.
        result: Returns the result, once it is there.
    """

    number: int
    first_row: int
    batch: Batch
    noise: _Noise
    result: Callable[[], StepResult] = dataclasses.field(init=False)


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
        team: The ranks that do the steps together.
    """

    def __init__(
        self,
        network: Network,
        settings: Settings,
        progress: Progress,
        statistics: Statistics,
        steps_per_epoch: int,
        failures: Failures,
        team: Team,
    ) -> None:
        self._network, self._settings, self._progress, self._team = network, settings, progress, team
        self._statistics, self._steps_per_epoch, self._failures = statistics, steps_per_epoch, failures
        self._begun: _Begun | None = None

    def begin(self, batch: Batch, rates: Mapping[str, float], detect_anomaly: bool) -> None:
        """Begin a step, and read the result of the one before.

        Args:
            batch: The images of this rank.
            rates: The rate of each parameter.
            detect_anomaly: Look for values that are not finite after every layer.

        Raises:
            TrainingStopped: A value is not finite.
        """
        progress = self._progress
        shifts, scale = self._noise(len(batch))
        begun = _Begun(progress.step, progress.epoch, [])
        size, count = self._settings.pass_images, self._settings.accumulate
        share = self._team.share
        shards = range(1) if share is None else share.own
        places = [(shard, index) for shard in shards for index in range(count)]
        for place, (shard, index) in enumerate(places):
            here = slice(place * size, (place + 1) * size)
            noise = ((None if shifts is None else shifts[here]), scale)
            part = _Part(progress.step * count + index, shard * size, batch[here], noise)
            begun.parts.append(part)
            if self._is_hybrid:
                continue
            self._load(part)
            if place == len(places) - 1:
                bad = self._update(part, rates, detect_anomaly)
            else:
                bad = self._accumulate(part, share is not None and index == count - 1, detect_anomaly)
            if bad is not None:
                found = self._failures.of_values(progress.epoch, bad)
                raise StoppedTogether(f"stopped at step {progress.step} {found}")
            part.result = self._network.result_later()
        if self._is_hybrid:
            loads = [functools.partial(self._load, part) for part in begun.parts]
            results = self._network.train_together(loads, rates, self._settings.momentum)
            for part, result in zip(begun.parts, results, strict=True):
                part.result = result
        progress.step += 1
        progress.step_in_epoch += 1
        self.read_result()
        self._begun = begun

    @property
    def _is_hybrid(self) -> bool:
        """True if ranks compute FC layers together, so that all batches of a step are one piece of work."""
        share = self._team.share
        return share is not None and share.hybrid

    def _load(self, part: _Part) -> int:
        """Load a batch, and return its number."""
        self._network.load(*part.batch.inputs, *part.noise, first_row=part.first_row)
        return part.number

    def _accumulate(self, part: _Part, ends_shard: bool, checked: bool) -> Anomaly | None:
        """Run the passes of a batch before the last, and return the first bad value if they are checked."""
        if checked:
            bad = self._network.checked_accumulate(part.number, ends_shard)
            # The others learn of it where they agree next.
            return None if bad is None else self._team.first_anomaly(bad)
        self._network.accumulate(part.number, ends_shard)
        return None

    def _update(self, part: _Part, rates: Mapping[str, float], checked: bool) -> Anomaly | None:
        """Run the passes of the last batch and the update, and return the first bad value likewise."""
        if checked:
            momentum, agree = self._settings.momentum, self._team.first_anomaly
            return self._network.checked_step(part.number, rates, momentum, agree)
        self._network.train_step(part.number, rates, self._settings.momentum)
        return None

    def read_result(self) -> None:
        """Wait for the result of the last step, unless it was read, and count it.

        Raises:
            TrainingStopped: The loss is not finite.
        """
        progress, network, begun = self._progress, self._network, self._begun
        if begun is None:
            return
        self._begun = None
        # On GPUs this is where a rank waits for transfers that others have not begun.
        with self._team.world.watchdog.waiting():
            results = [part.result() for part in begun.parts]
        found = self._team.meet(network, [(Tally.of(result), result.finite) for result in results])
        if not all(finite for _, finite in found):
            network.share_weights()
            own = (part for part, result in zip(begun.parts, results, strict=True) if not result.finite)
            bad = self._team.first_anomaly(self._find_bad(next(own, None)))
            tally = next(tally for tally, finite in found if not finite)
            losses = {"the loss": tally.mean_loss}
            losses |= {f"the loss of {name}": loss for name, loss in tally.mean_head_losses.items()}
            what, loss = next(pair for pair in losses.items() if not math.isfinite(pair[1]))
            where = self._failures.of_values(begun.epoch, bad)
            raise StoppedTogether(f"{what} is {loss} at step {begun.step} {where}")
        for tally, _ in found:
            progress.window.add(tally)
            progress.epoch_tally.add(tally)

    def _find_bad(self, part: _Part | None) -> Anomaly | None:
        """Return the first bad value of a batch of this rank; None without one."""
        if part is None:
            return None
        # The step moved no weight, so it can be done again.
        self._load(part)
        self._network.forward(train=True, step=part.number)
        return self._network.find_bad()

    def _noise(self, count: int) -> _Noise:
        """Return the colour shifts of the next batch and its input's factor; None and 1 without noise."""
        progress, settings = self._progress, self._settings
        sigma, ends = settings.color_noise, settings.color_noise_epochs
        if not sigma or (ends is not None and progress.step / self._steps_per_epoch >= ends):
            return None, 1.0
        colors = self._statistics.colors
        assert colors is not None
        first = progress.step_in_epoch * settings.step_images + self._team.rows.start
        shifts = color_shifts(colors, sigma, count, settings.seed, progress.epoch, first)
        return shifts, 1.0 / (1.0 + sigma) if settings.color_noise_shrinks else 1.0
