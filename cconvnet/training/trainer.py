"""The loop of a training: epochs of steps, tests and checkpoints.

What a run computes is a function of its settings alone: the order of images, their crops and mirror images,
and the dropout masks depend on the seed and the step, never on the clock or on how often the run was stopped.
So a run that is killed and resumed ends with weights that are bit-identical to those of one that was not.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from cconvnet import data, nets
from cconvnet.console import Reporter, percent
from cconvnet.data.statistics import Statistics
from cconvnet.evaluate import evaluate
from cconvnet.network import Network
from cconvnet.ranks.watchdog import Watchdog
from cconvnet.ranks.world import World
from cconvnet.runs.checkpoint import COLORS, MEAN, Checkpoint
from cconvnet.runs.data_record import DataRecord, unreadable_lines
from cconvnet.runs.folder import Run
from cconvnet.training.display import Display
from cconvnet.training.log import Log, summary
from cconvnet.training.options import Options
from cconvnet.training.saver import Checkpointer, Saver
from cconvnet.training.schedule import Rates, StepSchedule
from cconvnet.training.settings import Progress, Settings
from cconvnet.training.step import Steps
from cconvnet.training.stopping import Failures, Interrupts, StoppedTogether, TrainingStopped
from cconvnet.training.team import Team
from cconvnet.training.time_left import Pace, Stopwatch


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a training: its folder, its ``summary.json``, and the signal that stopped it, if any.

    Attributes:
        path: The folder.
        summary: The contents of ``summary.json``.
        classes: The number of classes.
        signal: The signal that stopped it, or None.
    """

    path: Path
    summary: dict[str, Any]
    classes: int
    signal: int | None = None

    def lines(self, resume: str) -> list[str]:
        """Return the last lines for people; `resume` is the command that resumes the run."""
        found, lines = self.summary, []
        if self.signal is None:
            top5 = f"top 5 {percent(found['test_error_top5'])}, " if self.classes > 5 else ""
            lines.append(
                f"test error {percent(found['test_error_top1'])}, {top5}"
                f"{found['images_per_second']:,.0f} images/s on {found['device']}, "
                f"{found['steps']:,} steps in {found['seconds']:,.1f} s"
            )
        lines.append(f"files: {self.path}")
        if not found["complete"]:
            lines.append(f"stopped after step {found['steps']:,}; to resume: {resume}")
        return lines


def rates_of(settings: Settings, network: Network) -> Rates:
    """Return the learning rates of a run.

    Raises:
        ValueError: They name a layer that the network lacks.
    """
    schedule = StepSchedule(
        settings.lr, settings.lr_steps, settings.lr_schedule, settings.warmup, settings.warmup_from
    )
    return Rates(schedule, network.parameters, settings.lr_scale, settings.epochs, settings.seed)


class Trainer:
    """One run in memory: the network, its data, and how far it is.

    On several ranks each has a trainer, and all take the same turns; the first alone writes the run.

    Attributes:
        team: The ranks.
        stop: True once a signal has asked for the end.
        diverged: True if the run no longer follows the course that its newest checkpoint would lead to.
    """

    def __init__(
        self,
        run: Run,
        settings: Settings,
        network: Network,
        source: data.Source,
        reporter: Reporter,
        world: World | None = None,
    ) -> None:
        self.run = run
        self.settings = settings
        self.network = network
        self.source = source
        self.reporter = reporter
        self.stop = Interrupts()
        self.diverged = False
        self.team = team = Team(world or World.alone(), settings, lambda: self.stop.signal)
        self.progress = progress = Progress()
        self.statistics = Statistics()
        self.steps_per_epoch = per_epoch = len(source.train) // settings.step_images
        self.saver = Saver(network, run.checkpoints, writes=team.first)
        self.failures = failures = Failures(run, network, settings.lr, self.saver.settle)
        self.log = Log(run, network, progress, per_epoch, failures, team)
        content = self._checkpoint if team.first else None
        self.checkpoints = Checkpointer(self.saver, progress, self.log, failures, content)
        self.steps = Steps(network, settings, progress, self.statistics, per_epoch, failures, team)
        self.pace = Pace(len(source.test) / settings.pass_images / team.world.size)
        self.display = Display(reporter, settings, progress, self.pace, per_epoch)
        self._rates = rates_of(settings, network)
        self._data = DataRecord(run.path, source)

    def train(self, options: Options) -> Outcome:
        """Train until all epochs are done, ``options.steps`` steps are, or a signal asks to stop.

        Raises:
            TrainingStopped: Training cannot go on.
        """
        try:
            return self._train(options)
        except data.WorkerError as error:
            raise TrainingStopped(f"{error}. " + self.failures.advice()) from error
        except data.DataError as error:  # a disk that fails, or too many unreadable images
            raise TrainingStopped(f"{error}\n{self.failures.advice()}") from error

    def _train(self, options: Options) -> Outcome:
        progress, epochs = self.progress, self.settings.epochs
        with self.train_loader(options) as batches, self.test_loader(options) as tests:
            every = options.checkpoint_every
            self.team.due = lambda: every is None and self.checkpoints.due(None)
            all_steps = epochs * self.steps_per_epoch
            last_step = all_steps if options.steps is None else min(all_steps, options.steps)
            if progress.step >= last_step:
                self.reporter.say(f"nothing left to train: {progress.step:,} of {last_step:,} steps are done")
            self.pace.expect_test(progress.test_seconds)
            self.display.begin(last_step)
            # After the last step of an epoch its test may still be missing.
            goes_on = progress.step < last_step or progress.step_in_epoch == self.steps_per_epoch
            while goes_on and progress.epoch < epochs:
                goes_on = self.train_epoch(batches, tests, last_step, options)
            if progress.step != self.checkpoints.saved_step:
                self._save()
            if not self.team.stopped and (progress.last_test or {}).get("step") != progress.step:
                self._test(tests)
            with self._watchdog.phase("save"):
                self.checkpoints.wait()
            self.reporter.end()
        with self._watchdog.phase("end"):
            return self._end()

    def _end(self) -> Outcome:
        """Write the summary."""
        progress = self.progress
        self.record_data()
        found = summary(
            self.run, self.settings, progress, self.network, self.source, self.checkpoints.saved_step
        )
        with self.failures.of_disk():
            self.run.write_summary(found)
        return Outcome(self.run.path, found, len(self.settings.classes), self.team.stopped)

    def train_epoch(self, batches: data.Loader, tests: data.Loader, last_step: int, options: Options) -> bool:
        """Train the rest of an epoch, test the network, and save it where that is worth it.

        Returns:
            True if training goes on.
        """
        progress, per_epoch = self.progress, self.steps_per_epoch
        self.log.begin_epoch()
        watch = Stopwatch()
        for batch in batches.epoch(progress.epoch, progress.step_in_epoch):
            lr, rates = self.lr(), self.rates()
            self._watchdog.step(progress.step)
            self.steps.begin(batch, rates, options.detect_anomaly)
            is_logged = progress.step % options.log_every == 0
            if is_logged:
                self.steps.read_result()
            seconds = watch.lap()
            progress.count(self.settings.step_images, seconds)
            self.pace.count_step(seconds)
            self.display.show_step()
            if is_logged:
                self.log.write_window(lr, rates)
            self.checkpoints.collect()
            self.pace.writing_seconds = self.checkpoints.writing_seconds
            if self.team.stopped or progress.step >= last_step:
                break
            if progress.step_in_epoch < per_epoch and self._due(options.checkpoint_every):
                self.steps.read_result()
                self.log.count_copies()
                self._save()
                self.pace.count_pause(watch.lap())  # a checkpoint's time is not training time
        self.steps.read_result()
        progress.count(0, watch.lap())
        self.log.count_copies()  # before testing copies too
        if progress.step_in_epoch < per_epoch:
            return False

        with self._watchdog.phase("test"):
            self._check_replicas()
        if not self._test(tests):
            return False
        patience = self.settings.lr_plateau
        speed = progress.epoch_speed
        lr_falls = progress.end_epoch(patience)
        self.log.write_epoch(speed)
        every = options.checkpoint_every
        due = self.team.first and (self.checkpoints.due(every) or self.checkpoints.worth_it())
        if self.team.agree(progress.is_best or due):
            self._save()
        with self._watchdog.phase("save"):
            self.record_data()
        self.pace.count_epoch_end(watch.lap())
        self.display.end_epoch(speed)
        if lr_falls and progress.epoch < self.settings.epochs:
            self.display.lower_lr(self.lr(), patience)
        return not self.team.stopped and progress.step < last_step

    @property
    def _watchdog(self) -> Watchdog:
        return self.team.world.watchdog

    def _save(self) -> None:
        """Begin to save a checkpoint, on all ranks."""
        with self._watchdog.phase("save"):
            self.checkpoints.save()

    def _due(self, every: int | None) -> bool:
        """Return True if a checkpoint is due after this step, on all ranks or on none."""
        return self.team.save if every is None else self.checkpoints.due(every)

    def _check_replicas(self) -> None:
        """Compare the weights of all ranks.

        Raises:
            TrainingStopped: They differ.
        """
        if different := self.team.check_replicas(self.network):
            names = ", ".join(map(str, different))
            raise StoppedTogether(
                f"after step {self.progress.step:,} the weights of rank {names} differ from those of the "
                f"other ranks: a memory or a link has failed. {self.failures.advice()}"
            )

    def _test(self, tests: data.Loader) -> bool:
        """Test the network; return False if a signal came in between.

        Raises:
            TrainingStopped: The loss is not finite.
        """
        progress, watch = self.progress, Stopwatch()
        batches = self.display.show_test(tests.epoch(0), len(self.source.test))
        with self._watchdog.phase("test"):
            self.network.share_weights()
            tally = evaluate(self.network, batches, lambda: bool(self.stop), self.team.world)
            if tally is None:
                self.team.agree_on_signal()
                return False
        if not math.isfinite(tally.mean_loss):
            bad = self.team.first_anomaly(self.network.find_bad())
            found = self.failures.of_values(progress.epoch, bad)
            raise StoppedTogether(f"the test's loss is {tally.mean_loss} after step {progress.step} {found}")
        progress.test_seconds = watch.lap()
        progress.last_test = {
            "step": progress.step,
            "test_loss": tally.mean_loss,
            "test_error_top1": tally.error_top1,
            "test_error_top5": tally.error_top5,
        }
        return True

    # ---- the parts of a step ---------------------------------------------------------------------------

    @property
    def epoch(self) -> float:
        """The number of epochs that are done, parts included."""
        return self.progress.step / self.steps_per_epoch

    def lr(self) -> float:
        """Return the general rate of the next step."""
        return self._rates.general(self.epoch, len(self.progress.lr_divisions))

    def rates(self) -> dict[str, float]:
        """Return the rate of each parameter in the next step."""
        return self._rates.at(self.epoch, len(self.progress.lr_divisions), self.progress.step)

    def train_loader(self, options: Options) -> data.Loader:
        """Open the training images."""
        settings = self.settings
        return self._loader(
            self.source.train,
            options,
            settings.step_images,
            seed=settings.seed,
            random_crop=settings.crop,
            pad=settings.pad,
            mirror=settings.mirror,
            area=settings.area if settings.random_resized_crop else None,
            distortion=settings.distort,
            part=None if self.team.share is None else self.team.rows,
        )

    def test_loader(self, options: Options) -> data.Loader:
        """Open the test images."""
        split, batch = self.source.test, self.settings.pass_images
        numbers = self.team.test_numbers(len(split), batch)
        return self._loader(split, options, batch, shuffle=False, drop_last=False, numbers=numbers)

    def _loader(self, split: data.Split, options: Options, batch: int, **kind: Any) -> data.Loader:
        image = self.network.spec.input
        return data.Loader(
            split,
            batch=batch,
            crop=(image.height, image.width),
            workers=options.workers,
            allocate=self.network.devices[0].staging,
            **kind,
        )

    def _checkpoint(self) -> Checkpoint:
        """Return what a checkpoint contains beside the network's state."""
        assert self.statistics.mean is not None
        tensors = {MEAN: self.statistics.mean}
        if self.statistics.colors is not None:
            tensors[COLORS] = self.statistics.colors
        return Checkpoint(
            tensors=tensors,
            spec=nets.spec_to_dict(self.network.spec),
            settings=dataclasses.asdict(self.settings),
            progress=dataclasses.asdict(self.progress),
        )

    def record_data(self) -> None:
        """Keep in the run what is known of its data, and print the images newly found unreadable."""
        self.team.merge_skipped([self.source.train, self.source.test])
        if not self.team.first:
            return
        with self.failures.of_disk():
            new = self._data.update()
        for line in unreadable_lines(new, self._data.path):
            self.reporter.say(line)
