"""What many tests do: give a command as a user would, and keep what a long one says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cconvnet.reporter import Reporter


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
