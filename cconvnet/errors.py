"""Errors that are not plain ValueErrors, and the text of one about an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CudaError(RuntimeError):
    """A call of the CUDA runtime or a kernel launch failed; the text holds expression, file and line."""


class DeviceUnavailable(RuntimeError):
    """A device that was asked for cannot be used; the text holds the cause and what mends it."""


def nearest(argument: str, given: object, allowed: Iterable[str]) -> str:
    """The text of an error about an unknown name: argument, given, the nearest allowed name, all allowed."""
    names = sorted(allowed)
    close = difflib.get_close_matches(str(given), names, n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{argument} must be one of {', '.join(names)}, not {given!r}{hint}"
