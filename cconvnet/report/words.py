"""Numbers and times as text for readers."""

from __future__ import annotations

import math
import time


def percent(share: float | None) -> str:
    """Format a share from 0 to 1 as a percentage, "-" if there is none."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f}%"


def duration(seconds: float | None) -> str:
    """Format a duration: "3.7 s", "1 min 14 s", "5 h 3 min", "6 d 2 h"; "-" if there is none."""
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
    """Format a time in seconds since 1970 as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
