"""Max and average pooling in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, Taps, to_float
from cconvnet.testing.reference.bias import input_epilogue


def maxpool_forward(problem: Any, x: Array) -> Array:
    """Return y[N,P,Q,C] = the largest value of each clipped window; NaN if the window contains one."""
    x = to_float(x, problem.x_shape)
    y = np.full(problem.y_shape, -np.inf, dtype=x.dtype)
    for _, _, pixels in Taps(problem, x, problem.window_h, problem.window_w, fill=-np.inf):
        np.maximum(y, pixels, out=y)
    return y


def maxpool_backward(problem: Any, x: Array, y: Array, dy: Array, **epilogue: Any) -> Any:
    """Return dx[N,H,W,C] = the sum of dy over the windows whose y equals x, finished by input_epilogue."""
    x, y, dy = (to_float(x, problem.x_shape), to_float(y, problem.y_shape), to_float(dy, problem.y_shape))
    images = Taps(problem, x, problem.window_h, problem.window_w)
    gradients = Taps(problem, np.zeros_like(x), problem.window_h, problem.window_w)
    for (_, _, pixels), (_, _, gradient) in zip(images, gradients, strict=True):
        gradient += np.where(pixels == y, dy, 0)
    return input_epilogue(gradients.image.copy(), **epilogue)


def _window_sizes(problem: Any) -> Array:
    """Return [1,P,Q,1], how many pixels of the image, or of the padded image, each window contains."""
    sizes = []
    for size, windows, window, stride, pad, pad_after in (
        (problem.h, problem.p, problem.window_h, problem.stride_h, problem.pad_h, problem.pad_bottom),
        (problem.w, problem.q, problem.window_w, problem.stride_w, problem.pad_w, problem.pad_right),
    ):
        low, high = (-pad, size + pad_after) if problem.count_padding else (0, size)
        begin = np.arange(windows) * stride - pad
        sizes.append(np.minimum(begin + window, high) - np.maximum(begin, low))
    return to_float(np.outer(*sizes)[None, :, :, None])


def avgpool_forward(problem: Any, x: Array) -> Array:
    """Return y[N,P,Q,C] = the mean over each clipped window; with count_padding, that of the padded image."""
    x = to_float(x, problem.x_shape)
    y = np.zeros(problem.y_shape, dtype=x.dtype)
    for _, _, pixels in Taps(problem, x, problem.window_h, problem.window_w):
        y += pixels
    return y / _window_sizes(problem)


def avgpool_backward(problem: Any, dy: Array, **epilogue: Any) -> Any:
    """Return dx[N,H,W,C] = the sum over the windows that contain x of dy / (the divisor of the mean).

    It is finished by input_epilogue.
    """
    share = to_float(dy, problem.y_shape) / _window_sizes(problem)
    gradients = Taps(problem, np.zeros(problem.x_shape, share.dtype), problem.window_h, problem.window_w)
    for _, _, gradient in gradients:
        gradient += share
    return input_epilogue(gradients.image.copy(), **epilogue)
