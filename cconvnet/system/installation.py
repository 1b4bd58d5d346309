"""Commands that complete an installation, for the way in which this package was installed.

No package index has this package under its name. A command therefore installs other packages by their
names, and this one from its checkout, its folder or its wheel.
"""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import shutil
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import cconvnet


def pip_install(*arguments: str) -> str:
    """Return the command that installs packages for this interpreter.

    Args:
        arguments: Packages and options of ``pip install``, quoted for a shell where they need it.

    Returns:
        ``pip install ...``, or ``PYTHON -m pip install ...`` where ``pip`` belongs to another interpreter.

    Example:
        >>> pip_install("matplotlib")  # doctest: +SKIP
        'pip install matplotlib'
    """
    pip = shutil.which("pip")
    own = pip is not None and Path(pip).parent == Path(sys.executable).parent
    return " ".join(["pip" if own else f"{shlex.quote(sys.executable)} -m pip", "install", *arguments])


def rebuild(settings: str = "", target: str = "venv") -> str:
    """Return the command that builds the compiled modules again.

    Args:
        settings: Variables of the Makefile, such as ``CCONVNET_CUDA=on``.
        target: The target of ``make`` in a checkout.

    Returns:
        ``make`` in a checkout, ``pip install`` with the folder from which the package was built, or the steps
        that make a new wheel for a package that came as one.
    """
    if (folder := checkout()) is not None:
        command = f"make -C {shlex.quote(str(folder))} {target}"
    elif (source := _source()) is not None and source.is_dir():
        command = pip_install("--force-reinstall", "--no-deps", "--no-cache-dir", shlex.quote(str(source)))
    else:
        again = pip_install("--force-reinstall", "--no-deps", "dist/*.whl")
        return f"in a checkout of cconvnet: {settings} make wheel && {again}".replace("  ", " ")
    return f"{settings} {command}".strip()


def checkout() -> Path | None:
    """Return the checkout that this package is used from, or None."""
    folder = Path(cconvnet.__file__).resolve().parents[1]
    return folder if (folder / "Makefile").is_file() and (folder / "pyproject.toml").is_file() else None


def _source() -> Path | None:
    """Return the folder or wheel from which pip installed this package, or None.

    Source: PyPA, "Recording the Direct URL Origin of installed distributions" (PEP 610).
    """
    try:
        text = importlib.metadata.distribution("cconvnet").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    url = urllib.parse.urlsplit(json.loads(text)["url"] if text else "")
    return Path(urllib.request.url2pathname(url.path)) if url.scheme == "file" else None
