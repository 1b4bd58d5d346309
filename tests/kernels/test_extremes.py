"""Normalisation of values whose squares overflow a float: the result is that of float64, or NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cconvnet._problem import ContrastNormProblem, LrnProblem, PoolProblem
from cconvnet.devices import Device
from cconvnet.testing import reference
from cconvnet.testing.check import run
from cconvnet.testing.reference.lrn import lrn_sum

# Each kernel of LRN: across channels in vectors and not, and in the same map; AlexNet's beta and another.
PROBLEMS = [
    LrnProblem(2, 3, 4, 32, alpha=1e-4, k=2.0, groups=2),
    LrnProblem(1, 2, 3, 24, size=3, alpha=0.5),
    LrnProblem(1, 3, 2, 13, size=4, alpha=0.1, beta=0.6),
    LrnProblem(1, 5, 6, 16, size=3, alpha=0.1, region="same_map"),
    LrnProblem(1, 5, 6, 5, size=4, alpha=0.1, beta=0.9, region="same_map"),
]


def drawn(problem: LrnProblem, largest: float) -> dict[str, Any]:
    """Draw usual values with some huge ones, so that some windows overflow and others do not."""
    draws = np.random.default_rng(5)
    x = draws.normal(0, 1, problem.x_shape)
    huge = draws.random(problem.x_shape) < 0.06
    huge.flat[7] = True
    x[huge] *= largest
    return {"x": x.astype(np.float32), "dy": draws.normal(0, 1, problem.x_shape).astype(np.float32)}


def terms(problem: LrnProblem, x: np.ndarray[Any, Any], dy: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the sum of the magnitudes of the terms of a gradient, which scales its rounding errors."""
    x, dy = np.abs(x), np.abs(dy)
    d = problem.k + problem.alpha * lrn_sum(problem, x * x)
    ratio = lrn_sum(problem, dy * x * d ** (-problem.beta - 1), transposed=True)
    return np.asarray(dy * d**-problem.beta + 2 * problem.alpha * problem.beta * x * ratio)


def assert_close(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], size: Any) -> None:
    assert np.isfinite(found).all()
    assert (np.abs(found - wanted) <= 2e-6 * size + 1e-44).all()


@pytest.mark.parametrize("largest", [3e19, 1e25, 3e37])
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_lrn_of_huge_values(device: Device, problem: LrnProblem, largest: float) -> None:
    given = drawn(problem, largest)
    wide = {name: value.astype(np.float64) for name, value in given.items()}
    assert (np.abs(given["x"]) > 1.9e19).sum() > 2  # the square of each is infinite
    y = run("lrn_forward", problem, device, {"x": given["x"]})["y"]
    wanted = reference.lrn_forward(problem, wide["x"])
    assert_close(y, wanted, np.abs(wanted))
    dx = run("lrn_backward", problem, device, given)["dx"]
    wanted = reference.lrn_backward(problem, wide["x"], wide["dy"])
    assert_close(dx, wanted, terms(problem, wide["x"], wide["dy"]))


def test_lrn_and_pooling_of_huge_values(device: Device) -> None:
    lrn, pool = LrnProblem(2, 7, 7, 32, alpha=1e-4), PoolProblem(2, 7, 7, 32)
    x = drawn(lrn, 1e25)["x"]
    y = run("lrn_maxpool_forward", (lrn, pool), device, {"x": x})["y"]
    wanted = reference.lrn_maxpool_forward(lrn, pool, x.astype(np.float64))
    assert_close(y, wanted, np.abs(wanted))
    dy = np.random.default_rng(3).normal(0, 1, pool.y_shape).astype(np.float32)
    fused = run("lrn_maxpool_backward", (lrn, pool), device, {"x": x, "y": y, "dy": dy, "relu": False})["dx"]
    normalised = run("lrn_forward", lrn, device, {"x": x})["y"]
    between = run("maxpool_backward", pool, device, {"x": normalised, "y": y, "dy": dy})["dx"]
    apart = run("lrn_backward", lrn, device, {"x": x, "dy": between})["dx"]
    # A GPU's fused kernel has no room for it: NaN shows.
    if device.kind == "cpu":
        assert fused.tobytes() == apart.tobytes()
    else:
        known = ~np.isnan(fused)
        assert known.any() and not known.all()
        np.testing.assert_array_equal(fused[known], apart[known])


@pytest.mark.parametrize("operation", ["lrn_forward", "lrn_backward"])
@pytest.mark.parametrize("problem", [PROBLEMS[0], PROBLEMS[3]], ids=repr)
def test_a_huge_value_changes_nothing_far_away(device: Device, problem: LrnProblem, operation: str) -> None:
    draws = np.random.default_rng(4)
    given = {"x": draws.normal(0, 1, problem.x_shape).astype(np.float32)}
    if operation == "lrn_backward":
        given["dy"] = draws.normal(0, 1, problem.x_shape).astype(np.float32)
    (usual,) = run(operation, problem, device, given).values()
    given["x"] = given["x"].copy()
    given["x"][0, 0, 0, 4] = 1e25
    (found,) = run(operation, problem, device, given).values()
    changed = found != usual
    assert changed[0, 0, 0, 4] and not changed[1:].any()
    if problem.region == "same_map":
        assert not changed[..., :4].any() and not changed[..., 5:].any()
    else:
        assert not changed[0, 1:].any() and not changed[0, 0, 1:].any()
        # Windows that contain it; in the gradient also those that share an element with these.
        reach = problem.size // 2 * (1 if operation == "lrn_forward" else 2)
        assert not changed[0, 0, 0, : 4 - reach].any() and not changed[0, 0, 0, 5 + reach :].any()


def test_an_overflow_in_contrast_normalisation_shows(device: Device) -> None:
    x = np.ones((1, 4, 4, 8), np.float32)
    x[0, 0, 0] = 1e25
    y = run("contrast_norm_forward", ContrastNormProblem(1, 4, 4, 8, size=3), device, {"x": x})["y"]
    assert np.isnan(y[0, 0, 0]).all() and np.isfinite(y[0, 3, 3]).all()
