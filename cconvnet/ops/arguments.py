"""Arguments of the functions: types of arrays and paddings, and the checks of numbers, pairs and names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cconvnet.checks import whole

Array = Any  # numpy.ndarray or cupy.ndarray

Pair = int | tuple[int, int]

Padding = int | tuple[int | tuple[int, int], int | tuple[int, int]]


def pair_of(name: str, value: Pair, low: int = 1) -> tuple[int, int]:
    """Check a vertical and a horizontal number, or one number for both.

    Raises:
        TypeError: A number is no integer.
        ValueError: There are not two numbers, or one is below `low`.
    """
    pair = value if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be an integer or a pair of integers, not {value!r}")
    return whole(name, pair[0], low), whole(name, pair[1], low)


def optional_pair(name: str, value: Pair | None) -> tuple[int, int] | None:
    """Check a pair that may be None."""
    return None if value is None else pair_of(name, value)


def padding_pairs(value: Padding, low: int = 0) -> tuple[tuple[int, int], tuple[int, int]]:
    """Check a padding and return it as ((top, bottom), (left, right)).

    Args:
        value: One number for all sides, or one for either axis, each of which may be a pair.
        low: The smallest number allowed.

    Raises:
        TypeError: A number is no integer.
        ValueError: There are too few or too many numbers, or one is below `low`.
    """
    axes = value if isinstance(value, tuple | list) else (value, value)
    if len(axes) != 2:
        raise ValueError(f"padding must be an integer or two integers or pairs of integers, not {value!r}")
    vertical, horizontal = (pair_of("padding", axis, low) for axis in axes)
    return vertical, horizontal


def four_extents(name: str, value: Sequence[int], layout: str = "N,H,W,C") -> tuple[int, ...]:
    """Check the shape of an array of four axes.

    Raises:
        TypeError: An extent is no integer.
        ValueError: There are not four extents, or one is below 1.
    """
    if not isinstance(value, tuple | list) or len(value) != 4:
        raise ValueError(f"{name} must be 4 integers [{layout}], not {value!r}")
    return tuple(whole(name, extent, 1) for extent in value)


def text(name: str, value: str) -> str:
    """Check a string.

    Raises:
        TypeError: The value is no string.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}")
    return value
