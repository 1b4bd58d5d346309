"""Comparisons of a result with the expected one: exact, or by the error of a plain float32 computation.

A result of ``uint16`` is one of bfloat16 (cconvnet.bfloat16). Both comparisons fail on NaN, on a wrong shape
and on a wrong type, and both report the worst element.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cconvnet import bfloat16

Array = np.ndarray[Any, Any]

# Of fewer elements, many may be 0 by chance.
_FEW = 16


def _worst(name: str, error: Array, actual: Array, expected: Array) -> str:
    """Describe the element whose `error` is largest; NaN is larger than all."""
    error = np.where(np.isnan(error), np.inf, error)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(error), error.shape))
    return (
        f"worst at {name}{list(index)}: {actual[index]!s}, not {expected[index]!s}; "
        f"shape {list(actual.shape)}"
    )


def _bfloat16_ulp(numbers: Array) -> Array:
    """Return the distance of each number to the next bfloat16, which is 16 bits shorter than a float."""
    floats = np.maximum(numbers, np.finfo(np.float32).tiny).astype(np.float32)
    return np.asarray(np.spacing(floats) * 2.0**16)


def _same_form(name: str, actual: Array, expected: Array, dtype: Any) -> None:
    assert actual.dtype == dtype, f"{name} is {actual.dtype}, not {np.dtype(dtype)}"
    assert actual.shape == expected.shape, f"{name} has shape {actual.shape}, not {expected.shape}"


def values(array: Array) -> Array:
    """Return the numbers of an array, of bfloat16s too."""
    return bfloat16.unpack(array) if array.dtype == bfloat16.BITS else array


def assert_exact(
    name: str, actual: Array, expected: Array, *, nonzero: float = 0.25, dtype: Any = np.float32
) -> None:
    """Assert that `actual` is `expected` rounded once to `dtype`; NaN equals NaN and 0 equals -0.

    An operation that does nothing would pass if zeros were expected. Therefore less than the share `nonzero`
    of `expected` that differs from 0 is refused.

    Args:
        name: The name of the result in errors.
        actual: The result.
        expected: The expected result in float64.
        nonzero: The smallest share of expected values that are not 0.
        dtype: The type that the result must have.
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
    """Assert that the error of `actual` is at most twice that of `baseline`, both against `expected`.

    Errors are counted in ulps, units of the last place of a float32. Both the largest error and the root
    mean square are bounded. Results of bfloat16 may also be off by their rounding: half a unit of a
    bfloat16's last place.

    Args:
        name: The name of the result in errors.
        actual: The result.
        expected: The expected result in float64.
        baseline: The same computed plainly in float32.
        elementwise: True for the ulps of each expected element, as for functions of one element. False for
            those of the largest one, as for sums, whose terms may cancel.
        floor: The ulps added for a baseline that is exact by luck (half of them for the root mean square of
            many elements).
        dtype: The type that the result must have.
        slack: How far elements may be off on top of that.
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
        # The float result may be beyond the next power of two, where units are twice as large.
        farthest = np.abs(expected) + (2 * allowed.max() + floor) * ulp
        excused = excused + _bfloat16_ulp(farthest) / 2 / ulp
    # A NaN stays NaN.
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
    """Assert that every byte is equal, as two runs of one operation must be."""
    _same_form(name, actual, expected, expected.dtype)
    if actual.tobytes() != expected.tobytes():
        bits = [np.ascontiguousarray(a).view(np.uint8).reshape(*a.shape, -1) for a in (actual, expected)]
        differs = (bits[0] != bits[1]).any(axis=-1)
        raise AssertionError(
            f"{np.count_nonzero(differs)} of {differs.size} elements of {name} differ between two runs; "
            + _worst(name, differs.astype(float), actual, expected)
        )
