"""Numbers and times as a reader is shown them."""

from __future__ import annotations

import math
import time


def percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f}%"


def duration(seconds: float | None) -> str:
    """For people: "3.7 s", "1 min 14 s", "5 h 3 min", "6 d 2 h"."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, part, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // part} {small}"
    raise AssertionError(seconds)


def day(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
