"""Tests of the examples: each runs as a program, in a folder of its own, in seconds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py"))
ANSWERS = {"segment_digits.py": r"9\d\.\d% of [\d,]+ pixels are right"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_runs(program: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example prints what it did"
    assert done.stderr == ""
    assert re.search(ANSWERS.get(program, ""), done.stdout)
