"""Rows whose norm exceeds a limit are scaled down to it, and no others change."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import NormLimitProblem
from cconvnet.backends import Device
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
]
REAL = [
    NormLimitProblem(1, 3, 1.5),
    NormLimitProblem(7, 33, 5.7),
    NormLimitProblem(64, 75, 8.6),
    NormLimitProblem(16, 1152, 33.9),
    NormLimitProblem(8, 4097, 64.0),
    NormLimitProblem(5, 64, 100.0),
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


@pytest.mark.parametrize("value", [np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal])
def test_the_largest_and_the_smallest_float(device: Device, value: float) -> None:
    w = np.full((2, 9), value, np.float32)
    limited = run("limit_norm", NormLimitProblem(2, 9, 6.0), device, {"w": w})["w"]
    np.testing.assert_allclose(limited, 2.0 if value > 1 else w, rtol=1e-6)
