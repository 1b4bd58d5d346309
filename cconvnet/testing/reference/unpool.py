"""Max unpooling in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, Taps, to_float


def _places(problem: Any, u: Array) -> Array:
    """Return [N,P,Q,C], which tap of each window is its first maximum; the first NaN is one."""
    size = problem.window_h, problem.window_w
    largest, places = np.zeros(problem.y_shape, u.dtype), np.full(problem.y_shape, -1)
    taps = zip(Taps(problem, u, *size), Taps(problem, np.ones_like(u), *size), strict=True)
    for number, ((_, _, pixels), (_, _, inside)) in enumerate(taps):
        exceeds = (places < 0) | (pixels > largest) | (np.isnan(pixels) & ~np.isnan(largest))
        exceeds &= inside == 1
        largest[exceeds], places[exceeds] = pixels[exceeds], number
    return places


def maxunpool_forward(problem: Any, x: Array, u: Array) -> Array:
    """Return y[N,H,W,C] = the sum of x over the windows whose first maximum of u is there."""
    x, u = to_float(x, problem.y_shape), to_float(u, problem.x_shape)
    places = _places(problem, u)
    y = Taps(problem, np.zeros_like(u), problem.window_h, problem.window_w)
    for number, (_, _, pixels) in enumerate(y):
        pixels += np.where(places == number, x, 0)
    return y.image.copy()


def maxunpool_backward(problem: Any, u: Array, dy: Array) -> Array:
    """Return dx[N,P,Q,C] = dy where the window's first maximum of u is."""
    u, dy = to_float(u, problem.x_shape), to_float(dy, problem.x_shape)
    places = _places(problem, u)
    dx = np.zeros(problem.y_shape, dy.dtype)
    for number, (_, _, pixels) in enumerate(Taps(problem, dy, problem.window_h, problem.window_w)):
        dx = np.where(places == number, pixels, dx)
    return dx
