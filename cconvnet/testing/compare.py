"""How a result is judged: exactly, or against the error of a plain float32 computation.

A result of ``uint16`` is one of bfloat16 (cconvnet.bfloat16). Both fail on NaN, on a wrong shape and on a
wrong type, and both say where the worst element is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet import bfloat16

Array = np.ndarray[Any, Any]

# Below this many elements a few zeros say nothing.
_FEW = 16


def _worst(name: str, error: Array, actual: Array, expected: Array) -> str:
    """Where `error` is largest (NaN is larger than all), and what stands there."""
    error = np.where(np.isnan(error), np.inf, error)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(error), error.shape))
    return (
        f"worst at {name}{list(index)}: {actual[index]!s}, not {expected[index]!s}; "
        f"shape {list(actual.shape)}"
    )


def _bfloat16_ulp(numbers: Array) -> Array:
    """The distance of each number's neighbours among the bfloat16s, 16 bits shorter than floats."""
    floats = np.maximum(numbers, np.finfo(np.float32).tiny).astype(np.float32)
    return np.asarray(np.spacing(floats) * 2.0**16)


def _same_form(name: str, actual: Array, expected: Array, dtype: Any) -> None:
    assert actual.dtype == dtype, f"{name} is {actual.dtype}, not {np.dtype(dtype)}"
    assert actual.shape == expected.shape, f"{name} has shape {actual.shape}, not {expected.shape}"


def values(array: Array) -> Array:
    """The numbers that an array holds."""
    return bfloat16.unpack(array) if array.dtype == bfloat16.BITS else array


def assert_exact(
    name: str, actual: Array, expected: Array, *, nonzero: float = 0.25, dtype: Any = np.float32
) -> None:
    """`actual` is `expected` rounded once to `dtype`; NaN equals NaN and 0 equals -0.

    A result that is mostly zeros would also be right after doing nothing, so the check refuses an
    `expected` of which less than the share `nonzero` differs from 0.
    """
    _same_form(name, actual, expected, dtype)
    share = np.count_nonzero(expected) / expected.size
    assert expected.size < _FEW or share >= nonzero, (
        f"{name} is a poor test: only {share:.1%} of the expected values are not 0"
    )
    actual = values(actual)
    rounded = values(bfloat16.pack(expected)) if dtype == bfloat16.BITS else expected.astype(dtype)
    equal = (actual == rounded) | ((actual != actual) & (rounded != rounded))
    if not equal.all():
        error = np.where(equal, 0, np.abs(actual.astype(np.float64) - rounded))
        raise AssertionError(
            f"{np.count_nonzero(~equal)} of {equal.size} elements of {name} differ; "
            + _worst(name, error, actual, rounded)
        )


def assert_close(
    name: str,
    actual: Array,
    expected: Array,
    baseline: Array,
    *,
    elementwise: bool = False,
    floor: float = 2.0,
    dtype: Any = np.float32,
    slack: Array | float = 0.0,
) -> None:
    """The error of `actual` is at most twice that of `baseline`; both against `expected` (float64).

    `baseline` is the same computed plainly in float32. Errors are counted in ulps, units of the last
    place of a float32: those of each expected element itself if `elementwise`, as for functions of one
    element, otherwise those of the largest one, as for sums, whose terms may cancel. Both the largest
    error and the root mean square are bounded. `floor` ulps are added for a baseline that is exact by
    luck (half of it for the root mean square of many elements).

    An element may be off by its `slack` on top of that, and where `dtype` is bfloat16's by the rounding of
    the float result: half a unit of the last place that a bfloat16 has.
    """
    _same_form(name, actual, expected, dtype)
    actual = values(actual)
    assert np.isfinite(expected).all(), f"{name} is a poor test: the expected values are not finite"
    size = np.abs(expected) if elementwise else np.abs(expected).max()
    ulp = np.spacing(np.maximum(size, np.finfo(np.float32).tiny).astype(np.float32))
    error = np.abs(actual.astype(np.float64) - expected) / ulp
    allowed = np.abs(baseline.astype(np.float64) - expected) / ulp
    excused = np.asarray(slack / ulp)
    if dtype == bfloat16.BITS:
        # The float result may lie beyond the next power of two, where units are twice as large.
        farthest = np.abs(expected) + (2 * allowed.max() + floor) * ulp
        excused = excused + _bfloat16_ulp(farthest) / 2 / ulp
    # A NaN stays one.
    error = np.maximum(error - excused, 0)
    for what, measure, least in (
        ("largest", np.max, floor),
        ("root mean square", lambda e: np.sqrt(np.mean(e * e)), floor / 2 if error.size > 64 else floor),
    ):
        err, bound = measure(error), 2 * measure(allowed) + least
        assert err <= bound, f"the {what} error of {name} is {err:.3g} ulp, above {bound:.3g}; " + _worst(
            name, error, actual, expected
        )


def assert_same_bits(name: str, actual: Array, expected: Array) -> None:
    """Every byte equal, as two runs of one operation must be."""
    _same_form(name, actual, expected, expected.dtype)
    if actual.tobytes() != expected.tobytes():
        bits = [np.ascontiguousarray(a).view(np.uint8).reshape(*a.shape, -1) for a in (actual, expected)]
        differs = (bits[0] != bits[1]).any(axis=-1)
        raise AssertionError(
            f"{np.count_nonzero(differs)} of {differs.size} elements of {name} differ between two runs; "
            + _worst(name, differs.astype(float), actual, expected)
        )
