"""Helpers of many tests: run a command as a user would, record messages, run a sanitized module."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import subprocess
import sys
from pathlib import Path

from helpers.forks import Server
from PIL import Image

from cconvnet.console import Reporter

COMPILER = os.environ.get("CXX", "g++")
SANITIZERS = "address,undefined"
REPORTED = 99  # exit code of a process in which a sanitizer found a fault


class Listener(Reporter):
    """Record every message in `lines`."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@functools.cache
def _server() -> Server:
    server = Server()
    atexit.register(server.close)
    return server


def run(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``cconvnet`` with these arguments in a separate process; a fork if that is the same."""
    texts = [*map(str, arguments)]
    if _server().serves(environment):
        return _server().run(texts, cwd, timeout=200)
    return subprocess.run(
        [sys.executable, "-m", "cconvnet", *texts],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def succeed(*arguments: object) -> str:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def succeed_here(*arguments: object) -> str:
    """Run a command within this process, which is faster, and return what it prints."""
    from cconvnet.cli import app

    with contextlib.redirect_stdout(io.StringIO()) as shown:
        app([*map(str, arguments)], standalone_mode=False, prog_name="cconvnet")
    return shown.getvalue()


def refuse(*arguments: object, code: int = 2) -> str:
    """Runs a command that must fail with a line or two on standard error; returns them."""
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    return done.stderr


def pictures(root: Path, *folders: str, count: int = 2) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (90 * index, 0, 0)).save(root / folder / f"{index}.png")
    return root


def sanitized(modules: Path) -> dict[str, str]:
    """Return an environment in which Python runs a folder of modules built with SANITIZE=SANITIZERS."""
    libraries = [
        subprocess.run(
            [*COMPILER.split(), f"-print-file-name=lib{name}.so"],
            capture_output=True,
            text=True,
            check=True,
            timeout=200,
        ).stdout.strip()
        for name in ("asan", "ubsan", "stdc++")
    ]
    return os.environ | {
        "CCONVNET_MODULE_PATH": str(modules),
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": f"detect_leaks=0:exitcode={REPORTED}",
        "UBSAN_OPTIONS": f"exitcode={REPORTED}",
    }
