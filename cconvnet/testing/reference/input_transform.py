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
) -> Array:
    """y[N,P,Q,C] = scale * (image - mean[H,W,C] + shift[N,C]) of a crop of each images[N,H,W,C]; with the
    problem's block above 1, that in a border of `pad` zeros, cut into blocks.

    With the problem's center_mean the mean is cut out at the centre and not mirrored, whatever the crop.
    """
    o = problem
    pixels = to_float(images, (o.n, o.h, o.w, o.c))
    if mean is not None and not o.center_mean:
        pixels = pixels - to_float(mean, (o.h, o.w, o.c))
    if shift is not None:
        pixels = pixels + to_float(shift, (o.n, 1, 1, o.c))
    top = np.clip(np.asarray(top).reshape(o.n), 0, o.h - o.p)
    left = np.clip(np.asarray(left).reshape(o.n), 0, o.w - o.q)
    y = np.empty((o.n, o.p, o.q, o.c), dtype=pixels.dtype)
    for n, mirrored in enumerate(np.asarray(mirror).reshape(o.n)):
        crop = pixels[n, top[n] : top[n] + o.p, left[n] : left[n] + o.q]
        y[n] = crop[:, ::-1] if mirrored else crop
    if mean is not None and o.center_mean:
        i, j = (o.h - o.p) // 2, (o.w - o.q) // 2
        y -= to_float(mean, (o.h, o.w, o.c))[i : i + o.p, j : j + o.q]
    if o.block > 1:
        y = np.pad(y, ((0, 0), (o.pad, o.pad), (o.pad, o.pad), (0, 0)))
    return _blocks(scale * y, o.block)


def _blocks(images: Array, block: int) -> Array:
    """[N,H,W,C], with zeros up to multiples of `block`, as [N, H/block, W/block, block*block*C]."""
    images = np.pad(images, ((0, 0), (0, -images.shape[1] % block), (0, -images.shape[2] % block), (0, 0)))
    n, h, w, c = images.shape
    squares = images.reshape(n, h // block, block, w // block, block, c).swapaxes(2, 3)
    return squares.reshape(n, h // block, w // block, block * block * c)


def filters_to_blocks(problem: Any, w: Array) -> Array:
    """blocks[K, blocks_r, blocks_s, block*block*C] of w[K,R,S,C]."""
    return _blocks(to_float(w, problem.w_shape), problem.block)


def filters_from_blocks(problem: Any, dblocks: Array) -> Array:
    """dw[K,R,S,C] of dblocks[K, blocks_r, blocks_s, block*block*C]."""
    o = problem
    k, blocks_r, blocks_s, _ = o.blocks_shape
    squares = to_float(dblocks, (k, blocks_r, blocks_s, o.block, o.block, o.c)).swapaxes(2, 3)
    whole = squares.reshape(k, blocks_r * o.block, blocks_s * o.block, o.c)
    return whole[:, : o.r, : o.s].copy()
