"""Dropout in NumPy, and the random numbers that it draws."""

# Ufuncs return Any to mypy.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet.testing.reference.base import Array, to_float


def philox4x32_10(counter: Array, key: Array) -> Array:
    """Return four random words uint32[..., 4] of counters [..., 4] and keys [..., 2].

    Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    mask = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    key0, key1 = np.moveaxis(np.asarray(key, dtype=np.uint64), -1, 0)
    for _ in range(10):
        product0 = np.uint64(0xD2511F53) * c0
        product1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> half) ^ c1 ^ key0,
            product1 & mask,
            (product0 >> half) ^ c3 ^ key1,
            product0 & mask,
        )
        key0 = (key0 + np.uint64(0x9E3779B9)) & mask
        key1 = (key1 + np.uint64(0xBB67AE85)) & mask
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def dropout_mask(problem: Any, step: Array | None = None) -> Array:
    """Return bool[count], True for kept elements; `step` (one integer) is added to the subsequence."""
    subsequence = (problem.subsequence + (0 if step is None else int(np.asarray(step).item()))) % 2**64
    i = np.arange(problem.count)
    row = problem.first_row + i // problem.columns
    index = row * problem.row_stride + problem.first + i % problem.columns
    blocks, own = np.unique(index // 4, return_inverse=True)
    counter = np.zeros((blocks.size, 4), dtype=np.uint64)
    counter[:, 0] = blocks
    counter[:, 2:] = subsequence & 0xFFFFFFFF, subsequence >> 32
    key = np.array([problem.seed & 0xFFFFFFFF, problem.seed >> 32], dtype=np.uint64)
    words = philox4x32_10(counter, key)[own, index % 4]
    return words < np.uint64(float(np.float32(problem.keep)) * 2.0**32)


def dropout(problem: Any, x: Array, step: Array | None = None) -> Array:
    """Return y = x * scale where the element is kept, else 0, of x's shape."""
    x = to_float(x)
    return np.where(dropout_mask(problem, step).reshape(x.shape), x * problem.scale, 0)
