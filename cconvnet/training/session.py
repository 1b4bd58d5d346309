"""From options to a run, new or going on where it was stopped; :mod:`cconvnet.training.trainer` trains it."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import data, nets, runs
from cconvnet.console import Reporter
from cconvnet.data import datasets
from cconvnet.data.fingerprint import differences
from cconvnet.data.names import composed
from cconvnet.data.preprocessing import CURRENT, Preprocessing
from cconvnet.data.workers import surplus
from cconvnet.devices import Device, check_precision, devices_of, machine
from cconvnet.evaluate import network_tensors
from cconvnet.formats import netfiles
from cconvnet.nets import NetSpec, place
from cconvnet.network import Network
from cconvnet.runs import (
    Run,
    RunError,
    check_new,
    find_checkpoint,
    folder_of,
    new_folder,
    tensorboard,
    unfinished,
)
from cconvnet.runs.checkpoint import KEEP, Checkpoint, check_tensors
from cconvnet.system.outputs import check_folder
from cconvnet.training import start
from cconvnet.training.options import Options
from cconvnet.training.settings import Settings, identity
from cconvnet.training.stopping import Interrupts, Terminated
from cconvnet.training.trainer import Outcome, Trainer, rates_of

# What --resume takes for "whatever there is to go on with".
AUTO = Path("auto")


def train(options: Options, reporter: Reporter, stop: Interrupts | None = None) -> Outcome:
    """Trains a network, or goes on training it.

    Args
        stop: hears the signals that end training; without, training hears them itself, to its end.

    Raises
        ValueError: an option, the data, the run's folder or a checkpoint cannot be used; the text says why.
        DeviceUnavailable: likewise for a device.
        TrainingStopped: a value is not finite, the disk cannot be written, a decoding process died, or the
            data can no longer be read.
        Terminated: SIGTERM or SIGHUP came before the first step.
    """
    check_options(options)
    with Interrupts() if stop is None else contextlib.nullcontext(stop) as stop:
        devices = devices_of(options.devices)
        for device in devices:
            reporter.say(f"device: {device.name}: {device.reason}")
        options = _with_resume(options, reporter)
        prepare = _started if options.resume is None else _resumed
        trainer = prepare(options, devices, reporter)
        trainer.stop = stop
        with trainer.run, trainer.saver:
            try:
                start.begin(trainer, options)
                stop.patient = True  # until here there was nothing to save
            except Terminated:
                raise Terminated(trainer.run.path) from None
            return trainer.train(options)


def _with_resume(options: Options, reporter: Reporter) -> Options:
    """The options with the run that ``--resume auto`` means, or with none if it means a new one."""
    if options.resume != AUTO:
        return options
    if options.out is not None and not (options.out / "config.json").exists():
        reporter.say(f"{options.out} holds no run yet: beginning it")
        return dataclasses.replace(options, resume=None)
    path = options.out or unfinished(Path("runs"))
    # A command that is given again and again may well name the network's files each time.
    return dataclasses.replace(options, resume=path, layer_def=None, layer_params=None, crop=None)


def begin_with(
    options: Options, weights: Callable[[Network], dict[str, np.ndarray[Any, Any]]], reporter: Reporter
) -> Path:
    """A new run whose first checkpoint has given weights instead of random ones; nothing is trained.

    Args
        weights: gives the state (``Network.state()``) that a network of this run begins with.

    Raises
        ValueError, DeviceUnavailable: as train(), and whatever `weights` raises; there is no run then.
    """
    check_options(options)
    trainer = _started(options, devices_of(options.devices), reporter, weights)
    with trainer.run, trainer.saver:
        start.begin(trainer, options)
        trainer.checkpoints.wait()
    return trainer.run.path


def check_options(options: Options) -> None:
    """Refuses values that no run can have."""
    options.check()
    _chosen_net(options)
    if options.resume not in (None, AUTO) and options.layer_def is not None:
        raise ValueError("--resume goes on with the run's own network; leave out --layer-def")
    check_precision(options.precision)
    if options.tensorboard:
        tensorboard.require()


def _chosen_net(options: Options) -> str | netfiles.NetFiles | None:
    return netfiles.chosen(options.net, options.layer_def, options.layer_params, options.crop)


def _started(
    options: Options,
    devices: list[Device],
    reporter: Reporter,
    weights: Callable[[Network], dict[str, np.ndarray[Any, Any]]] | None = None,
) -> Trainer:
    """A new run, its network with the state that `weights` gives, or with random weights."""
    if options.out is not None:
        check_new(options.out)
    else:
        check_folder(Path("runs"))
    net = _chosen_net(options) or "lenet"
    size = netfiles.stored_size(net) if options.size is None else options.size
    where = _from_anywhere(options.data)
    source = _open_data(where, size, CURRENT, options, reporter)
    spec, notes = netfiles.build(net, source.image_shape, len(source.classes))
    for note in notes:
        reporter.say(f"{net}: {note}")
    spec = place(spec, options.place or {})
    batch = spec.recipe.batch if options.batch is None else options.batch
    if batch > len(source.train):
        if options.batch is not None:
            raise ValueError(
                f"--batch {batch:,} is larger than the {len(source.train):,} training images of {source.name}"
            )
        reporter.say(f"batch: {len(source.train):,}, all training images, instead of {spec.name}'s {batch:,}")
        batch = len(source.train)
    towers = len(devices) if options.towers is None else options.towers
    options = dataclasses.replace(options, data=where, size=size, batch=batch, towers=towers)
    settings = Settings.chosen(options, spec, source)
    network = _network(spec, settings, devices, options)
    rates_of(settings, network)
    if weights is not None:
        network.load_state(weights(network))
    path = options.out or new_folder(spec.name, source.name)
    keep = {"keep": KEEP if options.keep is None else options.keep}
    run = Run.create(path, _config(settings, spec, network) | keep | _surroundings(network))
    run.checkpoints.keep = keep["keep"]
    return Trainer(run, settings, network, source, reporter)


def _from_anywhere(where: str | None) -> str | None:
    """The name of the data by which the run can be resumed from any folder."""
    if where is None or (where == datasets.EMBEDDED and not Path(where).is_dir()):
        return where
    return str(Path(where).absolute())


def _resumed(options: Options, devices: list[Device], reporter: Reporter) -> Trainer:
    """A run that goes on where its newest sound checkpoint, or the named one, stands."""
    assert options.resume is not None
    path = folder_of(options.resume)
    if options.out is not None and options.out.resolve() != path.resolve():
        raise RunError(f"--resume {path} writes into {path}; leave out --out {options.out}")
    run = Run.open(path)
    try:
        return _continued(run, options, devices, reporter)
    except BaseException:
        run.close()
        raise


def _continued(run: Run, options: Options, devices: list[Device], reporter: Reporter) -> Trainer:
    """The rest of ``_resumed``, once the run is ours alone."""
    assert options.resume is not None
    path = run.path
    file, checkpoint = None, None
    if path == options.resume and not run.checkpoints.files():
        # Killed before its first checkpoint: the run begins again with the same settings.
        stored, spec_values = run.config["settings"], run.config["spec"]
    else:
        file, checkpoint, skipped = find_checkpoint(options.resume)
        for line in skipped:
            reporter.say(f"skipped: {line}")
        stored, spec_values = checkpoint.settings, checkpoint.spec
    settings = Settings.from_dict(stored)
    spec = place(nets.spec_from_dict(spec_values), options.place or {})

    # These say where and for how long; rates and noise changed by hand are how the 2012 network was trained.
    changes = options.given("take")
    if options.data is not None:
        changes["data"] = _from_anywhere(options.data)
    if settings.towers < len(devices):
        # Fewer devices than towers hold several each, so that not a bit changes.
        changes["towers"] = len(devices)
    if (factors := options.lr_factors()) is not None:
        changes["lr_scale"] = {**settings.lr_scale, **factors}
    for name, given in options.given("refuse").items():
        if given != (there := getattr(settings, name)):
            raise RunError(
                f"--{name} {given} differs from the run's, {there}; leave it out, or start a new run"
            )
    before, settings = settings, dataclasses.replace(settings, **changes)

    source = _open_data(settings.data, settings.size, settings.preprocessing, options, reporter)
    for name, here in identity(source).items():
        there = getattr(settings, name)
        if here != (there if name != "classes" else [*map(composed, there)]):
            raise RunError(
                f"data {source.name} is not what {path} was trained on: {name.replace('_', ' ')} "
                f"{_short(here)} here, {_short(there)} there"
            )
    other = differences(settings.pictures, source.fingerprints, "this run began with")
    if settings.data != before.data:
        same = ": the same pictures" if settings.pictures and not other else ""
        here, there = (where or "digits" for where in (settings.data, before.data))
        reporter.say(f"data: {here} from here on, it was {there}{same}")
    for line in other:
        reporter.say(f"data: {line}")
    if not settings.pictures:  # a run of an older version: known from here on
        settings = dataclasses.replace(settings, pictures=source.fingerprints)
    if options.net is not None and options.net != settings.net:
        _refuse_other_net(options.net, settings, source, file or path, checkpoint)
    network = _network(spec, settings, devices, options)
    trainer = Trainer(run, settings, network, source, reporter)
    step = 0 if checkpoint is None else int(checkpoint.progress["step"])
    keep = {"keep": run.config.get("keep", KEEP) if options.keep is None else options.keep}
    run.checkpoints.keep = keep["keep"]
    run.write_config(_config(settings, spec, network) | keep | _still(run.config, network, step))
    if checkpoint is not None and file is not None:
        start.go_back(trainer, checkpoint, file, named=file == options.resume)
    for line in start.changes(trainer, before):
        reporter.say(line)
    if (was := runs.arithmetic(run.config, step)) != (now := runs.arithmetic(run.config)):
        reporter.say(f"arithmetic: {now} from here on, it was {was}: rounding differs")
    where = f"step {trainer.progress.step:,}" if file else "the beginning: it has no checkpoint yet"
    reporter.say(f"resuming {path} from {where}")
    return trainer


def _refuse_other_net(
    name: str, settings: Settings, source: data.Source, path: Path, checkpoint: Checkpoint | None
) -> None:
    """Says that the run trains another network than the one asked for, and the first tensor that differs."""
    size = nets.stored_size(name)
    shape = (size, size, source.image_shape[2]) if size is not None else source.image_shape
    other = nets.build(name, image_shape=shape, classes=len(source.classes))
    if checkpoint is not None:
        tensors = network_tensors(checkpoint)
        network = Network(other, batch=1, devices="cpu:0", seed=0, needs=None)
        check_tensors(path, tensors, network.state_shapes())
    raise RunError(f"{path} trains {settings.net}, not {name}; leave out --net, or start a new run")


def _open_data(
    where: str | None, size: int | None, rules: Preprocessing, options: Options, reporter: Reporter
) -> data.Source:
    """The source, with progress while its pictures are decoded, and what there is to say about it."""
    source = data.open_source(
        datasets.stored(where),
        size,
        workers=options.workers,
        preprocessing=rules,
        progress=reporter.counted("reading pictures"),
        scan=reporter.counted("looking through data"),
    )
    reporter.end()
    for line in [*(source.account.lines() if source.account is not None else []), *source.notes]:
        reporter.say(f"data: {line}")
    if source.extents is not None and (
        note := surplus(options.workers, max(len(source.train), len(source.test)))
    ):
        reporter.say(note)
    return source


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}"
    return text if len(text) < 80 else text[:77] + "..."


def _network(spec: NetSpec, settings: Settings, devices: list[Device], options: Options) -> Network:
    return Network(
        spec,
        batch=settings.batch,
        devices=[device.name for device in devices],
        towers=settings.towers,
        seed=settings.seed,
        precision=settings.precision,
        needs="run",
        fuse=not options.detect_anomaly,  # what lies within fused layers could not be looked at
    )


def _config(settings: Settings, spec: NetSpec, network: Network) -> dict[str, Any]:
    description = network.describe()
    return {
        "settings": dataclasses.asdict(settings),
        "device": description["device"],
        "parameters": description["parameters"],
        "spec": nets.spec_to_dict(spec),
    }


def _surroundings(network: Network) -> dict[str, Any]:
    """When and how a run was begun, with what software, on which machine."""
    found = machine.describe(network.devices[0], clocks=False)
    found |= {"host": platform.node(), "system": platform.platform()}
    return {key: found[key] for key in ("date", "command", "versions", *runs.MACHINE) if key in found}


def _still(config: dict[str, Any], network: Network, step: int) -> dict[str, Any]:
    """The surroundings that a run was begun in, with a list of those, other than before, it went on in."""
    now = _surroundings(network)
    kept = {key: value for key, value in config.items() if key in now}
    # What came after the step that it goes on from is undone.
    resumed = [one for one in config.get("resumed", []) if one["step"] < step]
    before = resumed[-1] if resumed else kept
    if any(before.get(key) != now.get(key) for key in ("versions", *runs.MACHINE)):
        resumed.append({"step": step, **now})
    return {**kept, "resumed": resumed}
