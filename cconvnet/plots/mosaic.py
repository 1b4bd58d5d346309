"""Mosaics: many small images side by side in one."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

GAP = 2  # pixels

# Colour between tiles: a pale blue, which cannot be mistaken for their own white and grey.
_LINE = np.array([0.78, 0.86, 0.94], np.float32)

_MIN_TILE_SIDE = 40  # pixels; smaller tiles are enlarged, so that the lines between them look thin


def mosaic(tiles: Array, columns: int) -> Array:
    """Arrange tiles in rows, with a thin line around each.

    Args:
        tiles: float[n,H,W] or [n,H,W,3] of values from 0 to 1.
        columns: The number of tiles in a row.

    Returns:
        float[rows * (kH + GAP) + GAP, columns * (kW + GAP) + GAP, 3], where a pixel of a small tile becomes
        kxk pixels.
    """
    if tiles.ndim == 3:
        tiles = np.repeat(tiles[..., None], 3, axis=3)
    times = -(-_MIN_TILE_SIDE // max(tiles.shape[1:3]))
    tiles = tiles.repeat(times, axis=1).repeat(times, axis=2)
    count, height, width = tiles.shape[:3]
    rows = -(-count // columns)
    sheet = np.ones((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), np.float32)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = row * (height + GAP), column * (width + GAP)
        sheet[top : top + height + 2 * GAP, left : left + width + 2 * GAP] = _LINE
        sheet[top + GAP : top + height + GAP, left + GAP : left + width + GAP] = tile
    return sheet


def scaled_each(tiles: Array) -> Array:
    """Scale each tile from its own smallest value, 0, to its own largest, 1; a constant tile becomes grey."""
    low, high = (f(tiles.reshape(len(tiles), -1), axis=1) for f in (np.min, np.max))
    shape = (-1, *[1] * (tiles.ndim - 1))
    low, span = low.reshape(shape), (high - low).reshape(shape)
    return np.where(span > 0, (tiles - low) / np.where(span > 0, span, 1), 0.5)


def scaled_together(tiles: Array) -> tuple[Array, float]:
    """Scale all tiles alike: -limit is black, 0 is grey, limit is white.

    Returns:
        The tiles, and the limit, which is the largest magnitude.
    """
    limit = float(np.abs(tiles).max())
    return 0.5 + tiles / (2 * limit or 1), limit


def side_by_side(count: int, width: float, height: float, shape: float) -> int:
    """Return the number of tiles in a row, such that no row is short if that is possible.

    Args:
        count: The number of tiles.
        width: The width of a tile.
        height: The height of a tile.
        shape: The approximate width of the sheet, divided by its height.
    """
    ideal = max(1.0, min(count, (count * shape * height / width) ** 0.5))
    near = [n for n in range(1, count + 1) if count % n == 0 and ideal / 1.4 <= n <= ideal * 1.4]
    return min(near, key=lambda n: abs(n - ideal), default=round(ideal))
