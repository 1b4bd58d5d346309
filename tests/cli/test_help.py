"""The help of every command, and the completion of a shell."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from typing import Any

import pytest
from typer.main import get_command

from cconvnet.cli import app
from cconvnet.training.options import DESCRIPTIONS


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    command = get_command(app) if command is None else command
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


COMMANDS = dict(commands())


def help_of(path: tuple[str, ...], width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        COMMANDS[path].main(["--help"], prog_name=" ".join(["cconvnet", *path]), standalone_mode=False)
    return printed.getvalue()


def panels(text: str) -> list[str]:
    return [line.split("─ ")[1].split(" ─")[0] for line in text.splitlines() if line.startswith("╭")]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_help_has_no_placeholders_and_fits_the_terminal(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (80, 120):
        text = help_of(path, width, monkeypatch)
        assert "Usage: " in text and "--help" in text
        assert "<" not in text
        assert max(map(len, text.splitlines())) <= width


def test_every_option_of_a_training_is_in_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    text = help_of(("train",), 120, monkeypatch)
    found = panels(text)
    assert "Options" not in found
    assert set(found) == {option.panel for option in DESCRIPTIONS.values()}
    for parameter in COMMANDS[("train",)].params:
        assert parameter.rich_help_panel in found, parameter.name
    for option in DESCRIPTIONS.values():
        assert all(name in text for name in option.flag.split("/")), option.flag


def test_commands_are_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    text = help_of((), 80, monkeypatch)
    found = panels(text)
    assert found == ["Options", "Train", "Look at runs", "Data", "Networks", "Measure and check"]
    for path in COMMANDS:
        if len(path) == 1:
            assert f"│ {path[0]} " in text


def test_paragraphs_are_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = help_of(("train",), 120, monkeypatch).splitlines()
    (first,) = (line for line in lines if line.strip().startswith("After Ctrl-C"))
    assert len(first.rstrip()) > 105


def completed(*words: str) -> list[str]:
    """Return what a shell would offer for the last of some words."""
    shell = {"_CCONVNET_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words)}
    done = subprocess.run(
        [sys.executable, "-m", "cconvnet"],
        env={**os.environ, **shell, "COMP_CWORD": str(len(words) - 1)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_names() -> None:
    assert completed("cconvnet", "gra") == ["gradcheck"]
    assert {"--lr", "--lr-schedule", "--lr-steps"} <= set(completed("cconvnet", "train", "--lr"))
    assert completed("cconvnet", "train", "--net", "cifar-1") == ["cifar-18pct", "cifar-13pct", "cifar-11pct"]
