"""The commands ``cconvnet data ...``: getting, preparing and looking at data."""

from __future__ import annotations

import typer

app = typer.Typer(help="Get, prepare, look at and check data.")


@app.callback(invoke_without_command=True)
def data_level(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
