"""The reference in docs/ has every operation, command and public name, and is fresh."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import cconvnet
from cconvnet import ops
from cconvnet.cli import app

ROOT = Path(__file__).resolve().parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cconvnet_reference", ROOT / "tools" / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["cconvnet_reference"] = module
    spec.loader.exec_module(module)
    return module


reference = _load()


def leaves(command: Any, name: str) -> list[tuple[str, Any]]:
    """Return all commands below one, with their full names."""
    if not hasattr(command, "commands"):
        return [(name, command)]
    return [leaf for child in command.commands.values() for leaf in leaves(child, f"{name} {child.name}")]


def test_every_option_of_every_command_is_listed() -> None:
    text = reference.commands()
    found = leaves(typer.main.get_command(app), "cconvnet")
    assert len(found) > 20
    for name, command in found:
        part = text.partition(f"# {name}\n")[2].partition("\n#")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert all(f"`{flag}" in part for flag in parameter.opts), (name, parameter.name)
    assert "| `--log-every N` | Steps per line of the log. Default: `20`. |" in text


def test_every_operation_is_listed_with_its_arrays() -> None:
    text = reference.operations()
    functions = [name for name in ops.__all__ if name[0].islower()]
    assert [name for name in functions if f"\n### {name}\n" not in text] == []
    lrn = text.partition("### lrn_forward\n")[2].partition("\n#")[0]
    assert "- `beta`: The exponent." in lrn
    assert "| `y` | [N,H,W,C] | float32 or bfloat16 | written |" in lrn
    eltmul = text.partition("### eltmul\n")[2].partition("\n#")[0]
    assert "| `y` | any | float32 or bfloat16 | written, may be `a` or `b` |" in eltmul
    assert "chooses a row of its selection table" in text.partition("### conv_fprop\n")[2].partition("\n#")[0]


def test_every_public_name_is_listed() -> None:
    text = reference.python()
    assert [name for name in cconvnet.__all__ if f"## cc.{name}\n" not in text] == []


def test_the_pages_are_fresh() -> None:
    regions = {"commands.md": "commands", "examples.md": "examples", "python.md": "python"}
    regions["operations.md"] = "operations"
    for page, region in regions.items():
        assert f"<!-- reference: {region} -->\n" in (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert reference.main(["--check"]) == 0, "run `make format`"


def test_docstrings_become_markdown() -> None:
    docstring = """Return x * y, of :class:`~cconvnet.nets.NetSpec` and ``a < b``; a < b too.

    - One item
      that goes on.

    Example:
        print(1)

        print(2)

    >>> f(1)
    2

    Args:
        x: The first, with *stars*
            and a second line.
        **more: Others.

    Returns:
        The sum,
        in two lines.
    """
    assert reference.markdown(docstring) == (
        "Return x * y, of `NetSpec` and `a < b`; a &lt; b too.\n\n"
        "- One item\n    that goes on.\n\n"
        "```text\nprint(1)\n\nprint(2)\n```\n\n"
        "```pycon\n>>> f(1)\n2\n```\n\n"
        "Args:\n\n- `x`: The first, with \\*stars* and a second line.\n- `**more`: Others.\n\n"
        "Returns: The sum, in two lines."
    )
    assert reference.markdown(None) == ""


def test_signatures() -> None:
    def short(a: int, *, b: str = "x") -> None: ...

    def bare(self: Any, a, *rest, b=1): ...  # type: ignore[no-untyped-def]

    assert reference.signature("f", short) == "```py\nf(a: int, *, b: str = 'x') -> None\n```"
    assert reference.signature("f", bare, bound=True) == "```py\nf(a, *rest, b=1)\n```"
    lines = reference.signature("conv_fprop", ops.conv_fprop).splitlines()
    assert lines[1] == "conv_fprop(" and lines[-2] == ") -> Array"
    assert max(map(len, lines)) <= reference.WIDTH + 1 and all(line.endswith(",") for line in lines[2:-2])


def test_a_page_that_is_not_fresh_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    mark, end = "before\n\n<!-- reference: rules -->\n", "<!-- end -->\n\nbehind\n"
    page.write_text(f"{mark}stale words\n{end}", encoding="utf-8")
    arguments = ["--docs", str(tmp_path)]
    assert reference.main([*arguments, "--check"]) == 1
    assert "page.md differs from docstrings or --help: run `make format`" in capsys.readouterr().out
    assert "stale words" in page.read_text()
    assert reference.main(arguments) == 0 and reference.main([*arguments, "--check"]) == 0
    text = page.read_text()
    assert text.startswith(mark) and text.endswith(end)
    assert "Layout is NHWC" in text and "stale words" not in text
