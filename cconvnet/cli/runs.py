"""The commands ``cconvnet runs``, ``compare`` and ``report``, which show whole runs."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cconvnet.cli.help import App, Group
from cconvnet.cli.options import (
    Best,
    Csv,
    DeviceNames,
    Json,
    RunPrecision,
    device_names,
    example,
    print_table,
    real,
    whole,
    write_csv,
    write_json,
)
from cconvnet.system.outputs import check_output

if TYPE_CHECKING:
    from cconvnet.runs.overview import Overview

MAX_DAYS = 36_600.0  # a century


class _Listing(Group):
    """A group whose command ``list`` may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``list`` before arguments that name no command of the group."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = App(
    cls=_Listing,
    help="List runs, print their logs, and remove what they no longer need.\n\n"
    "`cconvnet runs FOLDER` is short for `cconvnet runs list FOLDER`.",
)


@app.command("list", epilog=example("cconvnet runs", "cconvnet runs list FOLDER --sort error"))
def list_(
    folder: Annotated[Path, typer.Argument(help="Folder that contains the runs.", metavar="FOLDER")] = Path(
        "runs"
    ),
    sort: Annotated[
        str, typer.Option(help="Order: when, name, net, error, speed or state.", metavar="NAME")
    ] = "when",
    to_json: Json = None,
) -> None:
    """List runs with their progress, best error, speed and state.

    The one written last comes first. A run is training, complete, stopped (by the user), failed, killed (it
    could not record why), or damaged.
    """
    from cconvnet.errors import nearest
    from cconvnet.runs import overview

    if sort not in overview.SORTS:
        raise ValueError(nearest("--sort", sort, overview.SORTS))
    found = overview.overviews(folder, sort)
    if to_json:
        write_json(to_json, [run.to_dict() for run in found])
    if to_json == "-":
        return
    if not found:
        print(f"no runs in {folder}")
        return
    columns = {name: text for name, (text, room) in _COLUMNS.items() if room <= _width()}
    rows = [[text(run) for text in columns.values()] for run in found]
    print_table("", list(columns), rows, {"epochs", "best error", "at epoch", "images/s"})
    for run in found:
        if run.reason is not None:
            what, _, _ = run.reason.partition(". ")  # the rest is advice
            print(f"{run.path.name} {run.state}: {what}")


@app.command(
    epilog=example(
        "cconvnet runs log runs/first",
        "cconvnet runs log runs/first --csv epochs.csv",
        "cconvnet runs log runs/first --of steps --csv -",
    )
)
def log(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", metavar="RUN")],
    of: Annotated[
        str, typer.Option(help="Lines to show: epochs, steps or checkpoints.", metavar="NAME")
    ] = "epochs",
    to_csv: Csv = None,
    to_json: Json = None,
) -> None:
    """Print a run's log as a table, or write it as CSV or JSON.

    Columns of epochs: epoch and step, the numbers done; train_loss and train_error_top1, means over the
    epoch's steps; test_loss, test_error_top1 and test_error_top5 of the test after it; lr, the learning rate;
    images_per_second of the steps; test_seconds, the time of the test.

    Columns of steps, a row for each window of --log-every steps: step and epoch at its end; loss and
    train_error_top1, means over it; lr, and lr.NAME for parameters with another rate; images_per_second;
    copied_bytes and copy_seconds between devices.

    Columns of checkpoints: step, epoch, checkpoint (the file), bytes, stall_seconds (for which training
    paused) and write_seconds (in the background).

    Errors are shares from 0 to 1. Runs of earlier versions lack some values, which are empty.
    """
    from cconvnet import runs as folders
    from cconvnet.runs.log_table import log_table

    columns, rows = log_table(folders.folder_of(run), of)
    if to_csv:
        write_csv(to_csv, columns, rows)
    if to_json:
        write_json(to_json, [dict(zip(columns, row, strict=True)) for row in rows])
    if not to_csv and to_json != "-":
        print_table(
            "", columns, [[_cell(value) for value in row] for row in rows], {*columns} - {"checkpoint"}
        )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@app.command(
    epilog=example(
        "cconvnet runs prune",
        "cconvnet runs prune --yes",
        "cconvnet runs prune --failed --empty --older-than 30",
    )
)
def prune(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Runs, or folders that contain runs; runs/ if not given.", metavar="FOLDER"),
    ] = None,
    checkpoints: Annotated[
        bool,
        typer.Option("--checkpoints", help="All checkpoints but the newest sound one and the best one."),
    ] = False,
    set_aside: Annotated[
        bool,
        typer.Option(
            "--set-aside",
            help="Checkpoints that were set aside when a run was resumed from an earlier one.",
        ),
    ] = False,
    empty: Annotated[bool, typer.Option("--empty", help="Whole runs without a checkpoint.")] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Whole runs that ended with an error, checkpoints included.")
    ] = False,
    incomplete: Annotated[
        bool,
        typer.Option(
            "--incomplete",
            help="Whole runs that were stopped or killed before their last epoch, checkpoints included.",
        ),
    ] = False,
    older_than: Annotated[
        float,
        typer.Option(
            help="Remove a whole run only if nothing was written to it for so many days.",
            metavar="DAYS",
            callback=real(low=0, high=MAX_DAYS),
        ),
    ] = 7.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False,
    to_json: Json = None,
) -> None:
    """Remove what runs no longer need. Without --yes it is only listed.

    If no rule is named, the rules are --checkpoints and --set-aside. Each run keeps its newest and its best
    checkpoint, so that it can be resumed and evaluated.

    A run in training is left alone. Complete and imported runs are never removed as a whole, nor is a run
    with files of other programs. Links are not followed.
    """
    from cconvnet.data.inspection import sized
    from cconvnet.runs import overview, pruning

    chosen = {
        "checkpoints": checkpoints,
        "set-aside": set_aside,
        "empty": empty,
        "failed": failed,
        "incomplete": incomplete,
    }
    rules = [rule for rule, wanted in chosen.items() if wanted] or list(pruning.DEFAULT_RULES)
    paths = [path for folder in folders or [Path("runs")] for path in overview.runs_in(folder)]
    removed: list[pruning.Removal] = []
    kept: list[pruning.Kept] = []
    errors: list[str] = []
    for path in dict.fromkeys(paths):
        try:
            found, stay = pruning.prune(path, rules, days=older_than, remove=yes)
        except OSError as error:
            errors.append(f"{error.filename or path}: {error.strerror}")
            continue
        removed += found
        kept += stay
    total = sum(one.bytes for one in removed)
    if to_json:
        write_json(
            to_json,
            {
                "removed": yes,
                "bytes": total,
                "found": [{**vars(one), "path": str(one.path)} for one in removed],
                "kept": [{**vars(one), "path": str(one.path)} for one in kept],
                "errors": errors,
            },
        )
    if to_json != "-":
        for one in removed:
            print(f"{'removed' if yes else 'would remove'}: {one.path} ({sized(one.bytes)}): {one.reason}")
        for other in kept:
            print(f"kept: {other.path}: {other.reason}")
        if not removed:
            print("nothing to remove")
        elif yes:
            print(f"removed {sized(total)}")
        else:
            print(f"nothing was removed yet: --yes removes these {sized(total)}")
    for line in errors:
        print(f"error: {line}", file=sys.stderr)
    if errors:
        raise typer.Exit(1)


def compare(
    paths: Annotated[list[Path], typer.Argument(help="Folders of two runs or more.", metavar="RUN")],
    to_json: Json = None,
) -> None:
    """Compare runs: results, settings, networks, and which run is better from which epoch on."""
    from cconvnet import runs as folders
    from cconvnet.runs import comparison

    found = comparison.compare([folders.folder_of(path) for path in paths])
    if to_json != "-":
        for title, columns, rows in comparison.tables(found):
            print_table(title, columns, rows, set() if title == "networks" else set(columns[1:]))
        print(comparison.verdict(found))
    if to_json:
        write_json(to_json, found)


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or one of its checkpoints.", metavar="RUN")],
    out: Annotated[
        Path | None,
        typer.Option(help="File of the page; report.html in the run if not given.", metavar="FILE"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder of the run's data, if it has moved.", metavar="FOLDER"),
    ] = None,
    device: DeviceNames = None,
    precision: RunPrecision = None,
    best: Best = False,
    images: Annotated[
        int,
        typer.Option(
            help="Test images, spread evenly, for the confusion matrix, the classes and the mistakes.",
            metavar="N",
            callback=whole(1),
        ),
    ] = 10_000,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write a run as a single HTML file: curves, confused classes, mistakes, filters, layers, settings."""
    from cconvnet import report as pages
    from cconvnet import runs as folders
    from cconvnet.console import reporter

    target = out or folders.folder_of(run) / "report.html"
    check_output(target, "html")
    with reporter(sys.stderr) as progress:
        pages.write(
            run,
            target,
            data=data,
            devices=device_names(device),
            precision=precision,
            best=best,
            images=images,
            stepped=progress.counted("processing images"),
        )
        progress.end()
    print(target)
    if open_it:
        import webbrowser

        webbrowser.open(target.resolve().as_uri())


def _width() -> int:
    """Return the terminal's width, or enough for every column if the output is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000


def _epochs(run: Overview) -> str:
    return "" if run.epochs is None else f"{run.epochs}/{run.of_epochs}"


def _when(run: Overview) -> str:
    return "" if run.when is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(run.when))


def _text(value: object, form: str = "{}") -> str:
    return "" if value is None else form.format(value)


# The text of each column, and the terminal's width from which on it is shown.
_COLUMNS: dict[str, tuple[Callable[[Overview], str], int]] = {
    "run": (lambda run: run.path.name, 0),
    "net": (lambda run: _text(run.net), 60),
    "data": (lambda run: _text(run.data), 110),
    "epochs": (_epochs, 0),
    "best error": (lambda run: _text(run.best_error, "{:.2%}"), 0),
    "at epoch": (lambda run: _text(run.best_epoch), 120),
    "images/s": (lambda run: _text(run.images_per_second, "{:,.0f}"), 80),
    "precision": (lambda run: _text(run.precision), 130),
    "device": (lambda run: _text(run.device), 130),
    "state": (lambda run: run.state, 0),
    "last written": (_when, 100),
}
