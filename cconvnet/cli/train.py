"""The command ``cconvnet train``."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from cconvnet.cli.options import takes_options
from cconvnet.training.option import RUN
from cconvnet.training.options import Options


@takes_options()
def train(
    options: Options,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print nothing but errors.", rich_help_panel=RUN)
    ] = False,
) -> None:
    """Train a network, or resume its training.

    After Ctrl-C, SIGTERM, or when its terminal closes, training finishes the current step, saves a checkpoint
    and prints the command that resumes. A resumed run ends with weights that are bit-identical to those of an
    uninterrupted one. Checkpoints are saved in the background.

    Several processes train one network together, each on its part of every batch: mpiexec -n 4 cconvnet
    train. Their number does not change the result, as long as --shards is the same.
    """
    from cconvnet import plots, ranks
    from cconvnet.console import reporter
    from cconvnet.training.session import train as run_training
    from cconvnet.training.stopping import Interrupts, Terminated, resume_command

    stop = Interrupts(ends_process=True)
    world = ranks.join()
    try:
        with stop:
            with reporter(quiet=quiet or not world.first) as report:
                outcome = run_training(options, report, stop, world=world)
            world.close()
            if outcome.signal is None and world.first:
                plots.into_run(outcome.path, report.say)
    except Terminated as stopped:
        where = f"; to resume: {resume_command(stopped.path)}" if stopped.path else ""
        said = f"stopped before the first step{where}"
        if world.size > 1:
            world.fail(0, said)  # the others may wait for this rank, and know of no signal
        report.say(said)
        return
    for line in outcome.lines(resume_command(outcome.path)):
        report.say(line)
    if outcome.signal == signal.SIGINT:
        raise typer.Exit(130)
