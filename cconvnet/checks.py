"""The checks of numbers that a user gives, on a command line or as an argument.

Each names the option or argument, what it may be and what it is: "--batch must be at least 1, not 0".
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

MOST = 2**31 - 1  # kernels count in int32
LARGEST = (2 - 2.0**-23) * 2.0**127  # of a float32
MOST_PIXELS = 8192  # along a side of a square: data.images.MAX_PIXELS in all
MOST_SEED = 2**63 - 1
MOST_TOWERS = 26  # one for each letter


class NumberError(ValueError):
    """A number is not what it must be; the text names it."""


def whole(name: str, value: Any, low: int = 0, high: int = MOST) -> int:
    """Check a whole number.

    Raises
        TypeError: it is none.
        NumberError: it is below `low` or above `high`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    number = int(value)
    if number < low:
        raise NumberError(f"{name} must be at least {low}, not {value}")
    if number > high:
        raise NumberError(f"{name} must be at most {high}, not {value}")
    return number


def real(
    name: str, value: Any, *, low: float = -LARGEST, above: float | None = None, high: float = LARGEST
) -> float:
    """Check a number that is finite as a float32.

    Args
        low: the smallest it may be. above: what it must be larger than, instead.
        high: the largest it may be.

    Raises
        TypeError: it is no number.
        NumberError: it is not finite or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        number = math.inf if repr(value)[0] != "-" else -math.inf
    if above is not None and not number > above:
        raise NumberError(f"{name} must be above {above:g}, not {value}")
    if math.isnan(number) or (abs(number) > LARGEST and high >= LARGEST):
        raise NumberError(f"{name} must be a finite number, not {value}")
    if number < low:
        raise NumberError(f"{name} must be at least {low:g}, not {value}")
    if number > high:
        raise NumberError(f"{name} must be at most {high:g}, not {value}")
    return number


def is_number(text: str) -> bool:
    """True if a text is a whole number of up to 18 ASCII digits; "²" is a digit too, but no number."""
    return text.isascii() and text.isdigit() and len(text) <= 18


def finite_fields(one: Any, where: str = "") -> None:
    """Check that the floats among a dataclass's values are finite.

    Raises
        NumberError: naming the first that is not finite as a float32, after `where`.
    """
    for field in dataclasses.fields(one):
        value = getattr(one, field.name)
        if not isinstance(value, numbers.Integral) and isinstance(value, numbers.Real):
            real(f"{where}{field.name}", value)
