"""The command ``cconvnet train``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from cconvnet.checks import MOST_TOWERS
from cconvnet.cli.options import (
    Batch,
    Crop,
    Data,
    DeviceNames,
    LayerDef,
    LayerParams,
    OptionalNet,
    Places,
    Precision,
    Size,
    Workers,
    device_names,
    parsed_places,
    real,
    whole,
)
from cconvnet.cli.options import seed as check_seed


def train(
    net: OptionalNet = None,
    layer_def: LayerDef = None,
    layer_params: LayerParams = None,
    crop: Crop = None,
    data: Data = None,
    device: DeviceNames = None,
    place: Places = None,
    towers: Annotated[
        int | None,
        typer.Option(
            help="Into how many parts split layers are cut; one for each device if not given.",
            metavar="N",
            callback=whole(1, MOST_TOWERS),
        ),
    ] = None,
    precision: Precision = None,
    batch: Batch = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="How often to go through the training images.", metavar="N", callback=whole()),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Stop when the run has done this many steps in all.", metavar="N", callback=whole()
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Decides weights, order, crops, dropout; 0 if not given.", metavar="N", callback=check_seed
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", help="The learning rate to begin with.", metavar="RATE", callback=real(above=0)),
    ] = None,
    lr_steps: Annotated[
        str | None,
        typer.Option(
            help="Epochs at which the rate is divided by 10, such as 60,75, or none; the network's own if "
            "not given.",
            metavar="EPOCHS",
        ),
    ] = None,
    lr_plateau: Annotated[
        str | None,
        typer.Option(
            help="Divide the rate by 10 also when the test error has not fallen for N epochs; none: never; "
            "the network's own if not given.",
            metavar="N",
        ),
    ] = None,
    lr_scale: Annotated[
        str | None,
        typer.Option(
            help="Multiply the rates of layers, such as conv1=0.1,fc8=2. A resumed run keeps what it is not "
            "told anew; 1 undoes it.",
            metavar="LAYER=FACTOR,...",
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(help="Layers that do not learn, such as conv1,conv2: factor 0.", metavar="LAYERS"),
    ] = None,
    color_noise: Annotated[
        float | None,
        typer.Option(
            help="The strength of the colour noise in training, 0: none; the network's own if not given.",
            metavar="SIGMA",
            callback=real(low=0),
        ),
    ] = None,
    size: Size = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; runs/NET-DATA-TIME if not given.", metavar="FOLDER")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Go on with this run, or from this checkpoint of it; auto: with what --out names, or "
            "with the newest run that is not complete.",
            metavar="RUN",
        ),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            help="Steps between checkpoints; ten minutes if not given. Epochs end with one, but not where "
            "that would stop training for a tenth of the time or write for half of it.",
            metavar="N",
            callback=whole(),
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            help="How many checkpoints stay, beside the best; 2 if not given, or as many as a resumed "
            "run kept.",
            metavar="N",
            callback=whole(),
        ),
    ] = None,
    log_every: Annotated[
        int, typer.Option(help="Steps per line of the log.", metavar="N", callback=whole())
    ] = 20,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the run's log for TensorBoard too.")
    ] = False,
    detect_anomaly: Annotated[
        bool,
        typer.Option(
            "--detect-anomaly",
            help="Look at every layer's values and gradients and stop at the first that is not finite; slow.",
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
    workers: Workers = None,
) -> None:
    """Train a network, or go on training one.

    Ctrl-C, SIGTERM or a terminal that closes ends the present step, saves, and says how to go on. The resumed
    run ends with bitwise the weights of one that was never stopped. Checkpoints are written while training
    goes on.
    """
    from cconvnet import plots
    from cconvnet.console import percent, reporter
    from cconvnet.formats.netfiles import chosen
    from cconvnet.training.session import train as run_training
    from cconvnet.training.settings import Options, parse_lr_plateau, parse_lr_scale, parse_lr_steps
    from cconvnet.training.stopping import Interrupts, Terminated, resume_command

    options = Options(
        net=chosen(net, layer_def, layer_params, crop),
        data=data,
        size=size,
        devices=device_names(device),
        place=parsed_places(place),
        towers=towers,
        precision=precision,
        batch=batch,
        epochs=epochs,
        steps=steps,
        seed=seed,
        lr=lr,
        lr_steps=parse_lr_steps(lr_steps),
        lr_plateau=parse_lr_plateau(lr_plateau),
        lr_scale=parse_lr_scale(lr_scale, freeze),
        color_noise=color_noise,
        out=out,
        resume=None if resume is None else Path(resume),
        checkpoint_every=checkpoint_every,
        keep=keep,
        log_every=log_every,
        tensorboard=tensorboard,
        detect_anomaly=detect_anomaly,
        workers=workers,
    )
    stop = Interrupts(ends_process=True)
    try:
        with stop:
            with reporter(quiet=quiet) as report:
                outcome = run_training(options, report, stop)
            if outcome.signal is None:
                try:
                    plots.curve(outcome.path, outcome.path / "curve.png")
                except (plots.PlotError, OSError) as error:
                    report.say(f"no curve.png: {error}")
    except Terminated as stopped:
        where = f"; to go on: {resume_command(stopped.path)}" if stopped.path else ""
        report.say(f"stopped before the first step{where}")
        return
    summary, say = outcome.summary, report.say
    if outcome.signal is None:
        say(
            f"test error {percent(summary['test_error_top1'])}, top 5 {percent(summary['test_error_top5'])}, "
            f"{summary['images_per_second']:,.0f} images/s on {summary['device']}, "
            f"{summary['steps']:,} steps in {summary['seconds']:,.1f} s"
        )
    say(f"files: {outcome.path}")
    if not summary["complete"]:
        say(f"stopped after step {summary['steps']:,}; to go on: {resume_command(outcome.path)}")
    if outcome.signal == signal.SIGINT:
        raise typer.Exit(130)
