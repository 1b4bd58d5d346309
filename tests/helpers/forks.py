"""Processes that run ``cconvnet`` without the half second in which an interpreter starts and imports it.

A server, which this file is, has imported it and forks for each command. It has run nothing before, so a
command behaves as in an interpreter of its own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

# What most commands import. No module of a device: it may start threads, which a fork does not have.
IMPORTED = (
    "cconvnet.cli",
    "cconvnet.data",
    "cconvnet.evaluate",
    "cconvnet.plots",
    "cconvnet.training.session",
    "matplotlib.figure",
)


def _environment() -> dict[str, str]:
    """Return the environment without what pytest and the CPU's module add to it."""
    added = ("PYTEST_CURRENT_TEST", "OMP_WAIT_POLICY")
    return {name: value for name, value in os.environ.items() if name not in added}


STARTED_WITH = _environment()


class Server:
    """Starts commands by ``python -m cconvnet`` in forks of one process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=STARTED_WITH,
            start_new_session=True,
        )

    def serves(self, environment: dict[str, str]) -> bool:
        """Return whether a command wants the environment in which everything was imported."""
        return not environment and _environment() == STARTED_WITH

    def run(self, arguments: list[str], cwd: Path | None, timeout: float) -> subprocess.CompletedProcess[str]:
        assert self.process.stdin is not None and self.process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            request = [arguments, str(cwd or Path.cwd()), str(out), str(err)]
            print(json.dumps(request), file=self.process.stdin, flush=True)
            if not select.select([self.process.stdout], [], [], timeout)[0]:
                os.killpg(self.process.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(arguments, timeout)
            code = self.process.stdout.readline()
            assert code, "the server of commands ended"
            return subprocess.CompletedProcess(arguments, int(code), out.read_text(), err.read_text())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=20)


def _serve() -> None:
    """Fork for each request, and return in the child."""
    for line in sys.stdin:
        arguments, cwd, out, err = json.loads(line)
        child = os.fork()
        if child == 0:
            for number, (path, flags) in enumerate(
                [(os.devnull, os.O_RDONLY), (out, os.O_WRONLY | os.O_CREAT), (err, os.O_WRONLY | os.O_CREAT)]
            ):
                opened = os.open(path, flags)
                os.dup2(opened, number)
                os.close(opened)
            os.chdir(cwd)
            sys.argv[1:] = arguments
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, which is no package of the commands
    for name in IMPORTED:
        importlib.import_module(name)
    commands = importlib.import_module("cconvnet.cli.commands")
    # Typer would build all commands anew for each command line.
    commands.app = importlib.import_module("typer.main").get_command(commands.app)
    gc.collect()
    gc.freeze()
    _serve()
    try:
        commands.main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    # An interpreter would free all that was imported, which takes longer than most commands.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)
