"""Commands whose help is plain: flags without placeholders, paragraphs as wide as the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# The groups of commands in the help of ``cconvnet``, in its order.
TRAIN, LOOK, DATA, NETWORKS, MEASURE = "Train", "Look at runs", "Data", "Networks", "Measure and check"


def _plain(help: str | None) -> str | None:
    """Return a text with each paragraph on one line, which the terminal then folds at its own width."""
    if help is None:
        return None
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in help.split("\n\n"))


def _no_type(ctx: Any) -> None:
    """Return no text in place of an argument's type."""


def _without_placeholders(parameters: list[Any]) -> list[Any]:
    """Remove the types that typer shows behind flags and arguments; --help joins the panel before it."""
    for before, parameter in zip([None, *parameters], parameters, strict=False):
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = _no_type
        if parameter.name == "help" and before is not None:
            parameter.rich_help_panel = before.rich_help_panel
    return parameters


class Command(TyperCommand):
    """A command with plain help."""

    def __init__(self, name: str | None, *, help: str | None = None, **more: Any) -> None:
        super().__init__(name, help=_plain(help), **more)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, --help too."""
        return _without_placeholders(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands with plain help."""

    def __init__(self, *, help: str | None = None, **more: Any) -> None:
        super().__init__(help=_plain(help), **more)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, --help too."""
        return _without_placeholders(super().get_params(ctx))


class App(typer.Typer):
    """A group of commands, all of which have plain help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"cls": Group, **settings})

    def command(self, name: str | None = None, **settings: Any) -> Callable[..., Any]:
        """Return a decorator that adds a function as a command; see ``typer.Typer.command``."""
        return super().command(name, **{"cls": Command, **settings})
