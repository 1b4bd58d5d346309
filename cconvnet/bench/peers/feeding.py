"""Images that both sides of a comparison of loaders read, and the timing of their turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from cconvnet import data

# Batches in an epoch, at least: its beginning and end are not to be measured.
_BATCHES = 200


def times_over(images: int, batch: int) -> int:
    """Return how often the images have to be repeated for an epoch of many batches."""
    return max(1, math.ceil(_BATCHES * batch / images))


def timed(advance: Callable[[], int], seconds: float, ahead: int = 0) -> tuple[int, float]:
    """Call `advance` again and again; return the images that it brought and the seconds that it took.

    First it is called, untimed, until the results that a stage had ready are used up. After three times
    `seconds` this stops, since results that were ready no longer count.

    Args:
        advance: Returns the number of images that it brought.
        seconds: The least seconds that are timed.
        ahead: The number of calls whose results may have been ready.
    """
    begin = time.perf_counter()
    for _ in range(1 + ahead):
        advance()
        if time.perf_counter() - begin > 3 * seconds:
            break
    images, begin = 0, time.perf_counter()
    while True:
        images += advance()
        if (passed := time.perf_counter() - begin) >= seconds:
            return images, passed


def open_streamed(where: str | None, size: int | None) -> data.Source:
    """Open a source whose images are read anew each time, like those of a set too large for memory."""
    return data.open_source(where, size, cache_bytes=0)
