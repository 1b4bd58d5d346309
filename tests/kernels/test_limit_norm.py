"""Limits of norms: rows above `limit` and below `low` are scaled to it; others keep their bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cconvnet._problem import NormLimitProblem
from cconvnet.devices import Device
from cconvnet.testing import reference
from cconvnet.testing.check import check, make_inputs, run

# With the norms that exact inputs have: powers of two around the root of the columns.
EXACT = [
    NormLimitProblem(1, 1, 0.5),
    NormLimitProblem(9, 1, 1.0),
    NormLimitProblem(5, 7, 1.0),
    NormLimitProblem(30, 64, 4.0),
    NormLimitProblem(6, 75, 8.0),
    NormLimitProblem(3, 1023, 8.0),
    NormLimitProblem(4, 1028, 16.0),
    NormLimitProblem(300, 20, 2.0),
    NormLimitProblem(2, 5000, 32.0),
    NormLimitProblem(30, 64, 8.0, 4.0),
    NormLimitProblem(7, 1023, 16.0, 16.0),
    NormLimitProblem(5, 7, 1.0, centered=True),
    NormLimitProblem(6, 3, 1.0, 0.5, centered=True),
    NormLimitProblem(30, 64, 8.0, 4.0, centered=True),
    NormLimitProblem(9, 75, 4.0, 4.0, centered=True),
    NormLimitProblem(12, 1028, 32.0, 8.0, centered=True),
    NormLimitProblem(8, 5001, 64.0, 32.0, centered=True),
]
REAL = [
    NormLimitProblem(1, 3, 1.5),
    NormLimitProblem(7, 33, 5.7),
    NormLimitProblem(64, 75, 8.6),
    NormLimitProblem(16, 1152, 33.9),
    NormLimitProblem(8, 4097, 64.0),
    NormLimitProblem(5, 64, 100.0),
    NormLimitProblem(64, 75, 9.2, 8.0),
    NormLimitProblem(7, 33, 5.7, 5.5, centered=True),
    NormLimitProblem(64, 75, 8.6, 8.5, centered=True),
    NormLimitProblem(16, 1152, 33.9, centered=True),
    NormLimitProblem(8, 4097, 80.0, 70.0, centered=True),
]


@pytest.mark.parametrize("offset", [0, 4])
@pytest.mark.parametrize("problem", EXACT, ids=repr)
def test_exact(device: Device, problem: NormLimitProblem, offset: int) -> None:
    check("limit_norm", problem, device, offset=offset)


@pytest.mark.parametrize("problem", REAL, ids=repr)
def test_real(device: Device, problem: NormLimitProblem) -> None:
    check("limit_norm", problem, device, data="real")
    check("limit_norm", problem, device, data="real", offset=8)


@pytest.mark.parametrize("columns", [36, 41])
def test_only_what_is_too_long_changes(device: Device, columns: int) -> None:
    problem = NormLimitProblem(50, columns, 6.0)
    w = make_inputs("limit_norm", problem, data="real")["w"]
    norms = np.linalg.norm(w.astype(np.float64), axis=1)
    long = norms > problem.limit
    assert 10 < long.sum() < 45 and np.abs(norms - problem.limit).min() > 1e-4
    limited = run("limit_norm", problem, device, {"w": w})["w"]
    assert limited[~long].tobytes() == w[~long].tobytes()
    assert (limited[long] != w[long]).any(axis=1).all()
    np.testing.assert_allclose(np.linalg.norm(limited[long].astype(np.float64), axis=1), 6, rtol=1e-6)


def test_at_the_limit_nothing_changes(device: Device) -> None:
    w = np.array([[3, 4, 0], [0, -5, 0], [0, 0, 0], [6, -8, 0]], np.float32)
    limited = run("limit_norm", NormLimitProblem(4, 3, 5.0), device, {"w": w})["w"]
    np.testing.assert_array_equal(limited, [[3, 4, 0], [0, -5, 0], [0, 0, 0], [3, -4, 0]])


@pytest.mark.parametrize("columns", [5, 300])
def test_a_row_with_nan_stays_as_it_is(device: Device, columns: int) -> None:
    w = np.full((3, columns), 2, np.float32)
    w[1, columns // 2] = np.nan
    limited = run("limit_norm", NormLimitProblem(3, columns, 1.0), device, {"w": w})["w"]
    assert limited[1].tobytes() == w[1].tobytes()
    np.testing.assert_allclose(limited[[0, 2]], columns**-0.5, rtol=1e-6)


def test_an_infinite_row_shows(device: Device) -> None:
    w = np.array([[1, np.inf, 1, 1], [3, 4, 0, 0]], np.float32)
    limited = run("limit_norm", NormLimitProblem(2, 4, 1.0), device, {"w": w})["w"]
    assert np.isnan(limited[0, 1])
    np.testing.assert_allclose(limited[1], [0.6, 0.8, 0, 0], rtol=1e-6)


def contrast(rows: Any) -> Any:
    """Return the norm of each row minus its mean, in float64."""
    rows = np.asarray(rows, np.float64)
    return np.linalg.norm(rows - rows.mean(axis=1, keepdims=True), axis=1)


@pytest.mark.parametrize("columns", [36, 41, 1030])
@pytest.mark.parametrize("centered", [False, True])
def test_what_is_too_short_grows(device: Device, columns: int, centered: bool) -> None:
    typical = columns**0.5
    problem = NormLimitProblem(80, columns, 1.05 * typical, 0.95 * typical, centered)
    random = np.random.default_rng(columns)
    w = random.standard_normal((80, columns)) * random.uniform(0.8, 1.2, (80, 1)) + 2.0 * centered
    w = w.astype(np.float32)
    measure = contrast if centered else lambda rows: np.linalg.norm(np.float64(rows), axis=1)
    norms = measure(w)
    long, short = norms > problem.limit, norms < problem.low
    assert min(long.sum(), short.sum(), (~long & ~short).sum()) > 5
    assert min(np.abs(norms - problem.limit).min(), np.abs(norms - problem.low).min()) > 1e-4
    limited = run("limit_norm", problem, device, {"w": w})["w"]
    assert limited[~long & ~short].tobytes() == w[~long & ~short].tobytes()
    np.testing.assert_allclose(measure(limited[long]), problem.limit, rtol=1e-6)
    np.testing.assert_allclose(measure(limited[short]), problem.low, rtol=1e-6)
    # The whole row is multiplied, its mean with the rest.
    np.testing.assert_allclose(limited, w * (limited[:, :1] / w[:, :1]), rtol=1e-6)


@pytest.mark.parametrize("columns", [1, 5, 75, 300, 4100])
def test_a_row_of_equal_values_has_no_contrast(device: Device, columns: int) -> None:
    # Of values whose plain sum is rounded, and large, small and subnormal ones.
    w = np.outer([0.1, -0.3, 7e5, 3e38, 1e-30, 1e-44, 0.0, np.nan, np.inf, -np.inf], np.ones(columns))
    w = w.astype(np.float32)
    limited = run("limit_norm", NormLimitProblem(len(w), columns, 2.0, 1.0, True), device, {"w": w})["w"]
    assert limited.tobytes() == w.tobytes()


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_without_a_finite_contrast_stays(device: Device, place: int, value: float) -> None:
    w = np.array([[1, 2, 3, 4, 5], [1, 1, 1, 1, 6], [0, 0, 0, 0, 0.5]], np.float32)
    w[1, place] = value
    limited = run("limit_norm", NormLimitProblem(3, 5, 2.0, 1.0, True), device, {"w": w})["w"]
    assert limited[1].tobytes() == w[1].tobytes()
    np.testing.assert_allclose(contrast(limited[[0, 2]]), [2, 1], rtol=1e-6)


def test_zero_is_not_too_short(device: Device) -> None:
    w = np.array([[0, 0, 0], [0, 0.5, 0], [0, -3e-39, 0]], np.float32)
    limited = run("limit_norm", NormLimitProblem(3, 3, 4.0, 2.0), device, {"w": w})["w"]
    np.testing.assert_allclose(limited, [[0, 0, 0], [0, 2, 0], [0, -2, 0]], rtol=1e-6)


@pytest.mark.parametrize("low", [-1.0, np.nan, 2.5])
def test_low_lies_between_zero_and_the_limit(low: float) -> None:
    with pytest.raises(ValueError, match="low must not be"):
        NormLimitProblem(2, 3, 2.0, low)


@pytest.mark.parametrize("limit", [0.0, -1.0, np.nan])
def test_a_limit_is_positive(limit: float) -> None:
    with pytest.raises(ValueError, match="limit must be positive"):
        NormLimitProblem(2, 3, limit)


# Rows of 1, 3, 5 and more columns that are long, short or in between, beside one that is as usual.
EXTREMES = [3e30, 1.1e19, 2e-22, 3e-30, 5e-41, 1.0]


@pytest.mark.parametrize("limit", [1.0, 1e25, 1e-20, 1e-31, 3e-38])
@pytest.mark.parametrize("columns", [1, 2, 5, 300, 4100])
def test_squares_beyond_floats_do_not_matter(device: Device, columns: int, limit: float) -> None:
    problem = NormLimitProblem(len(EXTREMES), columns, limit)
    draws = np.random.default_rng(columns).uniform(0.1, 1, (len(EXTREMES), columns))
    w = (draws * np.array(EXTREMES)[:, None]).astype(np.float32)
    limited = run("limit_norm", problem, device, {"w": w})["w"]
    wanted = reference.limit_norm(problem, w.astype(np.float64))
    # Beside floats' rounding, that of the subnormal ones.
    np.testing.assert_allclose(limited, wanted, rtol=1e-6, atol=3e-45)
    changed = (limited != w).any(axis=1)
    np.testing.assert_array_equal(changed, (wanted != w).any(axis=1))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(("low", "limit"), [(0.5, 1.0), (1e24, 1e25), (1e-21, 1e-20), (2e-38, 1e-30)])
@pytest.mark.parametrize("columns", [2, 5, 300, 4100])
def test_differences_beyond_floats_do_not_matter(
    device: Device, columns: int, low: float, limit: float, centered: bool
) -> None:
    problem = NormLimitProblem(len(EXTREMES) + 1, columns, limit, low, centered)
    draws = np.random.default_rng(columns).uniform(0.1, 1, (problem.rows, columns))
    # In the last row the difference of two elements overflows, not they.
    draws[-1, ::2] *= -1
    w = (draws * np.array([*EXTREMES, 3.4e38])[:, None]).astype(np.float32)
    limited = run("limit_norm", problem, device, {"w": w})["w"]
    wanted = reference.limit_norm(problem, w.astype(np.float64))
    np.testing.assert_allclose(limited, wanted, rtol=2e-6, atol=3e-45)
    np.testing.assert_array_equal((limited != w).any(axis=1), (wanted != w).any(axis=1))


@pytest.mark.parametrize("value", [np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal])
def test_the_largest_and_the_smallest_float(device: Device, value: float) -> None:
    w = np.full((2, 9), value, np.float32)
    limited = run("limit_norm", NormLimitProblem(2, 9, 6.0), device, {"w": w})["w"]
    np.testing.assert_allclose(limited, 2.0 if value > 1 else w, rtol=1e-6)
