"""Batches of crops of images, and filters for images cut into blocks, in NumPy."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, to_float


def input_transform(
    problem: Any,
    images: Array,
    top: Array,
    left: Array,
    mirror: Array,
    mean: Array | None = None,
    shift: Array | None = None,
    scale: float = 1.0,
    factors: Array | None = None,
) -> Array:
    """Return y[N,P,Q,C] = scale * (image - mean[H,W,C] + shift[N,C]) of a crop of each images[N,H,W,C].

    With factors[C] each channel is multiplied by its own as well.

    With the problem's block above 1 the result gets a border of `pad` zeros and is cut into blocks. With the
    problem's center_mean the mean is that of the centre crop and not mirrored, whatever the crop. Crops may
    reach into the problem's margin around the image, which becomes 0 in y.
    """
    pixels = to_float(images, (problem.n, problem.h, problem.w, problem.c))
    if mean is not None and not problem.center_mean:
        pixels = pixels - to_float(mean, (problem.h, problem.w, problem.c))
    if shift is not None:
        pixels = pixels + to_float(shift, (problem.n, 1, 1, problem.c))
    margin = problem.margin
    pixels = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    inside = np.pad(np.ones((problem.h, problem.w, 1), bool), ((margin, margin), (margin, margin), (0, 0)))
    top = margin + np.clip(np.asarray(top).reshape(problem.n), -margin, problem.h - problem.p + margin)
    left = margin + np.clip(np.asarray(left).reshape(problem.n), -margin, problem.w - problem.q + margin)
    y = np.empty((problem.n, problem.p, problem.q, problem.c), dtype=pixels.dtype)
    seen = np.empty((problem.n, problem.p, problem.q, 1), bool)
    for n, mirrored in enumerate(np.asarray(mirror).reshape(problem.n)):
        crop = np.s_[top[n] : top[n] + problem.p, left[n] : left[n] + problem.q]
        columns = np.s_[:, ::-1] if mirrored else np.s_[:, :]
        y[n], seen[n] = pixels[n][crop][columns], inside[crop][columns]
    if mean is not None and problem.center_mean:
        i, j = (problem.h - problem.p) // 2, (problem.w - problem.q) // 2
        y -= to_float(mean, (problem.h, problem.w, problem.c))[i : i + problem.p, j : j + problem.q]
    y = np.where(seen, y, 0)
    if factors is not None:
        y = y * to_float(factors, (problem.c,))
    if problem.block > 1:
        y = np.pad(y, ((0, 0), (problem.pad, problem.pad), (problem.pad, problem.pad), (0, 0)))
    return _blocks(scale * y, problem.block)


def _blocks(images: Array, block: int) -> Array:
    """Return [N,H,W,C], with zeros up to multiples of `block`, as [N, H/block, W/block, block*block*C]."""
    images = np.pad(images, ((0, 0), (0, -images.shape[1] % block), (0, -images.shape[2] % block), (0, 0)))
    n, h, w, c = images.shape
    squares = images.reshape(n, h // block, block, w // block, block, c).swapaxes(2, 3)
    return squares.reshape(n, h // block, w // block, block * block * c)


def filters_to_blocks(problem: Any, w: Array) -> Array:
    """Return blocks[K, blocks_r, blocks_s, block*block*C] of w[K,R,S,C]."""
    return _blocks(to_float(w, problem.w_shape), problem.block)


def filters_from_blocks(problem: Any, dblocks: Array) -> Array:
    """Return dw[K,R,S,C] of dblocks[K, blocks_r, blocks_s, block*block*C]."""
    k, blocks_r, blocks_s, _ = problem.blocks_shape
    squares = to_float(dblocks, (k, blocks_r, blocks_s, problem.block, problem.block, problem.c)).swapaxes(
        2, 3
    )
    whole = squares.reshape(k, blocks_r * problem.block, blocks_s * problem.block, problem.c)
    return whole[:, : problem.r, : problem.s].copy()
