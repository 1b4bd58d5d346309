"""The commands ``cconvnet plot ...``: pictures of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cconvnet.cli.options import example


class _CurveUnlessNamed(TyperGroup):
    """``cconvnet plot RUN`` is ``cconvnet plot curve RUN``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["curve", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_CurveUnlessNamed, help="Draw runs: curves, filters, predictions, a step's time.")

Out = Annotated[
    Path | None,
    typer.Option(help="The picture's file, .png, .svg or .pdf; in the run if not given.", metavar="FILE"),
]
Run = Annotated[Path, typer.Argument(help="The folder of a run, or one of its checkpoints.", metavar="RUN")]


@app.callback(invoke_without_command=True)
def plot_level(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(epilog=example("cconvnet plot runs/first"))
def curve(run: Run, out: Out = None) -> None:
    """Draw a run's training curve."""
    from cconvnet import plots, runs

    folder = runs.folder_of(run)
    runs.read_config(folder)
    target = out or folder / "curve.png"
    plots.curve(folder, target)
    print(target)


@app.command(epilog=example("cconvnet plot filters runs/first"))
def filters(run: Run, out: Out = None) -> None:
    """Draw the filters of a run's first layer."""
    from cconvnet import plots, runs

    target = out or runs.folder_of(run) / "filters.png"
    plots.filters(run, target)
    print(target)
