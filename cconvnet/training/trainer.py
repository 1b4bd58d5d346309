"""Training: epochs of steps, tests, checkpoints, and the promise that stopping costs nothing.

What a run computes is a function of its settings alone: the order of images, their crops and mirror images,
and the dropout masks depend on the seed and the step, never on the clock or on how often the run was stopped.
So a run that was killed and resumed ends with bitwise the weights of one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import data, nets
from cconvnet.console import Reporter, percent
from cconvnet.data.color_noise import color_shifts
from cconvnet.data.statistics import Statistics, gather
from cconvnet.evaluate import evaluate, restore
from cconvnet.network import Network, StepResult
from cconvnet.network.anomaly import Anomaly
from cconvnet.runs import Run, read_log, tensorboard
from cconvnet.runs.checkpoint import COLORS, MEAN, Checkpoint, NotFinite
from cconvnet.runs.data_record import DataRecord, unreadable_lines
from cconvnet.training.options import Options
from cconvnet.training.saver import Saver
from cconvnet.training.schedule import Rates, StepSchedule, on_plateau
from cconvnet.training.settings import Progress, Settings
from cconvnet.training.stopping import Interrupts, TrainingStopped, resume_command
from cconvnet.training.time_left import Pace

_SECONDS_BETWEEN_CHECKPOINTS = 600.0
# An epoch's end is worth a checkpoint if since the last one this many times as long has gone by as training
# stood still for that, and twice as long as was written, so that the disk is free half of the time.
_TRAINING_PER_STALL = 10.0
_TIME_PER_WRITING = 2.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended: its files, its ``summary.json``, and the signal that stopped it, if any."""

    path: Path
    summary: dict[str, Any]
    signal: int | None = None


def rates_of(settings: Settings, network: Network) -> Rates:
    """The rates of a run. Raises ValueError: they name a layer that the network has not."""
    schedule = StepSchedule(settings.lr, settings.lr_steps)
    return Rates(schedule, network.parameters, settings.lr_scale, settings.epochs, settings.seed)


# ---- the loop ------------------------------------------------------------------------------------------


# Colour shifts and what multiplies the input.
_Noise = tuple[np.ndarray[Any, Any] | None, float]


@dataclasses.dataclass
class _Begun:
    """A step that a device has been given, and all it takes to do it again."""

    step: int
    epoch: int
    batch: data.Batch
    noise: _Noise
    result: Callable[[], StepResult]


class Trainer:
    """One run in memory: the network, its data, and how far it is."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        network: Network,
        source: data.Source,
        reporter: Reporter,
    ) -> None:
        self.run = run
        self.settings = settings
        self.network = network
        self.source = source
        self.reporter = reporter
        self.stop = Interrupts()
        self.progress = Progress()
        self.statistics = Statistics()
        self.saver = Saver(network, run.checkpoints)
        self._data = DataRecord(run.path, source)
        self._rates = rates_of(settings, network)
        self._steps_per_epoch = len(source.train) // settings.batch
        self._pace = Pace(len(source.test) / settings.batch)
        self._last_step = 0  # the step after which this session ends
        self._saved_step = -1
        self._saved_at = time.monotonic()
        # Of the last checkpoint; 0, so that the first epoch's end of a resumed run is saved.
        self._stalled, self._writing_took = 0.0, 0.0
        self._logged_at = (0.0, 0)
        self._copies_seen = (0, 0.0)
        self._used_rates: tuple[float, dict[str, float]] = (0.0, {})
        self._begun: _Begun | None = None
        self._turned = False  # away from where the run's newest checkpoint would lead

    def take_over(self, checkpoint: Checkpoint, path: Path, named: bool = False) -> None:
        """Goes back to where a checkpoint was written.

        Args
            named: it was asked for, and is not what there is because newer ones are damaged.

        Raises CheckpointError: it is of another network.
        """
        restore(self.network, checkpoint, path)
        self._turned = (
            (named and self.run.checkpoints.files()[-1:] != [path])
            or Settings.from_dict(checkpoint.settings) != self.settings
            or nets.spec_from_dict(checkpoint.spec) != self.network.spec
        )
        self.statistics = Statistics(checkpoint.tensors[MEAN], checkpoint.tensors.get(COLORS))
        self.progress = Progress.from_dict(checkpoint.progress)

    def say_changes(self, before: Settings) -> None:
        """Says what is different from here on in a resumed run."""
        now, there = self._lr(), rates_of(before, self.network).general(self._epoch(), self._divisions())
        if now != there:
            self.reporter.say(f"lr: {now:g} from here on, it was {there:g}")
        if (patience := self.settings.lr_plateau) != before.lr_plateau:
            when = f"after {patience} epochs without a lower test error" if patience else "at no plateau"
            self.reporter.say(f"lr: a tenth {when}")
        if self.settings.towers != before.towers:
            self.reporter.say(
                f"towers: {self.settings.towers} from here on, it was {before.towers}: rounding differs"
            )
        if self.settings.precision != before.precision:
            self.reporter.say(f"precision: {self.settings.precision} from here on, it was {before.precision}")
        for layer, factor in self.settings.lr_scale.items():
            if factor != before.lr_scale.get(layer, 1.0):
                what = f"learns at {factor:g} times its rate" if factor else "is frozen"
                self.reporter.say(f"lr: {layer} {what} from here on")
        if self.settings.color_noise != before.color_noise:
            ends = self.settings.color_noise_epochs
            until = "" if ends is None else f" until epoch {ends:g}"
            self.reporter.say(f"colour noise: {self.settings.color_noise:g} from here on{until}")

    def begin(self, options: Options) -> None:
        """Makes the mean image and the first checkpoint, or puts the log back to where the run is resumed."""
        statistics = self.statistics
        new = statistics.mean is None
        later = self.run.checkpoints.later(self.progress.step)
        aside = self.run.checkpoints.new_aside() if new or later or self._turned else None
        with self._disk():
            dropped = self.run.rewind_log(self.progress.step, self.progress.epoch, aside)
        if new or (self.settings.color_noise and statistics.colors is None):
            found = gather(
                self.source,
                mean=new,
                colors=self.settings.color_noise > 0,
                workers=options.workers,
                say=self.reporter.say,
                progress=self.reporter.counted,
            )
            # The mean of a run stays what it began with.
            statistics.mean = found.mean if new else statistics.mean
            statistics.colors = found.colors
        if new:
            self.network.set_mean(statistics.mean)
        self._account()
        if new or self._turned:
            self._save()  # or a kill before the next checkpoint would undo what was asked for
        if later:
            assert aside is not None
            self.finish_saving()
            with self._disk():
                self.run.set_aside(later, aside, self.run.config_before)
        self._say_what_was_left(later, dropped, aside)
        self._saved_step = self.progress.step
        if options.tensorboard:
            step, lines = self.progress.step, read_log(self.run.path)
            events = tensorboard.EventFile(self.run.path, lines, step, self._first_filters)
            self.run.listeners.append(events)
            folder = shlex.quote(str(events.path.parent))
            self.reporter.say(f"to watch it: tensorboard --logdir {folder}")

    def _say_what_was_left(self, later: list[Path], dropped: int, aside: Path | None) -> None:
        """Says where checkpoints and lines of the log are that came after the step gone back to."""
        step = self.progress.step
        lines = f"{dropped:,} line{'s' * (dropped > 1)} of the log"
        if later:
            names = [file.stem for file in later]
            which = ", ".join(names) if len(names) <= 5 else f"{names[0]} to {names[-1]}"
            what = f"{len(later):,} later checkpoint{'s' * (len(later) > 1)} ({which})"
            lines = f" and {lines}" if dropped else ""
            self.reporter.say(f"set aside in {aside}: {what}{lines}; they stay until you remove them")
        elif dropped and aside is not None:
            self.reporter.say(f"set aside in {aside}: {lines}")
        elif dropped:
            self.reporter.say(f"{lines} after step {step:,} dropped; those steps are done again")
        keep, there = self.run.checkpoints.keep, len(self.run.checkpoints.files())
        if there > keep + 1:
            self.reporter.say(
                f"--keep {keep}: of the {there:,} checkpoints there, older ones are removed as new ones are "
                "written"
            )

    def _account(self) -> None:
        """Keep in the run what is known of its data, and name the pictures newly found unreadable."""
        with self._disk():
            new = self._data.update()
        for line in unreadable_lines(new, self._data.path):
            self.reporter.say(line)

    def _first_filters(self) -> tuple[str, np.ndarray[Any, Any]] | None:
        """The layer that looks at the images and its filters, if people can look at them."""
        for parameter in self.network.parameters.values():
            if len(parameter.shape) == 4:
                return (parameter.layer, parameter.host()) if parameter.shape[3] in (1, 3) else None
        return None

    def train(self, options: Options) -> Outcome:
        """Trains until all epochs are done, ``options.steps`` steps are, or somebody asks to stop."""
        try:
            return self._train(options)
        except data.WorkerError as error:
            raise TrainingStopped(f"{error}. " + self._standing()) from error
        except data.DataError as error:  # a disk that fails, or too many broken pictures
            raise TrainingStopped(f"{error}\n{self._standing()}") from error

    def _train(self, options: Options) -> Outcome:
        progress, settings = self.progress, self.settings
        with self._train_loader(options) as batches, self._test_loader(options) as tests:
            per_epoch = self._steps_per_epoch
            all_steps = settings.epochs * per_epoch
            last_step = all_steps if options.steps is None else min(all_steps, options.steps)
            self._last_step = last_step
            if progress.step >= last_step:
                self.reporter.say(f"nothing left to train: {progress.step:,} of {last_step:,} steps are done")
            self.reporter.begin(self._where(), last_step, progress.step)
            going = progress.epoch < settings.epochs
            while going:
                if progress.step_in_epoch < per_epoch:
                    going = self._train_epoch(batches, last_step, options)
                if progress.step_in_epoch == per_epoch:
                    going = self._end_epoch(tests, options) and going
                going = going and progress.epoch < settings.epochs
            if progress.step != self._saved_step:
                self._save()
            if not self.stop and (progress.last_test or {}).get("step") != progress.step:
                self._test(tests)
            self.finish_saving()
            self.reporter.end()
        self._account()
        summary = self._summary(complete=progress.epoch >= settings.epochs)
        with self._disk():
            self.run.write_summary(summary)
        return Outcome(self.run.path, summary, self.stop.signal)

    def _train_loader(self, options: Options) -> data.Loader:
        settings, image = self.settings, self.network.spec.input
        return data.Loader(
            self.source.train,
            batch=settings.batch,
            seed=settings.seed,
            crop=(image.height, image.width),
            random_crop=settings.crop,
            mirror=settings.mirror,
            workers=options.workers,
            allocate=self.network.devices[0].staging,
        )

    def _test_loader(self, options: Options) -> data.Loader:
        image = self.network.spec.input
        return data.Loader(
            self.source.test,
            batch=self.settings.batch,
            crop=(image.height, image.width),
            shuffle=False,
            drop_last=False,
            workers=options.workers,
            allocate=self.network.devices[0].staging,
        )

    def _train_epoch(self, batches: data.Loader, last_step: int, options: Options) -> bool:
        """The steps of the present epoch that are left; says whether training goes on."""
        progress = self.progress
        self._logged_at = (progress.seconds, progress.images)
        self._copies_seen = (self.network.copied_bytes, self.network.copy_seconds)
        mark = time.perf_counter()
        for batch in batches.epoch(progress.epoch, progress.step_in_epoch):
            self._step(batch, options.detect_anomaly)
            if progress.step % options.log_every == 0:
                self._settle()
            now = time.perf_counter()
            progress.seconds += now - mark
            progress.images += len(batch)
            self._pace.stepped(now - mark)
            mark = now
            self.reporter.step(progress.step, self._where(), self._values, self._seconds_left)
            if progress.step % options.log_every == 0:
                self._log_window()
            if not self.saver.busy:
                self.finish_saving()
            if self.stop or progress.step >= last_step:
                break
            if self._checkpoint_due(options) and progress.step_in_epoch < self._steps_per_epoch:
                self._settle()
                self._count_copies()
                self._save()
                mark = time.perf_counter()  # a checkpoint's time is not training time
        self._settle()
        progress.seconds += time.perf_counter() - mark
        self._count_copies()  # before testing copies too
        return not self.stop and progress.step < last_step

    def _step(self, batch: data.Batch, detect_anomaly: bool) -> None:
        """One step, and the result of the one before: so that a GPU has work while its loss is looked at."""
        progress = self.progress
        noise = self._noise(len(batch))
        self._load(batch, noise)
        rates = self._rates.at(self._epoch(), self._divisions(), progress.step)
        if detect_anomaly:
            bad = self.network.checked_step(progress.step, rates, self.settings.momentum)
            if bad is not None:
                where = self._found(progress.epoch, bad)
                raise TrainingStopped(f"stopped at step {progress.step} {where}")
        else:
            self.network.train_step(progress.step, rates, self.settings.momentum)
        begun = _Begun(progress.step, progress.epoch, batch, noise, self.network.result_later())
        self._used_rates = (self._lr(), rates)
        progress.step += 1
        progress.step_in_epoch += 1
        self._settle()
        self._begun = begun

    def _load(self, batch: data.Batch, noise: _Noise) -> None:
        self.network.load(batch.images, batch.labels, batch.top, batch.left, batch.mirror, *noise)

    def _settle(self) -> None:
        """Counts the result of the last step that was begun, once it is there."""
        progress, network, begun = self.progress, self.network, self._begun
        if begun is None:
            return
        self._begun = None
        result = begun.result()
        if not math.isfinite(result.loss):
            # It moved no weight, so it can be done again.
            self._load(begun.batch, begun.noise)
            network.forward(train=True, step=begun.step)
            bad = network.find_bad()
            raise TrainingStopped(
                f"the loss is {result.loss} at step {begun.step} {self._found(begun.epoch, bad)}"
            )
        progress.window.add(result)
        progress.epoch_tally.add(result)

    def _found(self, epoch: int, bad: Anomaly | None) -> str:
        """What to say of an anomaly, and what a user can do."""
        made = ""
        if bad is not None and bad.direction == "forward" and bad.tensor in self.network.parameters:
            made = "An earlier step made it: with --detect-anomaly it would be found there. "
        return f"(epoch {epoch + 1}); first not finite: {bad or 'none'}. {made}" + self._standing(
            "with a lower rate", f" --lr {self.settings.lr / 10:g}"
        )

    def _noise(self, count: int) -> _Noise:
        """The colour shifts of the next batch and what multiplies its input; None and 1 without noise."""
        progress, settings, colors = self.progress, self.settings, self.statistics.colors
        sigma, ends = settings.color_noise, settings.color_noise_epochs
        if not sigma or (ends is not None and self._epoch() >= ends):
            return None, 1.0
        assert colors is not None
        first = progress.step_in_epoch * settings.batch
        shifts = color_shifts(colors, sigma, count, settings.seed, progress.epoch, first)
        return shifts, 1.0 / (1.0 + sigma) if settings.color_noise_shrinks else 1.0

    def _epoch(self) -> float:
        """Where training is, in epochs from 0 on."""
        return self.progress.step / self._steps_per_epoch

    def _divisions(self) -> int:
        return len(self.progress.lr_divisions)

    def _lr(self) -> float:
        return self._rates.general(self._epoch(), self._divisions())

    def _count_copies(self) -> None:
        """Adds what training has copied between devices since the last call or the beginning of the epoch."""
        progress, network = self.progress, self.network
        copied, seconds = network.copied_bytes, network.copy_seconds
        progress.window_bytes += copied - self._copies_seen[0]
        progress.window_seconds += seconds - self._copies_seen[1]
        progress.copied_bytes += copied - self._copies_seen[0]
        progress.copy_seconds += seconds - self._copies_seen[1]
        self._copies_seen = (copied, seconds)

    def _log_window(self) -> None:
        progress = self.progress
        self._count_copies()
        lr, rates = self._used_rates
        other = {name: rate for name, rate in rates.items() if rate != lr}
        self._log(
            {
                "step": progress.step,
                "epoch": self._epoch_at(progress.step),
                "loss": progress.window.mean_loss,
                "train_error_top1": progress.window.error_top1,
                "lr": lr,
                **({"lr_other": other} if other else {}),
                "images_per_second": round(self._images_per_second(), 1),
                "copied_bytes": progress.window_bytes,
                "copy_seconds": round(progress.window_seconds, 6),
            }
        )
        progress.window.clear()
        progress.window_bytes, progress.window_seconds = 0, 0.0
        self._logged_at = (progress.seconds, progress.images)

    def _epoch_at(self, step: int) -> float:
        return round(step / self._steps_per_epoch, 4)

    def _log(self, line: dict[str, Any]) -> None:
        with self._disk():
            self.run.log(line)

    def _end_epoch(self, tests: data.Loader, options: Options) -> bool:
        """Tests, logs, lets the rates fall, saves where that is worth it; says whether training goes on."""
        progress, begun = self.progress, time.perf_counter()
        test = self._test(tests)
        if test is None:
            return False
        tally = progress.epoch_tally
        progress.last_train = {"train_loss": tally.mean_loss, "train_error_top1": tally.error_top1}
        tally.clear()
        progress.epoch += 1
        progress.step_in_epoch = 0
        if progress.best is None or test["test_error_top1"] < progress.best["test_error_top1"]:
            progress.best = {
                "step": progress.step,
                "epoch": progress.epoch,
                "test_error_top1": test["test_error_top1"],
            }
        patience = self.settings.lr_plateau
        fallen = on_plateau(progress.epoch, progress.best["epoch"], progress.lr_divisions, patience)
        if fallen:
            progress.lr_divisions.append(progress.epoch)
        line = {"step": progress.step, "epoch": progress.epoch, **progress.last_train}
        self._log({**line, **{key: value for key, value in test.items() if key != "step"}})
        if self._epoch_worth_saving(options):
            self._save()
        self._pace.ended(time.perf_counter() - begun)
        self.reporter.say(
            f"epoch {progress.epoch}/{self.settings.epochs}: "
            f"test error {percent(test['test_error_top1'])}, "
            f"training error {percent(progress.last_train['train_error_top1'])}, "
            f"loss {progress.last_train['train_loss']:.4f}, "
            f"{progress.images / progress.seconds if progress.seconds else 0:,.0f} images/s"
        )
        self._account()
        if fallen and progress.epoch < self.settings.epochs:
            self.reporter.say(
                f"lr: {self._lr():g} from here on, a tenth: the test error has not fallen for {patience} "
                f"epoch{'s' * (patience > 1)}"
            )
        return not self.stop

    def _test(self, tests: data.Loader) -> dict[str, Any] | None:
        tally = evaluate(self.network, self._shown(tests.epoch(0)), stopped=lambda: bool(self.stop))
        if tally is None:
            return None
        if not math.isfinite(tally.mean_loss):
            bad = self.network.find_bad()
            step = self.progress.step
            found = self._found(self.progress.epoch, bad)
            raise TrainingStopped(f"the test's loss is {tally.mean_loss} after step {step} {found}")
        self.progress.last_test = {
            "step": self.progress.step,
            "test_loss": tally.mean_loss,
            "test_error_top1": tally.error_top1,
            "test_error_top5": tally.error_top5,
        }
        return self.progress.last_test

    def _shown(self, batches: Iterable[data.Batch]) -> Iterator[data.Batch]:
        """The batches of a test, with how far it is."""
        what, count, done = f"{self._where()}, testing", len(self.source.test), 0
        for batch in batches:
            values = functools.partial("{:,}/{:,} images".format, done, count)
            self.reporter.step(self.progress.step, what, values, self._seconds_left)
            yield batch
            done += len(batch)

    # ---- checkpoints and results -----------------------------------------------------------------------

    def _checkpoint_due(self, options: Options) -> bool:
        if options.checkpoint_every is not None:
            return self.progress.step % options.checkpoint_every == 0
        return not self.saver.busy and time.monotonic() - self._saved_at > _SECONDS_BETWEEN_CHECKPOINTS

    def _epoch_worth_saving(self, options: Options) -> bool:
        """Whether the end of an epoch becomes a checkpoint.

        The best one always does. Any other does if none is being written and going without would lose much
        more time than saving takes, so that a run of short epochs and a large network does not spend its time
        on its disk.
        """
        progress = self.progress
        assert progress.best is not None
        if progress.best["step"] == progress.step or self._checkpoint_due(options):
            return True
        if self.saver.busy:
            return False
        self.finish_saving()
        enough = max(_TRAINING_PER_STALL * self._stalled, _TIME_PER_WRITING * self._writing_took)
        return time.monotonic() - self._saved_at >= enough

    def _save(self) -> None:
        """Begins a checkpoint. One that is still being written is waited for: there is one writer."""
        progress, begun = self.progress, time.monotonic()
        self.finish_saving()
        assert self.statistics.mean is not None
        tensors = {MEAN: self.statistics.mean}
        if self.statistics.colors is not None:
            tensors[COLORS] = self.statistics.colors
        checkpoint = Checkpoint(
            tensors=tensors,
            spec=nets.spec_to_dict(self.network.spec),
            settings=dataclasses.asdict(self.settings),
            progress=dataclasses.asdict(progress),
        )
        self.saver.begin(checkpoint, progress.best["step"] if progress.best else None)
        self._saved_step, self._saved_at = progress.step, time.monotonic()
        self._stalled = self._saved_at - begun

    def finish_saving(self) -> None:
        """Waits for the checkpoint that is being written, if there is one, and logs what it took.

        Raises TrainingStopped: it could not be written.
        """
        try:
            with self._disk():
                saved = self.saver.collect()
        except NotFinite as error:
            step = self._saved_step
            raise TrainingStopped(
                f"{error} after step {step} (epoch {self._epoch_at(step):g}). "
                + self._standing("with a lower rate", f" --lr {self.settings.lr / 10:g}")
            ) from error
        if saved is None:
            return
        self._writing_took = saved.seconds
        self._log(
            {
                "step": saved.step,
                "epoch": self._epoch_at(saved.step),
                "checkpoint": saved.path.name,
                "stall_seconds": round(self._stalled, 6),
                "write_seconds": round(saved.seconds, 6),
                "bytes": saved.bytes,
            }
        )

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Makes of a disk that cannot be written an end of training that says what stands."""
        try:
            yield
        except OSError as error:
            raise TrainingStopped(
                f"cannot write {error.filename or self.run.path}: {error.strerror}. "
                + self._standing("when the disk can be written")
            ) from error

    def _standing(self, how: str = "", flags: str = "") -> str:
        """What a user can go on from when training has to stop."""
        self.saver.settle()
        if not self.run.checkpoints.path.exists():
            return f"The run's folder {self.run.path} is gone"
        files = self.run.checkpoints.files()
        if not files:
            return "There is no checkpoint yet"
        command = resume_command(self.run.path) + flags
        return f"The last good checkpoint stands: {files[-1]}; to go on from it{how and ' '}{how}: {command}"

    def _summary(self, complete: bool) -> dict[str, Any]:
        progress, description = self.progress, self.network.describe()
        test = progress.last_test or {}
        train = progress.last_train or {
            "train_loss": progress.epoch_tally.mean_loss,
            "train_error_top1": progress.epoch_tally.error_top1,
        }
        best = progress.best
        return {
            "net": self.settings.net,
            "data": self.source.name,
            "device": description["device"],
            "precision": self.settings.precision,
            "complete": complete,
            "batch": self.settings.batch,
            "epochs": progress.epoch,
            "steps": progress.step,
            "seconds": round(progress.seconds, 3),
            "images_per_second": round(progress.images / max(progress.seconds, 1e-9), 1),
            "test_error_top1": test.get("test_error_top1"),
            "test_error_top5": test.get("test_error_top5"),
            "test_loss": test.get("test_loss"),
            **train,
            "parameters": description["parameters"],
            "copied_bytes": progress.copied_bytes,
            "copy_seconds": round(progress.copy_seconds, 3),
            "checkpoint": str(self.run.checkpoints.file(self._saved_step).relative_to(self.run.path)),
            "best": best
            and {
                **best,
                "checkpoint": str(self.run.checkpoints.file(best["step"]).relative_to(self.run.path)),
            },
            "skipped_images": len(self.source.report()),
        }

    # ---- words for the progress bar --------------------------------------------------------------------

    def _where(self) -> str:
        epoch = min(self.progress.epoch + 1, self.settings.epochs)
        return f"epoch {epoch}/{self.settings.epochs}"

    def _values(self) -> str:
        tally = self.progress.epoch_tally
        speed = f"{self.settings.batch / (self._pace.step_seconds or math.inf):,.0f} images/s"
        if tally.count == 0:
            return speed
        return f"loss {tally.mean_loss:.4f}  error {percent(tally.error_top1)}  {speed}"

    def _seconds_left(self) -> float | None:
        """Until this session ends, with the tests at the ends of epochs and at its own."""
        step, last, per_epoch = self.progress.step, self._last_step, self._steps_per_epoch
        ends = last // per_epoch - self.progress.epoch + bool(last % per_epoch)
        return self._pace.left(last - step, ends)

    def _images_per_second(self) -> float:
        """Since the last line of the log."""
        seconds = self.progress.seconds - self._logged_at[0]
        return (self.progress.images - self._logged_at[1]) / seconds if seconds > 0 else 0.0
