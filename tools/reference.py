"""Write the reference in docs/ from docstrings, operations, networks and the command line, or check it.

A page holds hand-written text, and regions that are made anew:

    <!-- reference: operations -->
    <!-- end -->

`make format` writes them, `make lint` checks that they are fresh.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import itertools
import json
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import typer

import cconvnet
from cconvnet import nets, ops
from cconvnet.cli import app
from cconvnet.operations import ANY, ELEMENT, OPERATIONS, Operation
from cconvnet.operations.operation import Array

ROOT = Path(__file__).resolve().parents[1]
DOCS, EXAMPLES = ROOT / "docs", ROOT / "examples"
WIDTH = 96  # of a signature
_MARK = re.compile(r"(<!-- reference: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


# ---- docstrings -----------------------------------------------------------------------------------------

_SECTION = re.compile(r"(Args|Keyword Args|Attributes|Returns|Yields|Raises|Example|Examples|Note):$")
_ITEM = re.compile(r"(\*{0,2}[\w., ]+?): (.*)", re.DOTALL)


def prose(text: str) -> str:
    """Return the prose of a docstring as Markdown: references as code, and its own characters escaped."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`")
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"\*(?=\S)|(?<!\w)_(?=\w)|<", _escaped, part) for part in parts[::2]]
    return "".join(parts)


def _escaped(match: re.Match[str]) -> str:
    return "&lt;" if match[0] == "<" else f"\\{match[0]}"


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a text as Markdown; examples and indented ones are code."""
    code: list[str] = []
    for paragraph in [*re.split(r"\n\s*\n", text.strip("\n")), ""]:
        example, indented = paragraph.startswith(">>> "), paragraph.startswith("    ")
        if code and not (example or indented):
            yield "\n\n".join(code) + "\n```"
            code = []
        if example or indented:
            code.append(
                ("" if code else "```pycon\n" if example else "```text\n") + textwrap.dedent(paragraph)
            )
        elif paragraph.startswith("- "):
            yield prose(re.sub(r"\n {2}(?=\S)", "\n    ", paragraph))
        elif paragraph:
            yield prose(re.sub(r"::$", ":", paragraph))


def section(title: str, body: str) -> str:
    """Return a section of a docstring as Markdown: items as a list, anything else as paragraphs."""
    body = textwrap.dedent(body).strip("\n")
    if title in ("Example", "Examples"):
        return "\n\n".join(paragraphs(body if body.startswith(">>> ") else textwrap.indent(body, "    ")))
    entries = re.split(r"\n(?=\S)", body)
    items = [_ITEM.fullmatch(" ".join(entry.split())) for entry in entries]
    if title in ("Returns", "Yields", "Note") or not all(items):
        return f"{title}: {' '.join(prose(body).split())}"
    lines = [f"- `{item[1]}`: {prose(item[2])}" for item in items if item]
    return f"{title}:\n\n" + "\n".join(lines)


def markdown(docstring: str | None) -> str:
    """Return a docstring in Google's style as Markdown."""
    if not docstring:
        return ""
    parts, plain = [], []
    lines = inspect.cleandoc(docstring).split("\n")
    while lines:
        line = lines.pop(0)
        if not (found := _SECTION.fullmatch(line)):
            plain.append(line)
            continue
        parts += paragraphs("\n".join(plain))
        plain, body = [], []
        while lines and (not lines[0].strip() or lines[0].startswith(" ")):
            body.append(lines.pop(0))
        parts.append(section(found[1], "\n".join(body)))
    parts += paragraphs("\n".join(plain))
    return "\n\n".join(parts)


# ---- signatures -----------------------------------------------------------------------------------------


def signature(name: str, function: Callable[..., Any], bound: bool = False) -> str:
    """Return a block with a function's signature, in several lines if it is long."""
    found = inspect.signature(function)
    words: list[str] = []
    parameters = list(found.parameters.values())[bound:]
    for index, parameter in enumerate(parameters):
        keyword_only = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        before = parameters[index - 1].kind if index else None
        if keyword_only and before not in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL):
            words.append("*")
        words.append(_parameter(parameter))
    back = found.return_annotation
    end = ")" if back is inspect.Signature.empty else f") -> {_annotation(back)}"
    line = f"{name}({', '.join(words)}{end}"
    if len(line) > WIDTH:
        rows = [""]
        for word in words:
            if rows[-1] and len(f"{rows[-1]}, {word}") > WIDTH:
                rows.append("")
            rows[-1] += f" {word}," if rows[-1] else f"    {word},"
        line = "\n".join([f"{name}(", *rows, end])
    return f"```py\n{line}\n```"


def _parameter(parameter: inspect.Parameter) -> str:
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    word = stars.get(parameter.kind, "") + parameter.name
    has_type = parameter.annotation is not inspect.Parameter.empty
    word += f": {_annotation(parameter.annotation)}" if has_type else ""
    if parameter.default is not inspect.Parameter.empty:
        word += f" = {parameter.default!r}" if has_type else f"={parameter.default!r}"
    return word


def _annotation(annotation: Any) -> str:
    text: str = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return text.strip("'\"")


# ---- operations -----------------------------------------------------------------------------------------


def operations() -> str:
    """Return the reference of all operations, by family."""
    values = (getattr(ops, name) for name in ops.__all__)
    functions = sorted(filter(inspect.isfunction, values), key=place_of)
    parts = []
    for module, family in itertools.groupby(functions, lambda function: function.__module__):
        head, _, rest = (sys.modules[module].__doc__ or "").partition("\n")
        parts += [f"## {head.rstrip('.')}", markdown(rest)]
        for function in family:
            name = function.__name__
            parts += [f"### {name}", signature(name, function), markdown(function.__doc__)]
            if name in OPERATIONS:
                parts.append(described(OPERATIONS[name]))
    return "\n\n".join(filter(None, parts))


def rules() -> str:
    """Return what holds for every operation, without the first and last lines on the package itself."""
    return markdown("\n\n".join((ops.__doc__ or "").strip().split("\n\n")[1:-1]))


def place_of(function: types.FunctionType) -> tuple[str, int]:
    """Return the module and the line where a function is defined."""
    return function.__module__, function.__code__.co_firstlineno


def described(operation: Operation) -> str:
    """Return the table of an operation's arrays, and what else its description has."""
    lines = ["| array | axes | type | |", "|---|---|---|---|"]
    for array in operation.arrays.values():
        axes = "any" if array.axes == ANY else f"[{array.axes}]"
        lines.append(f"| `{array.name}` | {axes} | {type_of(array)} | {use_of(array, operation)} |")
    notes = []
    if operation.workspace:
        notes.append("It takes a workspace.")
    if operation.has_impls:
        notes.append("`impl` chooses a row of its selection table.")
    return "\n".join(lines) + ("\n\n" + " ".join(notes) if notes else "")


def type_of(array: Array) -> str:
    """Return the type of an array's elements in words."""
    if array.type == ELEMENT:
        return "float32 or bfloat16"
    return "bfloat16" if array.type == np.uint16 else str(np.dtype(array.type).name)


def use_of(array: Array, operation: Operation) -> str:
    """Return whether an array is read, written or updated, and what it may share memory with."""
    outputs = {output.name for output in operation.outputs}
    if array.name in operation.updated:
        words = ["updated"]
    else:
        words = ["written" if array.written or array.name in outputs else "read"]
    if array.name == operation.out and operation.in_place:
        words.append(f"may be {' or '.join(f'`{name}`' for name in operation.in_place)}")
    return ", ".join([*words, *["optional"] * array.optional])


# ---- the public surface ---------------------------------------------------------------------------------


def python() -> str:
    """Return the reference of the names that `import cconvnet` offers."""
    records: dict[str, type] = {}
    public = {name: getattr(cconvnet, name) for name in cconvnet.__all__}
    names = (f"[`cc.{name}`](#cc{name.lower()})" for name in public)
    firsts = (cell((inspect.getdoc(value) or "").partition("\n\n")[0]) for value in public.values())
    parts = [table(("name", ""), zip(names, firsts, strict=True))]
    for name, value in public.items():
        parts.append(f"## cc.{name}")
        if inspect.ismodule(value):
            parts.append(markdown((value.__doc__ or "").split("\n\n")[0]))
            continue
        if inspect.isclass(value):
            parts += class_of(value)
            callables = [member for member in members_of(value).values() if inspect.isfunction(member)]
        else:
            parts += [signature(name, value), markdown(value.__doc__)]
            callables = [value]
        for function in callables:
            records.update(unpacked(function))
    documented = {name: record for name, record in records.items() if "Attributes:" in (record.__doc__ or "")}
    for name, record in documented.items():
        parts += [f"## {name}", f"Keyword arguments, given as `**more`. {markdown(record.__doc__)}"]
    return "\n\n".join(filter(None, parts))


def members_of(kind: type) -> dict[str, Any]:
    """Return the members of a class: its own, then those of our classes that it is made of."""
    found: dict[str, Any] = {}
    for base in (kind, *(base for base in kind.__mro__[1:] if base.__module__.startswith("cconvnet."))):
        for name, member in vars(base).items():
            found.setdefault(name, member)
    return found


def class_of(kind: type) -> Iterator[str]:
    """Yield the parts of a class: signature, docstring, properties and methods in their order."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    # A class with private fields is made by functions.
    if "__init__" in vars(kind) and not any(field.name.startswith("_") for field in fields):
        yield signature(kind.__name__, kind)
    yield markdown(kind.__doc__)
    members = {name: member for name, member in members_of(kind).items() if not name.startswith("_")}
    properties = {n: m for n, m in members.items() if isinstance(m, property)}
    if properties:
        lines = [f"- `{name}`: {prose(inspect.getdoc(member) or '')}" for name, member in properties.items()]
        yield "Properties:\n\n" + "\n".join(lines)
    for name, member in members.items():
        function = getattr(member, "__func__", member)
        if inspect.isfunction(function):
            yield f"### {kind.__name__}.{name}"
            yield signature(name, function, bound=not isinstance(member, staticmethod))
            yield markdown(function.__doc__)


def unpacked(function: Callable[..., Any]) -> dict[str, type]:
    """Return the records of keyword arguments that a function takes by Unpack."""
    found = {}
    for parameter in inspect.signature(function).parameters.values():
        if match := re.search(r"Unpack\[(\w+)\]", str(parameter.annotation)):
            found[match[1]] = vars(importlib.import_module(function.__module__))[match[1]]
    return found


# ---- commands -------------------------------------------------------------------------------------------


def commands() -> str:
    """Return the reference of all commands."""
    return "\n\n".join(_commands(typer.main.get_command(app), "cconvnet"))


def _commands(command: Any, name: str) -> Iterator[str]:
    if not hasattr(command, "commands"):
        yield f"{'##' if name.count(' ') == 1 else '###'} {name}"
        yield from command_parts(command, name)
        return
    if " " in name:
        yield f"## {name}"
        yield markdown(command.help)
    for child in command.commands.values():
        if not child.hidden:
            yield from _commands(child, f"{name} {child.name}")


def command_parts(command: Any, name: str) -> Iterator[str]:
    """Yield the help of a command: usage, text, arguments and options in their panels, examples."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    names = [argument_name(p) for p in arguments]
    words = [word if p.required else f"[{word}]" for word, p in zip(names, arguments, strict=True)]
    if words:
        yield f"    {name} {' '.join(words)}"
    yield markdown(command.help)
    if arguments:
        helps = (cell(help_of(p)) for p in arguments)
        yield table(("argument", ""), zip((f"`{word}`" for word in names), helps, strict=True))
    panels: dict[str, list[Any]] = {}
    for option in options:
        panels.setdefault(getattr(option, "rich_help_panel", None) or "", []).append(option)
    for panel, members in panels.items():
        if panel and panel != "Options":
            yield f"**{panel}**"
        yield table(("option", ""), ((flag(option), cell(help_of(option))) for option in members))
    if command.epilog:
        yield "\n".join(f"    {line}" for line in re.findall(r"\[cyan\](.*?)\[/cyan\]", command.epilog))


def argument_name(argument: Any) -> str:
    """Return the name of an argument, with dots if it may be given several times."""
    name = argument.metavar or argument.name.upper()
    return f"{name}..." if argument.nargs == -1 and not name.endswith("...") else str(name)


def flag(option: Any) -> str:
    """Return the flags of an option with its value."""
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    return f"{names[:-1]}{value}`"


def help_of(option: Any) -> str:
    """Return the help of an option with its default."""
    default = option.default
    if callable(default) or default in (None, False, "", ()) or not option.show_default:
        return option.help or ""
    shown = option.opts[0] if default is True else default
    return f"{option.help or ''} Default: `{shown}`."


def cell(text: str | None) -> str:
    """Return a text as a cell of a table."""
    return prose(" ".join((text or "").split())).replace("|", "\\|")


def table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of two columns."""
    lines = [f"| {one} | {other} |" for one, other in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines])


# ---- examples -------------------------------------------------------------------------------------------


def examples() -> str:
    """Return the table of the programs and notebooks in examples/, with their first lines."""
    programs = [path for path in EXAMPLES.rglob("*.py") if path.parent == EXAMPLES or path.name == "run.py"]
    lines = ["| example | |", "|---|---|"]
    for path in [*sorted(programs), *sorted(EXAMPLES.rglob("*.ipynb"))]:
        text = path.read_text(encoding="utf-8")
        first = (
            title_of_notebook(text) if path.suffix == ".ipynb" else ast.get_docstring(ast.parse(text)) or ""
        )
        name = path.relative_to(EXAMPLES).as_posix()
        lines.append(f"| [{name}](../examples/{name}) | {cell(first.partition(chr(10))[0])} |")
    return "\n".join(lines)


def title_of_notebook(text: str) -> str:
    """Return the first heading of a notebook."""
    cells = json.loads(text)["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    found = re.search(r"^# (.+)$", "\n".join(texts), re.MULTILINE)
    return found[1] if found else ""


# ---- networks -------------------------------------------------------------------------------------------


def networks() -> str:
    """Return the table of the built-in networks: sizes, and the first lines of their modules."""
    lines = ["| `--net` | network | image | parameters | multiply-adds |", "|---|---|---|--:|--:|"]
    for name in nets.NAMES:
        spec = nets.build(name)
        module = importlib.import_module(nets.catalog.module_name(name))
        first = cell((module.__doc__ or "").partition("\n")[0].rstrip("."))
        file = f"[{first}](../{module.__name__.replace('.', '/')}.py)"
        image = f"{spec.input.height}x{spec.input.width}x{spec.input.channels}"
        sizes = spec.table()
        lines.append(f"| `{name}` | {file} | {image} | {sizes.parameters:,} | {sizes.multiply_adds:,} |")
    return "\n".join(lines)


# ---- pages ----------------------------------------------------------------------------------------------

REGIONS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "examples": examples,
    "networks": networks,
    "operations": operations,
    "python": python,
    "rules": rules,
}


def filled(text: str) -> str:
    """Return a page with its regions made anew."""
    return _MARK.sub(lambda mark: f"{mark[1]}\n{REGIONS[mark[2]]()}\n\n{mark[3]}", text)


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or with --check name those that are not fresh; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of the pages")
    parser.add_argument("--check", action="store_true", help="change nothing, and fail if a page differs")
    given = parser.parse_args(arguments)
    stale = []
    for path in sorted(given.docs.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (fresh := filled(text)) != text:
            stale.append(path)
            if not given.check:
                path.write_text(fresh, encoding="utf-8")
    if given.check and stale:
        print(*(f"{path} differs from docstrings or --help: run `make format`" for path in stale), sep="\n")
    return int(given.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
