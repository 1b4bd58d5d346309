"""The command ``cconvnet ablate``."""

from __future__ import annotations

import shlex
import signal
import sys
from typing import Annotated

import typer

from cconvnet.cli.options import Json, print_table, real, reporter_for, takes_options, write_json
from cconvnet.training.option import NETWORK, RATES, RUN
from cconvnet.training.options import Options


@takes_options(without=("resume", "steps", "weights", "except_layers"))
def ablate(
    options: Options,
    what: Annotated[
        str | None,
        typer.Option(
            "--what",
            help="Parts to leave out, one at a time: relu (tanh in its place), lrn, overlap (of pooling "
            "windows), dropout, towers (one, of half the filters), augmentation, separated by commas. All "
            "that the network has if not given.",
            metavar="PARTS",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    tanh_lr: Annotated[
        float | None,
        typer.Option(
            "--tanh-lr",
            help="Learning rate of the run with tanh, as the paper chose those of both; --lr if not given.",
            metavar="RATE",
            callback=real(above=0),
            rich_help_panel=RATES,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print nothing but errors.", rich_help_panel=RUN)
    ] = False,
    to_json: Json = None,
) -> None:
    """Train a network, and the same without each of its parts, as the AlexNet paper compares them.

    The runs follow each other with one recipe, one seed and the same images. They are in --out: full,
    tanh, no-lrn, no-overlap, no-dropout, one-tower, no-augmentation. A table, ablation.md, shows their errors
    and speed beside what the paper found. A picture, ablation.png, is the paper's figure 1: training error
    over epochs, with ReLU solid and with tanh dashed.

    The same command again goes on where it was stopped: runs that are complete are not repeated, others are
    resumed. With other parts it adds their runs. It needs no option but --out, --what and --tanh-lr.
    """
    from cconvnet.runs import ablation as results
    from cconvnet.training.ablation import ablate as run_ablation
    from cconvnet.training.stopping import Terminated

    words = None if what is None else [word.strip() for word in what.split(",")]
    with reporter_for(to_json, quiet) as report:
        try:
            outcome = run_ablation(options, words, report, tanh_lr)
        except Terminated as stopped:
            report.say(f"stopped before the first step of {stopped.path or 'a run'}")
            return
        report.end()
        if outcome.signal is not None:
            again = ["cconvnet", "ablate", "--out", str(outcome.folder)]
            again += [] if what is None else ["--what", what]
            again += [] if tanh_lr is None else ["--tanh-lr", str(tanh_lr)]
            report.say(f"stopped; to go on: {shlex.join(again)}")
            if outcome.signal == signal.SIGINT:
                raise typer.Exit(130)
            return
        found = results.results(outcome.folder)
        if to_json != "-" and not quiet:
            columns, rows = results.table(found)
            print_table("", columns, rows, {*columns} - {columns[0], columns[-1]})
        for line in [*results.notes(found), f"files: {outcome.folder}"]:
            report.say(line)
    if to_json:
        write_json(to_json, found)
    if outcome.failed:
        print(f"error: could not be trained to the end: {', '.join(outcome.failed)}", file=sys.stderr)
        raise typer.Exit(1)
