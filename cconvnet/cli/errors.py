"""The exit codes of errors, and the lines that explain them."""

from __future__ import annotations

import errno
import sys
from typing import Any

import typer

# The base of all that typer finds wrong with a command line, wherever this version of typer keeps it.
_UsageError: Any = typer.BadParameter.__mro__[1]


# How writing to standard output fails: nobody reads it, its disk is full, its terminal is gone.
_OF_OUTPUT = (errno.EPIPE, errno.ENOSPC, errno.EIO)


def _fail(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code


def explain(error: Exception) -> int:
    """Says what was wrong in a line or two and returns the exit code; an unforeseen error is raised again."""
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "cconvnet"
        return _fail(f"{error.format_message()}\n`{command} --help` tells more", 2)
    if isinstance(error, typer.Abort):
        return 130
    if isinstance(error, OSError) and error.filename is None and error.errno in _OF_OUTPUT:
        from cconvnet.console import silence

        silence(sys.stdout)
        # A reader who has gone wants to hear nothing.
        return 1 if error.errno == errno.EPIPE else _fail(f"standard output: {error.strerror}", 1)
    if isinstance(error, OSError) and error.filename is not None:
        return _fail(f"{error.filename}: {error.strerror}", 1)
    if isinstance(error, MemoryError):
        return _fail(f"not enough memory ({error}); a smaller --batch needs less", 1)

    from cconvnet.devices import CudaError, DeviceUnavailable

    if isinstance(error, DeviceUnavailable):
        return _fail(str(error), 2)
    if isinstance(error, CudaError):
        return _fail(str(error), 1)
    if isinstance(error, ValueError):
        # A plain ValueError names an argument; if it does not, somebody will want to know where it is from.
        hint = "\n(CCONVNET_DEBUG=1 shows where)" if type(error) is ValueError else ""
        return _fail(f"{error}{hint}", 2)

    from cconvnet.bench.processes import WorkerError as SideError
    from cconvnet.data import WorkerError
    from cconvnet.data.downloads import DownloadError
    from cconvnet.training.stopping import TrainingStopped

    if isinstance(error, TrainingStopped | WorkerError | SideError | DownloadError):
        return _fail(str(error), 1)
    raise error
