"""The command line of a child interpreter that calls a function.

A child never imports from the working directory. A user's data folder may contain a ``json.py`` or a
``numpy.py``, and ``python -c`` and ``python -m`` would run those instead of the real ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cconvnet

# What is installed in this package's folder comes last: it is needed only where the package is not installed.
_PROGRAM = """
import importlib, json, os, sys
path, home, module, function, arguments = json.loads(sys.argv[1])
try:
    here = os.path.realpath(os.getcwd())
except OSError:
    here = ""
if path:
    own = set(sys.path)
    sys.path[:] = [p for p in path if p in own or (os.path.isabs(p) and os.path.realpath(p) != here)]
if home not in sys.path:
    sys.path.append(home)
getattr(importlib.import_module(module), function)(*arguments)
"""


def python_command(target: str, arguments: Sequence[Any] = (), path: Sequence[str] = ()) -> list[str]:
    """The command that calls `target`, "module:function", in a new interpreter.

    Args:
        target: the function; its module is found whatever the working directory.
        arguments: the function's arguments, JSON values.
        path: a ``sys.path`` for the child to take over; its relative entries, and the working directory
            unless the child's own path has it, are left out. Without it the child keeps its own path.

    Returns:
        The interpreter and its arguments. It does not search the working directory (``-P``) and heeds the
        environment and the user's site-packages as this interpreter does.
    """
    module, _, function = target.partition(":")
    flags = ["-P"]
    if sys.flags.ignore_environment:
        flags.append("-E")
    if sys.flags.no_user_site:
        flags.append("-s")
    home = str(Path(cconvnet.__file__).resolve().parents[1])
    given = json.dumps([list(path), home, module, function, list(arguments)])
    return [sys.executable, *flags, "-c", _PROGRAM, given]
