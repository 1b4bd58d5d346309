"""Number types and windows that the families of the reference share."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_dtype: ContextVar[Any] = ContextVar("dtype", default=np.float64)


@contextlib.contextmanager
def precision(dtype: Any) -> Iterator[None]:
    """Compute in `dtype` instead of float64 within this context."""
    token = _dtype.set(dtype)
    try:
        yield
    finally:
        _dtype.reset(token)


def to_float(values: Array, shape: tuple[int, ...] | None = None) -> Array:
    """Return values in the type that is computed in, reshaped if a shape is given."""
    array = np.asarray(values, dtype=_dtype.get())
    return array if shape is None else array.reshape(shape)


def add_product(total: Array, a: Array, b: Array) -> None:
    """Add a @ b to `total`.

    In float32 the sum is made term by term, to show the error of the plainest sum.
    """
    if total.dtype == np.float64:
        total += a @ b
        return
    for i in range(a.shape[-1]):
        total += a[..., i, None] * b[..., i, None, :]


class Taps:
    """The image in a border of `fill` wide enough for every window, and the pixels under each tap.

    Iteration gives (r, s, view), where view[n,p,q,c] is the pixel under tap (r, s) of window (p, q).

    Attributes:
        padded: The image with its border.
    """

    def __init__(self, problem: Any, x: Array, r: int, s: int, fill: float = 0.0) -> None:
        self.problem, self.r, self.s = problem, r, s
        # The taps of a pool have no dilation.
        self.dilation = getattr(problem, "dilation_h", 1), getattr(problem, "dilation_w", 1)
        # A negative padding is no border: the first window begins inside the image.
        self.border = max(problem.pad_h, 0), max(problem.pad_w, 0)
        self.begin = self.border[0] - problem.pad_h, self.border[1] - problem.pad_w
        # The padding at the right and bottom and the rounding decide where the last window ends.
        extent = (r - 1) * self.dilation[0] + 1, (s - 1) * self.dilation[1] + 1
        last = (problem.p - 1) * problem.stride_h, (problem.q - 1) * problem.stride_w
        height = max(self.border[0] + problem.h, self.begin[0] + last[0] + extent[0])
        width = max(self.border[1] + problem.w, self.begin[1] + last[1] + extent[1])
        self.padded = np.full((problem.n, height, width, problem.c), fill, dtype=x.dtype)
        self.image[...] = x

    @property
    def image(self) -> Array:
        """The view of the image without its border."""
        top, left = self.border
        return self.padded[:, top : top + self.problem.h, left : left + self.problem.w, :]

    def __iter__(self) -> Iterator[tuple[int, int, Array]]:
        problem = self.problem
        for r in range(self.r):
            for s in range(self.s):
                top = self.begin[0] + r * self.dilation[0]
                left = self.begin[1] + s * self.dilation[1]
                rows = slice(top, top + (problem.p - 1) * problem.stride_h + 1, problem.stride_h)
                columns = slice(left, left + (problem.q - 1) * problem.stride_w + 1, problem.stride_w)
                yield r, s, self.padded[:, rows, columns, :]


def channel_groups(problem: Any) -> Iterator[tuple[slice, slice]]:
    """Iterate over the channels of x and of y of each group."""
    c, k = problem.c // problem.groups, problem.k // problem.groups
    for g in range(problem.groups):
        yield slice(g * c, (g + 1) * c), slice(g * k, (g + 1) * k)
