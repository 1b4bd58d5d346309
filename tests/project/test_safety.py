"""The package makes no call that runs what it reads, and both guards notice one that does.

Ruff's rules (pyproject.toml) find the usual calls; the walk below also finds those that depend on a call's
arguments. Tests of data that tries to be run are in test_hostile_pickles.py and test_checkpoint.py.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cconvnet"

# Functions that run the text or bytes that they are given.
RUNNERS = {"eval", "exec", "compile", "__import__", "breakpoint"}
# Modules that run code from the files that they read, and libraries made of them.
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "runpy",
    "code",
}
# Functions that pass a text to a shell.
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
# Files that run a file by importlib's exec_module, and whose it is.
RUN_FILES = {"formats/own_nets.py": "the network of the user's own that --net names"}
# Files that import modules whose names are made at run time, and why those names are from no file.
CHOSEN_MODULES = {
    "__init__.py": "the modules of the package's public names, listed in _MODULES",
    "devices/modules.py": "the kinds of devices are listed in KINDS",
    "doctor/survey.py": "likewise",
    "operations/__init__.py": "the modules of that package",
    "bench/processes.py": "the sides of a measurement, named by this package",
    "bench/lines.py": "likewise, listed in SIDES",
}


def violations(source: str, name: str = "planted.py") -> Iterator[str]:
    """Yield each call or import of a file that could run data, as "LINE: DESCRIPTION"."""
    tree = ast.parse(source)
    names: dict[str, str] = {}  # full names of the imported ones
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            level = getattr(node, "level", 0)
            for alias in node.names:
                whole = alias.name if module is None else f"{module}.{alias.name}"
                if alias.asname or module:
                    names[alias.asname or alias.name] = whole
                top = whole.split(".")[0]
                if level == 0 and (
                    top in MODULES or (top == "torch" and not name.startswith(("bench/peers/", "torch/")))
                ):
                    yield f"{node.lineno}: imports {whole}"

    def called(function: ast.expr) -> str:
        parts: list[str] = []
        while isinstance(function, ast.Attribute):
            parts.insert(0, function.attr)
            function = function.value
        if not isinstance(function, ast.Name):
            return ".".join(["?", *parts])
        return ".".join([names.get(function.id, function.id), *parts])

    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        what = called(node.func).removeprefix("builtins.")
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        constants = {key: value.value for key, value in given.items() if isinstance(value, ast.Constant)}
        if what in RUNNERS or what in SHELLS:
            yield f"{node.lineno}: calls {what}"
        if what in ("np.load", "numpy.load") and constants.get("allow_pickle") is not False:
            yield f"{node.lineno}: {what} without allow_pickle=False"
        if what.startswith("subprocess.") and "shell" in given and constants.get("shell") is not False:
            yield f"{node.lineno}: {what} with shell"
        if what in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.load"):
            yield f"{node.lineno}: calls {what}"
        if what.split(".")[-1] == "exec_module" and name not in RUN_FILES:
            yield f"{node.lineno}: runs a file"
        if what == "importlib.import_module" and name not in CHOSEN_MODULES:
            first = node.args[0] if node.args else None
            if not isinstance(first, ast.Constant) or str(first.value).split(".")[0] in MODULES:
                yield f"{node.lineno}: imports a module whose name is made at run time"


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", files(), ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_nothing_in_the_package_could_run_data(file: Path) -> None:
    name = file.relative_to(PACKAGE).as_posix()
    assert list(violations(file.read_text(encoding="utf-8"), name)) == []


def test_every_exception_is_needed() -> None:
    for name in CHOSEN_MODULES:
        source = (PACKAGE / name).read_text(encoding="utf-8")
        assert any("made at run time" in line for line in violations(source)), name
    for name in RUN_FILES:
        source = (PACKAGE / name).read_text(encoding="utf-8")
        assert any("runs a file" in line for line in violations(source)), name


# For each violation the words of the walk above, and the code of ruff's rule if it has one.
PLANTED = {
    "eval(text)": ("calls eval", "S307"),
    "exec(text)": ("calls exec", "S102"),
    "compile(text, 'x', 'exec')": ("calls compile", None),
    "import builtins\nbuiltins.exec(text)": ("calls exec", "S102"),
    "__import__(text)": ("calls __import__", None),
    "import pickle\npickle.load(file)": ("imports pickle", "TID251"),
    "from pickle import loads\nloads(text)": ("imports pickle.loads", "S301"),
    "import marshal\nmarshal.loads(text)": ("imports marshal", "S302"),
    "import shelve\nshelve.open(file)": ("imports shelve", "TID251"),
    "import joblib": ("imports joblib", "TID251"),
    "import dill as d": ("imports dill", "TID251"),
    "import importlib\nimportlib.import_module('pickle')": ("a module whose name is made", None),
    "from importlib import import_module\nimport_module(text)": ("a module whose name is made", None),
    "from importlib.machinery import SourceFileLoader\nSourceFileLoader('x', p).exec_module(m)": (
        "runs a file",
        None,
    ),
    "import numpy as np\nnp.load(file)": ("numpy.load without allow_pickle=False", None),
    "import numpy as np\nnp.load(file, allow_pickle=True)": ("numpy.load without", None),
    "from numpy import load\nload(file, allow_pickle=text)": ("numpy.load without", None),
    "import yaml\nyaml.load(file, yaml.Loader)": ("calls yaml.load", "S506"),
    "import torch\ntorch.load(file)": ("imports torch", "TID251"),
    "import os\nos.system(text)": ("calls os.system", "S605"),
    "import subprocess\nsubprocess.run(text, shell=True)": ("subprocess.run with shell", "S602"),
}


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_violation_is_found(source: str) -> None:
    words, rule = PLANTED[source]
    found = list(violations(source))
    assert any(words in line for line in found), found
    if rule is not None:
        assert rule in ruff(source)


def ruff(source: str, name: str = "cconvnet/planted.py") -> set[str]:
    """Return the rules of ruff that a file of this text would break."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "json"]
    done = subprocess.run(
        [*command, "--stdin-filename", name, "-"],
        input=source + "\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=200,
    )
    return {found["code"] for found in json.loads(done.stdout)}


def test_what_is_allowed_is_found_to_be() -> None:
    source = (
        "import numpy as np\nimport subprocess\nnp.load(file, allow_pickle=False)\nsubprocess.run([text])\n"
    )
    assert list(violations(source)) == []
    assert not {rule for rule in ruff(source) if rule.startswith(("S", "TID"))}
    for room in ("bench/peers", "torch"):
        assert list(violations("import torch", f"{room}/other.py")) == []
        assert "TID251" not in ruff("import torch", f"cconvnet/{room}/other.py")
