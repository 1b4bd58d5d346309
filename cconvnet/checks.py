"""Checks of numbers that a user gives, on a command line or as an argument.

Each error names the option or argument, its range and the value: "--batch must be at least 1, not 0".
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

MAX_INT32 = 2**31 - 1  # kernels count in int32
MAX_FLOAT32 = (2 - 2.0**-23) * 2.0**127
MAX_SIDE = 8192  # pixels; the square of it is data.images.MAX_PIXELS
MAX_SEED = 2**63 - 1
MAX_TOWERS = 26  # one for each letter
MAX_SHARDS = 256  # parts of a batch; the sum of so many needs a stack of nine
MAX_DIGITS = 18  # of a whole number within a text, which then fits in an int64


class NumberError(ValueError):
    """A number is out of range or not finite; the text names it."""


def whole(name: str, value: Any, low: int = 0, high: int = MAX_INT32) -> int:
    """Check a whole number.

    Args:
        name: The option or argument.
        value: The number.
        low: The smallest allowed value.
        high: The largest allowed value.

    Returns:
        The number as an int.

    Raises:
        TypeError: It is no whole number.
        NumberError: It is out of range.
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
    name: str, value: Any, *, low: float = -MAX_FLOAT32, above: float | None = None, high: float = MAX_FLOAT32
) -> float:
    """Check a number that must be finite as a float32.

    Args:
        name: The option or argument.
        value: The number.
        low: The smallest allowed value.
        above: A value that it must exceed, instead of `low`.
        high: The largest allowed value.

    Returns:
        The number as a float.

    Raises:
        TypeError: It is no number.
        NumberError: It is not finite or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        number = math.inf if repr(value)[0] != "-" else -math.inf
    if above is not None and not number > above:
        raise NumberError(f"{name} must be above {above:g}, not {value}")
    if math.isnan(number) or (abs(number) > MAX_FLOAT32 and high >= MAX_FLOAT32):
        raise NumberError(f"{name} must be a finite number, not {value}")
    if number < low:
        raise NumberError(f"{name} must be at least {low:g}, not {value}")
    if number > high:
        raise NumberError(f"{name} must be at most {high:g}, not {value}")
    return number


def is_number(text: str) -> bool:
    """Return whether a text is a whole number of at most MAX_DIGITS ASCII digits.

    `str.isdigit` alone accepts characters such as "²", which int() refuses.
    """
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def finite_fields(instance: Any, prefix: str = "") -> None:
    """Check that all floats among a dataclass's values are finite as float32.

    Args:
        instance: The dataclass instance.
        prefix: Begins the text of the error, before the field's name.

    Raises:
        NumberError: A value is not finite; the text names the first such field.
    """
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if not isinstance(value, numbers.Integral) and isinstance(value, numbers.Real):
            real(f"{prefix}{field.name}", value)
