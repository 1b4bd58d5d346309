"""Errors that are not plain ValueErrors, and the text of one about an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CudaError(RuntimeError):
    """A CUDA runtime call or a kernel launch failed; the text contains the expression, file and line."""


class DeviceUnavailable(RuntimeError):
    """A requested device cannot be used; the text contains the cause and how to fix it."""


class DataError(ValueError):
    """Data that cannot be used. The text names the file or folder and the remedy."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another network. The text names the file and the fault."""


def nearest(argument: str, given: object, allowed: Iterable[str]) -> str:
    """Return the text of an error about an unknown name, with the nearest allowed one as a hint.

    Args:
        argument: The argument or option, which begins the text.
        given: The value that is not allowed.
        allowed: All names that are.
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{argument} must be one of {', '.join(names)}, not {given!r}{hint}"
