"""What many tests do: give a command as a user would, keep what a long one says, watch a module's memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cconvnet.console import Reporter

COMPILER = os.environ.get("CXX", "g++")
SANITIZERS = "address,undefined"
REPORTED = 99  # what a process ends with in which they found something


class Listener(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def run(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """``cconvnet`` with these arguments, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cconvnet", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def sanitized(modules: Path) -> dict[str, str]:
    """An environment for Python to run a folder of modules that were built with SANITIZE=SANITIZERS."""
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
