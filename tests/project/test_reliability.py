"""Each command in docs/reliability.md runs tests, and long ones where it promises those."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r'`make ([a-z-]+)(?: ARGS="([^"]*)")?[^`]*`', PAGE)))


def defined_in(file: Path) -> dict[str, bool]:
    """Map the names of a file's tests to whether they are long ones."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {
        node.name: any("mark.long" in ast.unparse(mark) for mark in node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def rows() -> list[list[str]]:
    table = PAGE.split("| promise | test |")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_every_promise_has_a_command() -> None:
    assert len(rows()) > 15
    for promise, test, every, long, repeat in rows():
        assert test and every and long and "`make " in repeat, promise


@pytest.mark.parametrize(("target", "arguments"), COMMANDS)
def test_commands_run_what_they_say(target: str, arguments: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    words = shlex.split(arguments)
    files = [ROOT / word for word in words if word.startswith("tests/")]
    assert all(file.exists() for file in files)
    if "-k" not in words:
        return
    word = words[words.index("-k") + 1]
    found = {name: is_long for file in files for name, is_long in defined_in(file).items() if word in name}
    assert found, f"no test is called {word}"
    if target == "check-long":
        assert any(found.values()), f"no long test is called {word}"


def test_the_words_of_a_command_are_looked_up() -> None:
    tests = defined_in(ROOT / "tests" / "training" / "test_training_signals.py")
    assert tests["test_two_hundred_kills_lose_nothing"] and not tests["test_kills_lose_nothing"]
