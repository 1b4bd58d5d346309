"""A resumed run: its checkpoint, its changed settings, and checks of its data and network."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from cconvnet import data, nets
from cconvnet.console import Reporter
from cconvnet.data import datasets
from cconvnet.data.datasets import Arrays
from cconvnet.data.datasets.arrays import FILE as ARRAYS_FILE
from cconvnet.data.datasets.arrays import NAME as ARRAYS
from cconvnet.data.fingerprint import differences
from cconvnet.data.names import composed
from cconvnet.devices import Device
from cconvnet.evaluate import network_tensors
from cconvnet.evaluate.trained import are_numbers
from cconvnet.formats.netfiles import ChosenNet, CroppedNet, NamedNet
from cconvnet.nets import NetSpec, place
from cconvnet.network import Network
from cconvnet.ranks.world import World
from cconvnet.runs.checkpoint import KEEP, Checkpoint, check_tensors
from cconvnet.runs.folder import Run
from cconvnet.runs.reading import RunError, arithmetic, find_checkpoint, folder_of
from cconvnet.training import start
from cconvnet.training.options import Options
from cconvnet.training.preparation import (
    absolute_data,
    check_shards,
    chosen_net,
    configuration,
    keep_arrays,
    make_network,
    open_data,
    resumed_surroundings,
)
from cconvnet.training.settings import Settings, identity
from cconvnet.training.trainer import Trainer


def resumed_run(
    options: Options,
    devices: list[Device],
    reporter: Reporter,
    arrays: Arrays | None = None,
    keep: bool | None = None,
    world: World | None = None,
) -> Trainer:
    """Open a run at its newest sound checkpoint, or at the one that ``options.resume`` names.

    Args:
        options: What the user asks for.
        devices: Where the network is.
        reporter: Prints what was found and changed.
        arrays: The data, if it is in memory.
        keep: Whether the run's folder keeps the arrays; see preparation.keep_arrays().
        world: The ranks; this is the first. None: there are no others.

    Raises:
        RunError: The run cannot be resumed with these options.
        CheckpointError: There is no sound checkpoint.
    """
    assert options.resume is not None
    path = folder_of(options.resume)
    if options.out is not None and options.out.resolve() != path.resolve():
        raise RunError(f"--resume {path} writes into {path}; leave out --out {options.out}")
    net = chosen_net(options)
    run = Run.open(path)
    try:
        world = world or World.alone()
        return _resume(run, options.resume, net, options, devices, reporter, world, arrays, keep)
    except BaseException:
        run.close()
        raise


def _resume(
    run: Run,
    wanted: Path,
    net: ChosenNet | None,
    options: Options,
    devices: list[Device],
    reporter: Reporter,
    world: World,
    arrays: Arrays | None,
    keep_them: bool | None,
) -> Trainer:
    """Prepare a run that is locked for this process."""
    file, checkpoint = None, None
    if run.path == wanted and not run.checkpoints.files():
        # Killed before its first checkpoint: the run begins again with the same settings.
        stored, spec_values = run.config["settings"], run.config["spec"]
    else:
        file, checkpoint, skipped = find_checkpoint(wanted)
        for line in skipped:
            reporter.say(f"skipped: {line}")
        stored, spec_values = checkpoint.settings, checkpoint.spec
    before = Settings.from_dict(stored)
    spec = place(nets.spec_from_dict(spec_values), options.place or {})
    settings = _changed(before, options, len(devices), arrays)
    check_shards(settings.shards, world)
    # What does not go together for a new run does not either where a part of it is the run's own.
    dataclasses.replace(options, parallel=settings.parallel, lars=settings.lars or None).check()
    spec = settings.applied_to(spec)
    where = datasets.from_settings(settings.data, run.path) if arrays is None else arrays
    if before.imported:
        settings = _begun(settings, options, run.path)
    source = open_data(where, settings.size, settings.preprocessing, options, reporter)
    if before.data == datasets.NONE:
        settings = _with_first_data(settings, source, run.path, options, reporter)
        of_data = ("data", "batch", "pictures", *identity(source))
        before = dataclasses.replace(before, **{name: getattr(settings, name) for name in of_data})
    _check_data(source, settings, before, run.path, reporter)
    if not settings.pictures:  # a run of an older version: known from here on
        settings = dataclasses.replace(settings, pictures=source.fingerprints)
    # Another network may have the same name, unless that is a built-in one's.
    if net is not None and not (isinstance(net, NamedNet) and str(net) == settings.net):
        _check_net(net, spec, settings, source, file or run.path, checkpoint)

    # A run that was begun without keeping its arrays goes on without, unless that is asked for.
    missing = keep_them and not (run.path / ARRAYS_FILE).exists()
    if arrays is not None and (before.data != ARRAYS or missing):
        keep_arrays(run, arrays, keep_them, reporter)
    network = make_network(spec, settings, devices, options, world)
    trainer = Trainer(run, settings, network, source, reporter, world)
    step = 0 if checkpoint is None else checkpoint.step
    keep = run.config.get("keep", KEEP) if options.keep is None else options.keep
    run.checkpoints.keep = keep
    config = configuration(settings, spec, network, keep)
    run.write_config(config | resumed_surroundings(run.config, network, step))
    if checkpoint is not None and file is not None:
        start.go_back(trainer, checkpoint, file, named=file == wanted)
    for line in start.changes(trainer, before):
        reporter.say(line)
    if (was := arithmetic(run.config, step)) != (now := arithmetic(run.config)):
        reporter.say(f"arithmetic: {now} from here on, it was {was}: rounding differs")
    where = f"step {trainer.progress.step:,}" if file else "the beginning: it has no checkpoint yet"
    reporter.say(f"resuming {run.path} from {where}")
    return trainer


def _changed(settings: Settings, options: Options, devices: int, arrays: Arrays | None) -> Settings:
    """Return the run's settings with what the options change.

    A resumed run takes where its data is, for how long it trains, and other rates and noise: changes by hand
    are how the 2012 network was trained.

    Raises:
        RunError: An option differs from a setting that cannot change.
    """
    changes = options.given("take")
    if options.data is not None:
        changes["data"] = absolute_data(options.data)
    if arrays is not None:
        changes["data"] = ARRAYS
    if settings.towers < devices:
        # With fewer devices than towers a device has several, so that not a bit changes.
        changes["towers"] = devices
    if (factors := options.lr_factors()) is not None:
        changes["lr_scale"] = {**settings.lr_scale, **factors}
    for name, given in options.given("refuse").items():
        if name == "batch" and settings.data == datasets.NONE:
            continue  # nothing was trained with another one
        if given != (there := getattr(settings, name)):
            raise RunError(
                f"--{name} {given} differs from the run's, {there}; leave it out, or start a new run"
            )
    return dataclasses.replace(settings, **changes)


def _begun(settings: Settings, options: Options, path: Path) -> Settings:
    """Return the settings of a run of trained weights, which has no place in its recipe's schedule.

    Raises:
        RunError: No rate is given. The recipe's first one is for random weights, and ruins others.
    """
    if options.lr is None:
        raise RunError(
            f"{path} begins with weights that were trained elsewhere, for which the recipe's first rate, "
            f"{settings.lr:g}, is too high: give --lr, such as {settings.lr / 100:g}, and --epochs"
        )
    return dataclasses.replace(settings, imported=False)


def _with_first_data(
    settings: Settings, source: data.Source, path: Path, options: Options, reporter: Reporter
) -> Settings:
    """Return the settings of a run that was imported without data, with the first that it gets.

    Raises:
        RunError: It has other classes, or fewer images than a batch. Numbers that stand for names take any.
    """
    classes, there = source.classes, settings.classes
    same = are_numbers(there) or [*map(composed, classes)] == [*map(composed, there)]
    if len(classes) != len(there) or not same:
        raise RunError(
            f"data {source.name} does not fit {path}: it has {len(classes)} classes, {_short(classes)}; "
            f"the network {len(there)}, {_short(there)}"
        )
    found = len(source.train)
    batch = settings.batch if options.batch is None else options.batch
    if batch > found:
        if options.batch is not None:
            raise RunError(f"--batch {batch:,} is larger than the {found:,} training images of {source.name}")
        reporter.say(f"batch: {found:,}, all training images, instead of the run's {batch:,}")
        batch = found
    kept = {**identity(source), "image_shape": settings.image_shape, "batch": batch}
    return dataclasses.replace(settings, **kept, pictures=source.fingerprints)


def _check_data(
    source: data.Source, settings: Settings, before: Settings, path: Path, reporter: Reporter
) -> None:
    """Refuse data with other classes or sizes, and report other differences.

    Raises:
        RunError: The data is not what the run was trained on.
    """
    for name, here in identity(source).items():
        there = getattr(settings, name)
        if here != (there if name != "classes" else [*map(composed, there)]):
            raise RunError(
                f"data {source.name} is not what {path} was trained on: {name.replace('_', ' ')} "
                f"{_short(here)} here, {_short(there)} there"
            )
    other = differences(settings.pictures, source.fingerprints, "this run began with")
    if other and settings.data == before.data == ARRAYS:
        # Nobody reads a line of a program's output, and arrays are easily mixed up.
        raise RunError(
            f"the arrays are not those that {path} was trained on: {'; '.join(other)}. Give the same arrays "
            "with the same test and test_seed, or start a new run"
        )
    if settings.data != before.data:
        same = ": the same pictures" if settings.pictures and not other else ""
        here, there = (where or datasets.EMBEDDED for where in (settings.data, before.data))
        reporter.say(f"data: {here} from here on, it was {there}{same}")
    for line in other:
        reporter.say(f"data: {line}")


def _check_net(
    net: ChosenNet,
    spec: NetSpec,
    settings: Settings,
    source: data.Source,
    path: Path,
    checkpoint: Checkpoint | None,
) -> None:
    """Refuse a network other than the run's, and name the first tensor that differs.

    A network of the same layers is no other one: a run is resumed with its own name, recipe, crop and decay.

    Raises:
        CheckpointError, RunError: It is another one.
    """
    size = net.stored_size
    shape = (size, size, source.image_shape[2]) if size is not None else source.image_shape
    other, _ = net.build(shape, len(source.classes))
    seen = (spec.input.height, spec.input.width)
    if seen != (other.input.height, other.input.width) and seen[0] == seen[1] <= min(shape[:2]):
        with contextlib.suppress(ValueError):  # a network that cannot be as small is another one
            other, _ = CroppedNet(net, seen[0]).build(shape, len(source.classes))
    other = settings.applied_to(other)
    if _unplaced(other) == _unplaced(dataclasses.replace(spec, name=other.name, recipe=other.recipe)):
        return
    if checkpoint is not None:
        tensors = network_tensors(checkpoint)
        network = Network(other, batch=1, devices="cpu:0", seed=0, needs=None)
        check_tensors(path, tensors, network.state_shapes())
    raise RunError(f"{path} trains {settings.net}, not {net}; leave out --net, or start a new run")


def _unplaced(spec: NetSpec) -> NetSpec:
    """Return the network without the devices of its layers."""
    layers = (dataclasses.replace(layer, device=None, split=False) for layer in spec.layers)
    return dataclasses.replace(spec, layers=tuple(layers))


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}"
    return text if len(text) < 80 else text[:77] + "..."
