"""Write cconvnet/_problem.pyi, the types of the compiled module's problems, or check it.

A field has the type that pybind11 notes in its docstring. An argument has the type of the field of the same
name, or the one in ARGUMENTS: pybind11's own types of arguments are wider and differ between its versions.
"""

from __future__ import annotations

import argparse
import difflib
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from cconvnet import _problem

STUBS = Path(__file__).resolve().parents[1] / "cconvnet" / "_problem.pyi"
PAIR = "tuple[int, int]"
# The arguments that no field gives back as they were.
ARGUMENTS = {
    "window": PAIR,
    "stride": PAIR,
    "dilation": PAIR,
    "padding": f"tuple[int | {PAIR}, int | {PAIR}]",
    "rounding": "str",
    "outputs": f"{PAIR} | None",
    "pitch": "int",
    "first": "int",
}


def fields_of(problem: type) -> dict[str, str]:
    """Return the type of each field, in the order of their definition."""
    fields = {name: value for name, value in vars(problem).items() if isinstance(value, property)}
    signatures = {name: value.fget.__doc__ or "" for name, value in fields.items()}
    types = {name: text.rpartition("-> ")[2].strip().lower() for name, text in signatures.items()}
    return {name: text.replace("none", "None") for name, text in types.items()}


def arguments_of(problem: type, method: str) -> Iterator[tuple[str, bool]]:
    """Yield the name of each of a method's arguments and whether it has a default."""
    signature = re.search(r"\(self: [^,]+, (.*)\) -> ", vars(problem)[method].__doc__ or "")
    if signature is None:
        sys.exit(f"the docstring of {problem.__name__}.{method} has no signature")
    # Types and defaults hold commas too, but no name follows those.
    for name, rest in re.findall(r"(?:^|, )(\w+): (.*?)(?=, \w+: |$)", signature[1]):
        yield name, " = " in rest


def stubs_of(problem: type) -> str:
    """Return the definition of one problem."""
    fields = fields_of(problem)

    def method(name: str, returns: str) -> str:
        arguments = "".join(
            f", {argument}: {fields.get(argument) or ARGUMENTS[argument]}" + " = ..." * has_default
            for argument, has_default in arguments_of(problem, name)
        )
        return f"def {name}(self{arguments}) -> {returns}: ..."

    methods = [name for name in vars(problem) if not name.startswith("_") and name not in fields]
    first, *others = (problem.__doc__ or "").split("\n\n")
    doc = "\n\n".join([first, *(textwrap.fill(text, 100, break_on_hyphens=False) for text in others)])
    lines = [f'"""{doc}' + "\n" * bool(others) + '"""', method("__init__", "None")]
    lines += [f"{name}: {kind}" for name, kind in fields.items()]
    # A method of a problem returns another one like it.
    lines += [method(name, problem.__name__) for name in methods]
    return f"class {problem.__name__}:\n" + textwrap.indent("\n".join(lines), "    ")


def stubs() -> str:
    """Return the text of the file, formatted."""
    problems = [value for value in vars(_problem).values() if isinstance(value, type)]
    text = "\n\n".join([f'"""{_problem.__doc__}"""', *map(stubs_of, problems)])
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(STUBS), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Write the file, or with --check print its differences and fail."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing, and fail if the file differs")
    check = parser.parse_args().check
    expected = stubs()
    if not check:
        STUBS.write_text(expected, encoding="utf-8")
    elif expected != (found := STUBS.read_text(encoding="utf-8")):
        lines = (found.splitlines(keepends=True), expected.splitlines(keepends=True))
        sys.stdout.writelines(difflib.unified_diff(*lines, "cconvnet/_problem.pyi", "as compiled"))
        sys.exit("cconvnet/_problem.pyi differs from bindings/problem.cpp: run `make format`")


if __name__ == "__main__":
    main()
