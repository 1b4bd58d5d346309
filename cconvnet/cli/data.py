"""The commands ``cconvnet data ...``: getting, preparing and looking at data."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cconvnet.cli.options import example

app = typer.Typer(help="Get, prepare, look at and check data.")


@app.callback(invoke_without_command=True)
def data_level(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(epilog=example("cconvnet data get cifar10", "cconvnet data get mnist --out digits/mnist"))
def get(
    name: Annotated[
        str,
        typer.Argument(help="cifar10 (170 MB), mnist (12 MB) or imagenette (342 MB).", metavar="NAME"),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The folder for it; data/NAME if not given.", metavar="FOLDER"),
    ] = None,
) -> None:
    """Download a public data set, checked and ready to train on.

    It can be stopped at any time; the same command goes on. CCONVNET_DATA_MIRROR may be the address of a
    folder that holds the files, to fetch them from there.
    """
    from cconvnet.data import downloads
    from cconvnet.reporter import reporter

    out = out or Path("data", name)
    with reporter() as report:
        begun = ""

        def progress(file: str, done: int, total: int) -> None:
            nonlocal begun
            if begun != file:
                report.begin(file, total, done)
                begun = file
            report.step(done, file, f"{done / 1e6:,.1f}/{total / 1e6:,.1f} MB")

        origin = downloads.get(name, out, say=report.say, progress=lambda file: partial(progress, file))
        report.end()
        counts = f"{len(origin.train):,} training"
        if origin.test is not None:
            counts += f" and {len(origin.test):,} test"
        report.say(f"{out}: {counts} pictures of {len(origin.classes):,} classes")
        report.say(f"train on it with: cconvnet train --data {shlex.quote(str(out))}")
