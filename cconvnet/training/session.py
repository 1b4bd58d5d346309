"""A session of training, from options to its outcome."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.console import Reporter
from cconvnet.data.datasets import Arrays
from cconvnet.devices import devices_of
from cconvnet.formats.weights import Fitted
from cconvnet.nets import NetSpec
from cconvnet.network import Network
from cconvnet.ranks import RanksError, launched
from cconvnet.ranks.cores import divide_cores, own_devices
from cconvnet.ranks.world import World
from cconvnet.runs.reading import unfinished
from cconvnet.training import start
from cconvnet.training.follower import follow, told
from cconvnet.training.new_run import new_run
from cconvnet.training.options import Options
from cconvnet.training.preparation import check_options
from cconvnet.training.resumed_run import resumed_run
from cconvnet.training.stopping import Interrupts, Terminated
from cconvnet.training.trainer import Outcome

__all__ = ["begin_with", "check_options", "train"]


def train(
    options: Options,
    reporter: Reporter,
    stop: Interrupts | None = None,
    arrays: Arrays | None = None,
    keep: bool | None = None,
    world: World | None = None,
) -> Outcome:
    """Train a network, or resume its training.

    Args:
        options: What the user asks for.
        reporter: Shows progress and messages.
        stop: Handles the signals that end training; None: training handles them itself, to its end.
        arrays: The data, if it is in memory; ``options.data`` is not used then.
        keep: Whether the run's folder keeps the arrays; None: unless they are large.
        world: The ranks that train together, all of which call this; None: this process alone.

    Returns:
        The run's folder and summary, and the signal that stopped it.

    Raises:
        ValueError: An option, the data, the run's folder or a checkpoint cannot be used; the text names it.
        DeviceUnavailable: A device cannot be used.
        TrainingStopped: A value is not finite, the disk cannot be written, a decoding process died, or the
            data can no longer be read.
        Terminated: SIGTERM or SIGHUP came before the first step.
    """
    check_options(options)
    with Interrupts() if stop is None else contextlib.nullcontext(stop) as stop:
        world = _alone() if world is None else world
        divide_cores(world)
        devices = devices_of(own_devices(options.devices, world))
        for device in devices:
            reporter.say(f"device: {device.name}: {device.reason}")
        if world.size > 1:
            reporter.say(f"ranks: {world.size}, {world.local_size} of them on {world.host}")
        if world.first:
            options = _resolve_auto(options, reporter)
            if options.resume is None:
                trainer = new_run(options, devices, reporter, arrays=arrays, keep=keep, world=world)
            else:
                trainer = resumed_run(options, devices, reporter, arrays, keep, world)
            world.broadcast(told(trainer))
        else:
            trainer = follow(world.broadcast(None), options, devices, reporter, world, arrays)
        trainer.network.connect()
        trainer.stop = stop
        with trainer.run, trainer.saver:
            try:
                start.begin(trainer, options)
                stop.patient = True  # until here there was nothing to save
            except Terminated:
                raise Terminated(trainer.run.path) from None
            return trainer.train(options)


def _alone() -> World:
    """Return the world of a process alone.

    Raises:
        RanksError: A launcher started several, which would all do the same.
    """
    launch = launched()
    if not launch.alone:
        raise RanksError(
            f"{launch.launcher} started several processes, which would all train the same network; ranks "
            "train together by `cconvnet train`"
        )
    return World.alone()


def _resolve_auto(options: Options, reporter: Reporter) -> Options:
    """Return the options with the run that ``--resume auto`` means, or with none if it means a new one."""
    if not options.resumes_any:
        return options
    if options.out is not None and not (options.out / "config.json").exists():
        reporter.say(f"{options.out} contains no run yet: a new one begins")
        return dataclasses.replace(options, resume=None)
    path = options.out or unfinished(Path("runs"))
    # A command that is given again and again may well name the network's files each time.
    options = dataclasses.replace(options, layer_def=None, layer_params=None, crop=None)
    return dataclasses.replace(options, resume=path, weights=None, except_layers=None)


def begin_with(
    options: Options,
    reporter: Reporter,
    *,
    weights: Callable[[Network], dict[str, np.ndarray[Any, Any]]] | None = None,
    fits: Callable[[NetSpec], Fitted] | None = None,
) -> Path:
    """Make a run whose first checkpoint contains given weights; nothing is trained.

    Args:
        options: Of the new run.
        reporter: Shows progress and messages.
        weights: Returns the state (``Network.state()``) that a network of this run begins with.
        fits: Returns the weights of a network of this run, instead.

    Returns:
        The run's folder.

    Raises:
        ValueError, DeviceUnavailable: As :func:`train`, and whatever `weights` or `fits` raises. There is no
            run then.
    """
    check_options(options)
    world = _alone()
    trainer = new_run(options, devices_of(options.devices), reporter, weights, fits, world=world)
    with trainer.run, trainer.saver:
        start.begin(trainer, options)
        trainer.checkpoints.wait()
    return trainer.run.path
