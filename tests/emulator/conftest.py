"""The fixture that compiles the programs of this folder."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.emulator_programs import COMPILER, PROGRAMS, compile_program


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Path]]:
    """Return a function build(program, build) that returns the executable.

    All programs are compiled at once, in the background.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the workers of one run share what they compile
    folder = root / "emulator-programs"
    folder.mkdir(exist_ok=True)

    def make(program: str, kind: str) -> str:
        target = folder / f"{program}-{kind}"
        with Path(f"{target}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                return ""
            return compile_program(program, kind, target).stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {(program, kind): pool.submit(make, program, kind) for program, kind in PROGRAMS}

        def get(program: str, kind: str) -> Path:
            messages = jobs[program, kind].result()
            if re.search(r"cannot find.*(asan|ubsan)", messages):
                pytest.skip(f"{COMPILER} has no sanitizers")
            target = folder / f"{program}-{kind}"
            assert target.exists(), messages
            return target

        yield get
