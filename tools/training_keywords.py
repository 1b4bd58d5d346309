"""Write cconvnet/api/keywords.py, the keywords of ``cconvnet.train``, or check it.

They are the fields of :class:`cconvnet.training.options.Options`. Type checkers and editors read the file;
``help(cconvnet.train)`` comes from Options itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import textwrap
from pathlib import Path

from cconvnet.api.conversion import ARGUMENTS, in_python
from cconvnet.training.options import DESCRIPTIONS, Options

FILE = Path(__file__).resolve().parents[1] / "cconvnet" / "api" / "keywords.py"

# What cconvnet.api.conversion makes of other types; a type that is not here is taken as it is.
ALSO = {
    "Path | None": "str | os.PathLike[str] | None",
    "list[str] | None": "str | Sequence[str] | None",
    "tuple[str, ...] | None": "str | Sequence[str] | None",
    "tuple[LrStep, ...] | None": "str | Sequence[float | LrStep] | None",
}

HEAD = '''"""The keywords of ``cconvnet.train``, made by tools/training_keywords.py from training.options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypedDict

from cconvnet.nets import Distortion, LrStep, RateCurve


class TrainingKeywords(TypedDict, total=False):
    """Options of a training, as keywords; None is as good as leaving one out."""
'''


def type_of(field: dataclasses.Field[object]) -> str:
    """Return the type of a keyword: that of the option, and a text that the command line takes for it."""
    kind = str(field.type)
    kind = ALSO.get(kind, kind)
    if DESCRIPTIONS[field.name].parse is not None and "str" not in kind.split(" | "):
        kind = f"str | {kind}"
    return kind


def content() -> str:
    """Return the content of the file."""
    parts = [HEAD]
    for field in dataclasses.fields(Options):
        if field.name in ARGUMENTS:
            continue
        text = textwrap.fill(in_python(DESCRIPTIONS[field.name].help), 100, break_on_hyphens=False)
        quoted = f'"""{text}' + ("\n" if "\n" in text else "") + '"""'
        parts.append(f"\n    {field.name}: {type_of(field)}\n" + textwrap.indent(quoted, "    ") + "\n")
    return "".join(parts)


def main() -> None:
    """Write the file, or compare it with --check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    wanted = content()
    if not check:
        FILE.write_text(wanted, encoding="utf-8")
    elif FILE.read_text(encoding="utf-8") != wanted:
        sys.exit(f"{FILE.name} is not that of the options of a training: python tools/training_keywords.py")


if __name__ == "__main__":
    main()
