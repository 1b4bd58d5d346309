"""The line that shows how far a training is."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator

from cconvnet.console import Reporter, percent
from cconvnet.data import Batch
from cconvnet.training.settings import Progress, Settings
from cconvnet.training.time_left import Pace, Stopwatch


class Display:
    """The progress of a training for a reporter.

    Attributes:
        last_step: The step after which this session ends.
    """

    def __init__(
        self, reporter: Reporter, settings: Settings, progress: Progress, pace: Pace, steps_per_epoch: int
    ) -> None:
        self._reporter, self._settings, self._progress = reporter, settings, progress
        self._pace, self._steps_per_epoch = pace, steps_per_epoch
        self.last_step = 0

    def begin(self, last_step: int) -> None:
        """Show the first line of a session that ends after `last_step`."""
        self.last_step = last_step
        self._reporter.begin(self._epoch(), last_step, self._progress.step)

    def show_step(self) -> None:
        """Show a training step."""
        self._reporter.step(self._progress.step, self._epoch(), self._values, self.seconds_left)

    def show_test(self, batches: Iterable[Batch], count: int) -> Iterator[Batch]:
        """Return the batches of a test of `count` images, and show each."""
        title, done, watch = f"{self._epoch()}, testing", 0, Stopwatch()
        for batch in batches:
            self._pace.count_test(watch.seconds, done / count)
            values = functools.partial("{:,}/{:,} images".format, done, count)
            self._reporter.step(self._progress.step, title, values, self.seconds_left)
            yield batch
            done += len(batch)

    def end_epoch(self, images_per_second: float) -> None:
        """Print the errors and the speed of the epoch that ended."""
        progress, train, test = self._progress, self._progress.last_train, self._progress.last_test
        assert train is not None and test is not None
        self._reporter.say(
            f"epoch {progress.epoch}/{self._settings.epochs}: "
            f"test error {percent(test['test_error_top1'])}, "
            f"training error {percent(train['train_error_top1'])}, "
            f"loss {train['train_loss']:.4f}, "
            f"{images_per_second:,.0f} images/s"
        )

    def lower_lr(self, lr: float, patience: int) -> None:
        """Print that a plateau of `patience` epochs divided the rates."""
        self._reporter.say(
            f"lr: {lr:g} from here on, a tenth: the test error has not fallen for {patience} "
            f"epoch{'s' * (patience > 1)}"
        )

    def seconds_left(self) -> float | None:
        """Return the time until this session ends, with the tests at the ends of epochs and at its own."""
        step, last, per_epoch = self._progress.step, self.last_step, self._steps_per_epoch
        ends = last // per_epoch - self._progress.epoch + bool(last % per_epoch)
        return self._pace.left(last - step, ends)

    def _epoch(self) -> str:
        epoch = min(self._progress.epoch + 1, self._settings.epochs)
        return f"epoch {epoch}/{self._settings.epochs}"

    def _values(self) -> str:
        tally = self._progress.epoch_tally
        speed = f"{self._settings.step_images / (self._pace.step_seconds or math.inf):,.0f} images/s"
        if tally.count == 0:
            return speed
        return f"loss {tally.mean_loss:.4f}  error {percent(tally.error_top1)}  {speed}"
