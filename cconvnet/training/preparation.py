"""Parts of a training that new and resumed runs prepare alike: data, network and configuration."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

from cconvnet import data, nets
from cconvnet.console import Reporter
from cconvnet.data import datasets
from cconvnet.data.datasets import Arrays
from cconvnet.data.datasets.arrays import FILE as ARRAYS_FILE
from cconvnet.data.preprocessing import Preprocessing
from cconvnet.data.workers import surplus
from cconvnet.devices import Device, check_precision, machine
from cconvnet.formats import netfiles
from cconvnet.nets import NetSpec
from cconvnet.network import Network
from cconvnet.network.footprint import Plan
from cconvnet.ranks import RanksError
from cconvnet.ranks.world import World
from cconvnet.runs import tensorboard
from cconvnet.runs.data_record import account_lines
from cconvnet.runs.folder import Run
from cconvnet.runs.reading import MACHINE
from cconvnet.training.options import Options
from cconvnet.training.settings import Settings
from cconvnet.training.team import share_of

# Larger arrays are not kept in a run's folder, unless that is asked for: MNIST's are, CIFAR-10's are not.
MAX_KEPT_BYTES = 64 * 2**20


def check_options(options: Options) -> None:
    """Check the options before anything is read or made.

    Raises:
        ValueError: No run can have one of them; the text names it.
    """
    options.check()
    netfiles.check_choice(options.net, options.layer_def, options.layer_params, options.crop)
    if options.resume is not None and not options.resumes_any:
        for name, value in (("--layer-def", options.layer_def), ("--crop", options.crop)):
            if value is not None:
                raise ValueError(f"--resume keeps the run's own network; leave out {name}")
    check_precision(options.precision)
    if options.tensorboard:
        tensorboard.require()


def check_shards(shards: int, world: World) -> None:
    """Check that each rank has a shard.

    Raises:
        RanksError: There are fewer shards than ranks.
    """
    if shards < world.size:
        raise RanksError(f"--shards {shards} is less than the {world.size} ranks; start at most {shards}")


def chosen_net(options: Options) -> netfiles.ChosenNet | None:
    """Return the network that the options choose; None if they choose none.

    Raises:
        ValueError: The options do not go together, or there is no such network.
    """
    return netfiles.chosen(options.net, options.layer_def, options.layer_params, options.crop)


def absolute_data(where: str | None) -> str | None:
    """Return the name of the data by which the run can be resumed from any working folder."""
    if where is None or (where == datasets.EMBEDDED and not Path(where).is_dir()):
        return where
    return str(Path(where).absolute())


def open_data(
    where: datasets.Where, size: int | None, rules: Preprocessing, options: Options, reporter: Reporter
) -> data.Source:
    """Open the data, and report what was found in it.

    Raises:
        ValueError: It cannot be used.
    """
    source = data.open_source(
        where,
        size,
        workers=options.workers,
        preprocessing=rules,
        progress=reporter.counted("reading pictures"),
        scan=reporter.counted("scanning data"),
    )
    reporter.end()
    for line in [*account_lines(source), *source.notes]:
        reporter.say(f"data: {line}")
    if source.ranges is not None and (
        note := surplus(options.workers, max(len(source.train), len(source.test)))
    ):
        reporter.say(note)
    return source


def keep_arrays(run: Run, arrays: Arrays, keep: bool | None, reporter: Reporter) -> None:
    """Keep the arrays that a run is trained on in its folder, so that it needs nothing else later.

    Args:
        run: The run.
        arrays: The arrays.
        keep: True or False; None: up to MAX_KEPT_BYTES.
        reporter: Prints where they are, or why they are not kept.

    Raises:
        OSError: They cannot be written.
    """
    file = run.path / ARRAYS_FILE
    size = f"{arrays.nbytes / 1e6:,.1f} MB"
    if keep or (keep is None and arrays.nbytes <= MAX_KEPT_BYTES):
        arrays.save(file)
        reporter.say(f"data: the arrays, {size}, are kept in {file}")
    else:
        file.unlink(missing_ok=True)  # arrays of an earlier session
        reporter.say(f"data: the arrays, {size}, are not kept; to resume or evaluate, give them again")


def make_network(
    spec: NetSpec, settings: Settings, devices: list[Device], options: Options, world: World
) -> Network:
    """Make the network of a run, with random weights."""
    return Network(
        spec,
        batch=settings.pass_images,
        share=share_of(world, settings),
        lars=settings.lars,
        devices=[device.name for device in devices],
        towers=settings.towers,
        seed=settings.seed,
        precision=settings.precision,
        accumulates=settings.accumulate > 1,
        needs="run" if world.first else "training",  # the others keep no snapshot
        fuse=not options.detect_anomaly,  # values within fused layers could not be checked
    )


def configuration(settings: Settings, spec: NetSpec, network: Network | Plan, keep: int) -> dict[str, Any]:
    """Return the content of ``config.json``, but for the surroundings.

    Args:
        settings: The run's settings.
        spec: The network's description.
        network: The network, or its plan.
        keep: The number of checkpoints that stay beside the best.
    """
    description = network.describe()
    return {
        "settings": dataclasses.asdict(settings),
        "device": description["device"],
        "parameters": description["parameters"],
        "spec": nets.spec_to_dict(spec),
        "keep": keep,
    }


def surroundings(network: Network | Plan) -> dict[str, Any]:
    """Return date, command, software and machine, as ``config.json`` contains them."""
    found = machine.describe(network.devices[0], clocks=False)
    found |= {"host": platform.node(), "system": platform.platform()}
    return {key: found[key] for key in ("date", "command", "versions", *MACHINE) if key in found}


def resumed_surroundings(config: dict[str, Any], network: Network, step: int) -> dict[str, Any]:
    """Return the surroundings in which a run was begun, with a list of others in which it was resumed.

    Args:
        config: The run's configuration up to now.
        network: The network.
        step: The step from which the run is resumed. What came after it is forgotten.
    """
    now = surroundings(network)
    kept = {key: value for key, value in config.items() if key in now}
    resumed = [one for one in config.get("resumed", []) if one["step"] < step]
    before = resumed[-1] if resumed else kept
    if any(before.get(key) != now.get(key) for key in ("versions", *MACHINE)):
        resumed.append({"step": step, **now})
    return {**kept, "resumed": resumed}
