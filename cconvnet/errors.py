"""The errors of this package that are not plain ValueErrors."""

from __future__ import annotations


class CudaError(RuntimeError):
    """A call of the CUDA runtime or a kernel launch failed; the text holds expression, file and line."""


class DeviceUnavailable(RuntimeError):
    """A device that was asked for cannot be used; the text holds the cause and what mends it."""
