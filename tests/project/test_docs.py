"""The documents' code runs, and their commands exist."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers.commands import COMPILER
from helpers.documents import PAGES, ROOT, Block, blocks, commands

from cconvnet.cli import app
from cconvnet.devices import get_device

MOST_NOT_RUN = 4
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
BLOCKS = {name: list(blocks(text)) for name, text in TEXTS.items()}


def is_run(block: Block) -> bool:
    return block.language == "python" and not block.use.startswith(("not run", "file ", "from "))


def needed(block: Block) -> str | None:
    """Return the package that a block needs beside the project's own."""
    return block.use.removeprefix("needs ") if block.use.startswith("needs ") else None


# ---- Python ---------------------------------------------------------------------------------------------

RUNS = {(name, needed(block)) for name, found in BLOCKS.items() for block in found if is_run(block)}


@pytest.mark.parametrize(("page", "package"), sorted(RUNS, key=str))
def test_python_of_a_page_runs(page: str, package: str | None, tmp_path: Path) -> None:
    """The blocks of a page are one program, in a folder with the page's files."""
    if package is not None:
        pytest.importorskip(package)
        if package == "ml_dtypes" and not get_device(None).serves("bf16"):
            pytest.skip("the default device here has no bfloat16")
    lines = [""] * len(TEXTS[page].splitlines())
    for block in BLOCKS[page]:
        if block.use.startswith("file "):
            (tmp_path / block.use.removeprefix("file ")).write_text(block.text, encoding="utf-8")
        elif is_run(block) and needed(block) in (None, package):
            # Each line keeps its number, so that a traceback names the line of the page.
            code = block.text.splitlines()
            lines[block.line - 1 : block.line - 1 + len(code)] = code
    program = tmp_path / Path(page).with_suffix(".py").name
    program.write_text("\n".join(lines), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program.name], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{page}:\n{done.stdout}{done.stderr}"


def test_few_blocks_are_not_run() -> None:
    uses = [block.use for found in BLOCKS.values() for block in found if block.use.startswith("not run")]
    assert len(uses) <= MOST_NOT_RUN
    assert all(re.fullmatch(r"not run: \w.*", use) for use in uses), "a block that is not run needs a reason"


def test_excerpts_are_in_their_files() -> None:
    excerpts = [
        (name, block) for name, found in BLOCKS.items() for block in found if block.use.startswith("from ")
    ]
    wrong = []
    for name, block in excerpts:
        source = (ROOT / block.use.removeprefix("from ")).read_text(encoding="utf-8")
        if block.text not in source:
            wrong.append(f"{name}:{block.line} is not in {block.use.removeprefix('from ')}")
    assert wrong == [] and len(excerpts) >= 8


# ---- programs for the emulator --------------------------------------------------------------------------

PROGRAMS = {
    b.use.split()[1]: b.text for found in BLOCKS.values() for b in found if b.use.startswith("program ")
}
OUTPUTS = [b for found in BLOCKS.values() for b in found if b.use.startswith(("prints ", "fails "))]
_CHANGED = re.compile(r'(prints|fails) (\S+?)(?: (?:with "(?P<new>[^"]+)" for|without) "(?P<old>[^"]+)")?')


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda block: block.use)
def test_programs_print_what_a_page_shows(output: Block, tmp_path: Path) -> None:
    use = _CHANGED.fullmatch(output.use)
    assert use, output.use
    text = PROGRAMS[use[2]]
    if use["old"]:
        assert use["old"] in text
        text = text.replace(use["old"], use["new"] or "")
    (tmp_path / use[2]).write_text(text, encoding="utf-8")
    flags = ["-std=c++17", "-O0", "-DCCONVNET_EMULATOR", f"-I{ROOT / 'kernels'}", "-x", "c++"]
    subprocess.run(
        [*COMPILER.split(), *flags, use[2], "-o", "program"], cwd=tmp_path, check=True, timeout=200
    )
    done = subprocess.run(
        ["./program"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200
    )
    if use[1] == "prints":
        # The sign of a NaN is the processor's choice.
        assert done.stdout.replace("-nan", "nan") == output.text.replace("-nan", "nan")
    else:
        assert done.returncode != 0 and output.text.strip() in done.stderr


# ---- commands -------------------------------------------------------------------------------------------


@functools.cache
def program() -> Any:
    """Return `cconvnet` with all its commands."""
    return typer.main.get_command(app)


def alternatives(words: list[str]) -> list[list[str]]:
    """Return the commands of a line in which `a|b` stands for either."""
    return [list(line) for line in itertools.product(*(word.split("|") for word in words))]


def refusal(line: str) -> str | None:
    """Return why the command line `cconvnet` refuses a line before any value is looked at, or None."""
    words = shlex.split(re.sub(r"[][]", "", line))[1:]
    for given in alternatives(words):
        command = program()
        while given and hasattr(command, "commands"):
            # A group may have a command of its own for what names none.
            context = command.make_context(command.name, given, resilient_parsing=True)
            given = [*context._protected_args, *context.args]
            if given and given[0] not in command.commands:
                return f"no command {given[0]}"
            command = command.commands[given.pop(0)] if given else command
        given = [word for word in given if word not in ("--help", "-h")]
        context = command.context_class(command, info_name=command.name)
        try:
            _, rest, _ = command.make_parser(context).parse_args(given)
        except Exception as error:  # typer's own kinds differ between its versions
            return str(getattr(error, "message", error)) or type(error).__name__
        if rest:
            return f"unexpected {' '.join(rest)}"
    return None


LINES = sorted({line for text in TEXTS.values() for line in commands(text, "cconvnet")})


@pytest.mark.parametrize("line", LINES)
def test_commands_in_documents_exist(line: str) -> None:
    assert refusal(line) is None


def test_wrong_commands_are_noticed() -> None:
    assert len(LINES) > 50
    assert refusal("cconvnet trian") == "no command trian"
    assert "--nte" in str(refusal("cconvnet train --nte lenet"))
    assert "unexpected" in str(refusal("cconvnet doctor now"))
    assert refusal("cconvnet data get|perpare x") == "no command perpare"
    assert refusal("cconvnet bench kernels --batch 8 --no-peer") is None


def test_targets_of_make_in_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    lines = sorted({line for text in TEXTS.values() for line in commands(text, "make")})
    assert len(lines) > 20
    words = {word for line in lines for word in shlex.split(line)[1:] if re.fullmatch(r"[a-z-]+", word)}
    assert words - targets == set()
