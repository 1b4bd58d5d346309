"""Keywords of Python as options of a training, and the texts of the command line in Python's words."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cconvnet.errors import nearest
from cconvnet.training.options import DESCRIPTIONS, Options

F = TypeVar("F", bound=Callable[..., Any])

# Options that are arguments of their own of cconvnet.train.
ARGUMENTS = ("net", "data", "resume")

_KEYWORDS = {option.name: name for name, option in DESCRIPTIONS.items()}
_FLAG = re.compile(r"--[a-z][a-z-]*[a-z]")
_RESUME = re.compile(r"with --resume (.+), or")


def in_python(text: str) -> str:
    """Return a text of the command line with keywords in place of flags: "batch" for "--batch".

    Advice to resume a run becomes the call: "with resume='runs/first'".

    A text with a whole command stays as it is.
    """
    if "cconvnet " in text:
        return text
    text = _RESUME.sub(lambda found: f"with resume={found[1]!r}, or", text)
    return _FLAG.sub(lambda flag: _KEYWORDS.get(flag[0], flag[0][2:].replace("-", "_")), text)


@contextlib.contextmanager
def errors_in_python() -> Iterator[None]:
    """Name keywords instead of flags in the texts of errors that leave the context."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (in_python(error.args[0]),)
        raise


def options_of(values: Mapping[str, Any]) -> Options:
    """Return the options of a training.

    Args:
        values: By keyword, the value of an option or the text that the command line takes for it. Paths may
            be texts, and sequences may be lists. A number among lr_steps divides the rates by 10 at this
            epoch.

    Raises:
        TypeError: There is no such keyword, or a value is of another type.
        ValueError: A text cannot be read.
    """
    fields = {field.name: field for field in dataclasses.fields(Options)}
    for name in values:
        if name not in fields:
            raise TypeError(nearest("a keyword of train()", name, fields))
    return Options(**{name: _value(fields[name], value) for name, value in values.items()})


def _value(field: dataclasses.Field[Any], value: Any) -> Any:
    """Return the value of an option from what a program gives for it."""
    option, kind = DESCRIPTIONS[field.name], str(field.type)
    if value is None:
        return field.default
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a number of NumPy
        value = value.item()
    if kind.startswith("bool") and not isinstance(value, bool):
        raise TypeError(f"{option.name} must be True or False, not {value!r}")
    if option.parse is not None and field.name != "net":
        return option.parse(value)
    if kind.startswith("Path"):
        return Path(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def lists_keywords(function: F) -> F:
    """Give a function of ``**options`` a signature and a docstring that list the keywords.

    ``help`` and notebooks show both. The types are those of :mod:`cconvnet.api.keywords`.
    """
    from cconvnet.api.keywords import TrainingKeywords

    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    keywords = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(Options, name),
            annotation=getattr(kind, "__forward_arg__", kind),
        )
        for name, kind in TrainingKeywords.__annotations__.items()
    ]
    function.__signature__ = signature.replace(parameters=[*own, *keywords])  # type: ignore[attr-defined]
    lines = [f"{name}: {in_python(DESCRIPTIONS[name].help)}" for name in TrainingKeywords.__annotations__]
    listed = "\n".join(
        textwrap.fill(line, 100, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False)
        for line in lines
    )
    function.__doc__ = f"{inspect.getdoc(function)}\n\nKeyword Args:\n{listed}\n"
    return function
