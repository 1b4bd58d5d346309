"""Images that both sides of a feeding comparison read, and the turns in which they are timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from cconvnet import data

# An epoch is at least so many batches: its beginning and end are not what is measured.
_BATCHES = 200


def times_over(images: int, batch: int) -> int:
    """How often images have to be taken for an epoch of many batches."""
    return max(1, math.ceil(_BATCHES * batch / images))


def timed(advance: Callable[[], int], seconds: float, ahead: int = 0) -> tuple[int, float]:
    """Calls `advance`, which returns how many images it brought, for `seconds`; returns images and seconds.

    First it is called until what a stage had ready, `ahead` calls, is used up; or for three times as long,
    after which what was ready no longer counts.
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
    """A source whose pictures are read anew each time, as those of a set too large for memory are."""
    return data.open_source(where, size, cache_bytes=0)
