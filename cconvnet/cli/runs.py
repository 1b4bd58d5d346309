"""The commands ``cconvnet runs``, ``compare`` and ``report``, which show whole runs."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cconvnet.cli.options import (
    Best,
    DeviceNames,
    Json,
    RunPrecision,
    device_names,
    print_table,
    write_json,
)
from cconvnet.system.outputs import check_output

if TYPE_CHECKING:
    from cconvnet.runs.overview import Overview


def runs(
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


def compare(
    paths: Annotated[list[Path], typer.Argument(help="Folders of two runs or more.", metavar="RUN...")],
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
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write a run's results, curves, filters, predictions and settings to a single HTML file."""
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
