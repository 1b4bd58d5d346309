"""cconvnet/_problem.pyi agrees with the compiled module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_stubs_are_those_of_the_compiled_problems() -> None:
    command = [sys.executable, str(ROOT / "tools" / "problem_stubs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
