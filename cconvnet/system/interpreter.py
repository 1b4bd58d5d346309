"""Command lines of child interpreters that call a function.

A child never imports from the working directory. A user's data folder may contain a ``json.py`` or a
``numpy.py``, which ``python -c`` and ``python -m`` would run instead of the real ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cconvnet

# The folder that contains this package comes last: only a package that is not installed needs it.
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
    """Return the command that calls a function in a new interpreter.

    Args:
        target: The function as "module:function"; the working directory has no influence on which.
        arguments: The function's arguments, as JSON values.
        path: A ``sys.path`` that the child uses instead of its own. Relative entries are left out. So is the
            working directory, unless the child's own path contains it.

    Returns:
        The interpreter and its arguments. It does not search the working directory (``-P``). It respects the
        environment and the user's site-packages exactly if this interpreter does.
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
