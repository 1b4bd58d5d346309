"""Exit codes and messages of errors.

A user's mistake is explained in a line on standard error, without a traceback, and the exit code is 2. It is
1 if a correct command failed. ``CCONVNET_DEBUG=1`` shows the traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import typer

# The base class of typer's errors about a command line, wherever this version of typer defines it.
_UsageError: Any = typer.BadParameter.__mro__[1]

# Errors of writing to standard output: nobody reads it, its disk is full, its terminal is gone.
_OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EIO)


def _fail(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code


def explain(error: Exception) -> int:
    """Print what was wrong in a line or two.

    Returns:
        The exit code.

    Raises:
        Exception: The error itself, if it is none that a command is expected to raise or CCONVNET_DEBUG is 1.
    """
    if os.environ.get("CCONVNET_DEBUG") == "1":
        raise error
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "cconvnet"
        return _fail(f"{error.format_message()}\nsee `{command} --help`", 2)
    if isinstance(error, typer.Abort):
        return 130
    if isinstance(error, OSError) and error.filename is None and error.errno in _OUTPUT_ERRORS:
        from cconvnet.console import silence

        silence(sys.stdout)
        # After the reader has gone, nobody needs a message.
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
        # A plain ValueError should name an argument. In case it does not, the traceback shows its origin.
        hint = "\n(CCONVNET_DEBUG=1 shows where)" if type(error) is ValueError else ""
        return _fail(f"{error}{hint}", 2)

    from cconvnet.bench.processes import WorkerError as SideError
    from cconvnet.data import WorkerError
    from cconvnet.data.downloads import DownloadError
    from cconvnet.training.stopping import TrainingStopped

    if isinstance(error, TrainingStopped | WorkerError | SideError | DownloadError):
        return _fail(str(error), 1)
    raise error
