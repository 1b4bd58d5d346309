"""The start of a session: a run gets its statistics and first checkpoint, or goes back to an earlier one."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import nets
from cconvnet.data.statistics import gather
from cconvnet.evaluate import restore
from cconvnet.network import Network
from cconvnet.runs import tensorboard
from cconvnet.runs.checkpoint import COLORS, MEAN, Checkpoint
from cconvnet.runs.reading import read_log
from cconvnet.training.options import Options
from cconvnet.training.settings import Settings
from cconvnet.training.trainer import Trainer, rates_of


def go_back(trainer: Trainer, checkpoint: Checkpoint, path: Path, named: bool = False) -> None:
    """Put a run back to where a checkpoint was saved.

    Args:
        trainer: The run.
        checkpoint: The content of the file `path`.
        path: The checkpoint's file.
        named: The user asked for it; otherwise newer ones may be damaged.

    Raises:
        CheckpointError: The checkpoint is of another network.
    """
    restore(trainer.network, checkpoint, path)
    trainer.diverged = (
        (named and trainer.run.checkpoints.files()[-1:] != [path])
        or Settings.from_dict(checkpoint.settings) != trainer.settings
        or nets.spec_from_dict(checkpoint.spec) != trainer.network.spec
    )
    trainer.statistics.mean = checkpoint.tensors[MEAN]
    trainer.statistics.colors = checkpoint.tensors.get(COLORS)
    trainer.progress.go_back(checkpoint.progress)


def changes(trainer: Trainer, before: Settings) -> list[str]:
    """Return a line for each setting that is different from here on in a resumed run."""
    settings, lines = trainer.settings, []
    lr = trainer.lr()
    lr_before = rates_of(before, trainer.network).general(trainer.epoch, len(trainer.progress.lr_divisions))
    if lr != lr_before:
        lines.append(f"lr: {lr:g} from here on, it was {lr_before:g}")
    if (patience := settings.lr_plateau) != before.lr_plateau:
        when = f"after {patience} epochs without a lower test error" if patience else "at no plateau"
        lines.append(f"lr: a tenth {when}")
    for name, label in _CHANGES.items():
        here, there = (getattr(one, name) for one in (settings, before))
        if here != there:
            lines.append(f"{label}: {_shown(here)} from here on, it was {_shown(there)}")
    for name, label in _ROUNDING.items():
        here, there = (getattr(one, name) for one in (settings, before))
        if here != there:
            lines.append(f"{label}: {here} from here on, it was {there}: rounding differs")
    if settings.precision != before.precision:
        lines.append(f"precision: {settings.precision} from here on, it was {before.precision}")
    for layer, factor in settings.lr_scale.items():
        if factor != before.lr_scale.get(layer, 1.0):
            what = f"learns at {factor:g} times its rate" if factor else "is frozen"
            lines.append(f"lr: {layer} {what} from here on")
    if settings.color_noise != before.color_noise:
        ends = settings.color_noise_epochs
        until = "" if ends is None else f" until epoch {ends:g}"
        lines.append(f"colour noise: {settings.color_noise:g} from here on{until}")
    return lines


# Settings whose changes are reported alike, by the words of the report.
_CHANGES = {
    "lr_schedule": "lr schedule",
    "warmup": "warm-up",
    "warmup_from": "warm-up from",
    "momentum": "momentum",
    "nesterov": "Nesterov's momentum",
    "lars": "LARS",
    "weight_decay": "weight decay",
    "label_smoothing": "label smoothing",
    "crop": "random crops",
    "pad": "padding of random crops",
    "random_resized_crop": "random-resized crops",
    "area": "area of random-resized crops",
    "mirror": "mirror images",
    "distort": "distortion",
}
# Likewise those that change the order or the types of sums.
_ROUNDING = {
    "towers": "towers",
    "wire": "wire",
    "reduction": "reduce",
    "exchange": "exchange",
    "parallel": "parallel",
}


def _shown(value: Any) -> str:
    if value is None:
        return "the network's own"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(nets.value_text(value))


def begin(trainer: Trainer, options: Options) -> None:
    """Make the mean image and the first checkpoint, or put the log back to where the run is resumed.

    Raises:
        TrainingStopped: The disk cannot be written.
        DataError: The data cannot be read.
    """
    run, progress, failures = trainer.run, trainer.progress, trainer.failures
    if not trainer.team.first:
        saves = _take_over(trainer)
        trainer.record_data()
        if saves:
            trainer.checkpoints.save()
        trainer.checkpoints.saved_step = progress.step
        return
    new = trainer.statistics.mean is None
    later = run.checkpoints.later(progress.step)
    aside = run.checkpoints.new_aside() if new or later or trainer.diverged else None
    with failures.of_disk():
        dropped = run.rewind_log(progress.step, progress.epoch, aside)
    _gather_statistics(trainer, options)
    _hand_over(trainer, new)
    trainer.record_data()
    if new or trainer.diverged:
        trainer.checkpoints.save()  # or a kill before the next checkpoint would undo what was asked for
    if later:
        assert aside is not None
        trainer.checkpoints.wait()
        with failures.of_disk():
            run.set_aside(later, aside, run.config_before)
    for line in _left_behind(trainer, later, dropped, aside):
        trainer.reporter.say(line)
    trainer.checkpoints.saved_step = progress.step
    if options.tensorboard:
        events = tensorboard.EventFile(
            run.path, read_log(run.path), progress.step, lambda: _first_filters(trainer.network)
        )
        run.listeners.append(events)
        trainer.reporter.say(f"to watch it: tensorboard --logdir {shlex.quote(str(events.path.parent))}")


def _hand_over(trainer: Trainer, new: bool) -> None:
    """Give the run's state to the other ranks, if there are any."""
    world, statistics = trainer.team.world, trainer.statistics
    found = (statistics.mean, statistics.colors)
    arrays = [np.ascontiguousarray(array) for array in found if array is not None]
    world.broadcast(
        {
            "saves": new or trainer.diverged,
            "shapes": [array.shape for array in arrays],
            "progress": dataclasses.asdict(trainer.progress),
        }
    )
    for array in arrays:
        world.broadcast_array(array)
    trainer.network.broadcast()


def _take_over(trainer: Trainer) -> bool:
    """Take the run's state from the first rank, and return True if that saves a checkpoint now."""
    world, statistics = trainer.team.world, trainer.statistics
    state = world.broadcast(None)
    arrays = [np.empty(shape, np.float32) for shape in state["shapes"]]
    for array in arrays:
        world.broadcast_array(array)
    statistics.mean, statistics.colors = arrays[0], arrays[1] if len(arrays) > 1 else None
    trainer.network.set_mean(statistics.mean)
    trainer.progress.go_back(state["progress"])
    trainer.network.broadcast()
    return bool(state["saves"])


def _gather_statistics(trainer: Trainer, options: Options) -> None:
    """Compute the mean image of a new run, and the colours' components where noise needs them."""
    statistics, color_noise = trainer.statistics, trainer.settings.color_noise
    new = statistics.mean is None
    if new or (color_noise and statistics.colors is None):
        found = gather(
            trainer.source,
            mean=new,
            colors=color_noise > 0,
            workers=options.workers,
            say=trainer.reporter.say,
            progress=trainer.reporter.counted,
        )
        # The mean of a run stays what it began with.
        statistics.mean = found.mean if new else statistics.mean
        statistics.colors = found.colors
    if new:
        trainer.network.set_mean(statistics.mean)


def _left_behind(trainer: Trainer, later: list[Path], dropped: int, aside: Path | None) -> list[str]:
    """Return lines on the checkpoints and lines of the log after the step that the run goes back to."""
    found = []
    lines = f"{dropped:,} line{'s' * (dropped > 1)} of the log"
    if later:
        names = [file.stem for file in later]
        which = ", ".join(names) if len(names) <= 5 else f"{names[0]} to {names[-1]}"
        what = f"{len(later):,} later checkpoint{'s' * (len(later) > 1)} ({which})"
        lines = f" and {lines}" if dropped else ""
        found.append(f"set aside in {aside}: {what}{lines}; they stay until you remove them")
    elif dropped and aside is not None:
        found.append(f"set aside in {aside}: {lines}")
    elif dropped:
        found.append(f"{lines} after step {trainer.progress.step:,} dropped; those steps are done again")
    keep, there = trainer.run.checkpoints.keep, len(trainer.run.checkpoints.files())
    if there > keep + 1:
        found.append(
            f"--keep {keep}: of the {there:,} checkpoints there, older ones are removed as new ones are "
            "written"
        )
    return found


def _first_filters(network: Network) -> tuple[str, np.ndarray[Any, Any]] | None:
    """Return the layer that sees the images and its filters; None if they are no images for people."""
    for parameter in network.parameters.values():
        if len(parameter.shape) == 4:
            return (parameter.layer, parameter.host()) if parameter.shape[3] in (1, 3) else None
    return None
