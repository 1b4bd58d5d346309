"""A new run: its data, network, settings and folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import data
from cconvnet.console import Reporter
from cconvnet.data import datasets
from cconvnet.data.datasets import Arrays
from cconvnet.data.datasets.arrays import NAME as ARRAYS
from cconvnet.data.label_images import has_pixels
from cconvnet.data.preprocessing import CURRENT
from cconvnet.devices import Device
from cconvnet.formats.netfiles import resolve
from cconvnet.formats.weights import Fitted
from cconvnet.nets import NetSpec, TrainRecipe, place
from cconvnet.nets.costs import check_labels
from cconvnet.network import Network
from cconvnet.ranks.world import World
from cconvnet.runs.checkpoint import KEEP
from cconvnet.runs.folder import Run, check_new, new_folder
from cconvnet.system.outputs import check_folder, write_output
from cconvnet.training import option_files
from cconvnet.training.imported import Reading, net_of, weights_of
from cconvnet.training.options import Options
from cconvnet.training.preparation import (
    absolute_data,
    check_shards,
    chosen_net,
    configuration,
    keep_arrays,
    make_network,
    open_data,
    surroundings,
)
from cconvnet.training.settings import Settings
from cconvnet.training.trainer import Trainer, rates_of


def new_run(
    options: Options,
    devices: list[Device],
    reporter: Reporter,
    weights: Callable[[Network], dict[str, np.ndarray[Any, Any]]] | None = None,
    fits: Callable[[NetSpec], Fitted] | None = None,
    arrays: Arrays | None = None,
    keep: bool | None = None,
    world: World | None = None,
) -> Trainer:
    """Make a new run, ready to begin.

    Args:
        options: What the user asks for.
        devices: Where the network is.
        reporter: Prints what was found and chosen.
        weights: Returns the state that the network begins with; None: random weights, or those of `fits`.
        fits: Returns trained weights for the network; None: those of ``options.weights``, if there are any.
        arrays: The data, instead of ``options.data``.
        keep: Whether the run's folder keeps the arrays; see preparation.keep_arrays().
        world: The ranks; this is the first. None: there are no others.

    Raises:
        ValueError: An option, the data or the folder cannot be used. Then there is no run.
    """
    world = world or World.alone()
    if options.out is not None:
        check_new(options.out)
    else:
        check_folder(Path("runs"))
    imported = fits is not None
    repeatable = weights is None and not imported
    net = chosen_net(options)
    if options.weights is not None:
        given = weights_of(options.weights)
        net = net or net_of(given)
        fits = partial(Reading(options.except_layers or ()).fitted, given)
        options = dataclasses.replace(options, weights=options.weights.absolute())
        reporter.say(f"weights: {given.path}")
    net = net or resolve("lenet")
    size = net.stored_size if options.size is None else options.size
    where = absolute_data(options.data) if arrays is None else ARRAYS
    opened = datasets.from_settings(where, Path()) if arrays is None else arrays
    source = open_data(opened, size, CURRENT, options, reporter)
    spec, notes = net.build(source.image_shape, len(source.classes))
    check_labels(spec, str(net), has_pixels(source.train.labels))
    for note in notes:
        reporter.say(f"{net}: {note}")
    fitted = None if fits is None else fits(spec)
    if fitted is not None:
        spec = fitted.spec
        for note in fitted.notes:
            reporter.say(f"weights: {note}")
    spec = place(spec, options.place or {})
    shards = world.size if options.shards is None else options.shards
    check_shards(shards, world)
    batch = _batch(options, spec, source, shards, reporter)
    towers = len(devices) if options.towers is None else options.towers
    options = dataclasses.replace(options, data=where, size=size, batch=batch, towers=towers, shards=shards)
    settings = dataclasses.replace(Settings.chosen(options, spec, source), imported=imported)
    if options.lr is None and options.weights is not None:
        reporter.say(
            f"lr: {settings.lr:g}, the recipe's for random weights; trained ones may want a lower --lr"
        )
    elif options.lr is None and (advice := linear_rule(settings, spec.recipe)):
        reporter.say(advice)
    if has_pixels(source.train.labels) and (settings.random_resized_crop or not settings.distort.is_identity):
        raise ValueError(
            "labels of pixels are cropped and mirrored with their images, and not resized or distorted: "
            "leave out --random-resized-crop and --distort"
        )
    spec = settings.applied_to(spec)
    network = make_network(spec, settings, devices, options, world)
    rates_of(settings, network)  # refuses rates of layers that the network lacks
    if weights is not None:
        network.load_state(weights(network))
    for name, value in ({} if fitted is None else fitted.tensors).items():
        network.parameters[name].fill("value", value)
    path = options.out or new_folder(spec.name, source.name)
    checkpoints = KEEP if options.keep is None else options.keep
    run = Run.create(path, configuration(settings, spec, network, checkpoints) | surroundings(network))
    run.checkpoints.keep = checkpoints
    try:
        if arrays is not None:
            keep_arrays(run, arrays, keep, reporter)
        if repeatable:
            text = option_files.text_of_run(options, settings)
            write_output(run.path / option_files.NAME, [text.encode()])
        return Trainer(run, settings, network, source, reporter, world)
    except BaseException:
        run.close()
        raise


def linear_rule(settings: Settings, recipe: TrainRecipe) -> str:
    """Return advice on the rate of a step that is larger than the recipe's; nothing if it is not.

    Source: Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.1.
    """
    times = settings.step_images / recipe.batch
    if times < 2:
        return ""
    return (
        f"lr: {settings.lr:g}, that of {recipe.batch:,} images a step; by the linear rule "
        f"{settings.step_images:,} want --lr {settings.lr * times:g}, with --warmup 5"
    )


def _batch(options: Options, spec: NetSpec, source: data.Source, shards: int, reporter: Reporter) -> int:
    """Return the images of a batch; a recipe's is lowered if a step has more than the training images.

    It is a multiple of the number of shards.
    """
    accumulate = options.accumulate or 1
    found, most = len(source.train), len(source.train) // accumulate
    times = "" if accumulate == 1 else f" {accumulate:,} times"
    if most < 1:
        raise ValueError(f"--accumulate {accumulate:,} is more than the {found:,} training images")
    if most < shards:
        raise ValueError(f"--shards {shards:,}{times} is more than the {found:,} training images")
    if options.batch is None:
        batch = min(spec.recipe.batch, most)
        chosen = max(batch // shards, 1) * shards
        why = "all training images" if chosen == most else f"a multiple of {shards:,} shards"
        if chosen != spec.recipe.batch:
            reporter.say(f"batch: {chosen:,}{times}, {why}, instead of {spec.name}'s {spec.recipe.batch:,}")
        return chosen
    if options.batch > most:
        raise ValueError(
            f"--batch {options.batch:,}{times} is larger than the {found:,} training images of {source.name}"
        )
    if options.batch % shards:
        raise ValueError(f"--batch {options.batch:,} must be a multiple of --shards {shards:,}")
    return options.batch
