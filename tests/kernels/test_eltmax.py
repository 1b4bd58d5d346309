"""The elementwise maximum and its gradient."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import NeuronProblem
from cconvnet.devices import Device
from cconvnet.operations import OPERATIONS
from cconvnet.testing import compare
from cconvnet.testing.check import check, run

ELTMAX = ["eltmax_forward", "eltmax_backward"]


@pytest.mark.parametrize("data", ["exact", "real"])
@pytest.mark.parametrize("count", [1, 3, 4, 31, 256, 1027])
@pytest.mark.parametrize("operation", ELTMAX)
def test_eltmax(device: Device, element: str, operation: str, count: int, data: str) -> None:
    problem = NeuronProblem(count)
    # Of a few elements all may be the smaller ones.
    least = 0.25 if count > 31 else 0
    check(operation, problem, device, element=element, data=data, nonzero=least)
    check(operation, problem, device, element=element, data=data, offset=4, nonzero=least)
    for name in OPERATIONS[operation].in_place:
        check(operation, problem, device, element=element, data=data, in_place=name, nonzero=least)
        check(operation, problem, device, element=element, data=data, in_place=name, offset=12, nonzero=least)


def test_nan_wins_and_infinity_is_a_value(device: Device, element: str) -> None:
    inf, nan = np.inf, np.nan
    a = np.array([nan, 1, nan, -inf, -inf, inf, 3, -2], np.float32)
    b = np.array([2, nan, nan, -5, -inf, nan, inf, -3], np.float32)
    y = compare.values(
        run("eltmax_forward", NeuronProblem(8), device, {"a": a, "b": b}, element=element)["y"]
    )
    np.testing.assert_array_equal(y, [nan, nan, nan, -5, -inf, nan, inf, -2])


def test_ties_share_nothing(device: Device) -> None:
    """Every input that is the maximum receives the whole gradient; where the maximum is NaN none does."""
    inputs = np.array([[1, 2, -0.0, np.nan, -np.inf], [1, 3, 0.0, 4, -np.inf]], np.float32)
    a, b = inputs
    y = run("eltmax_forward", NeuronProblem(5), device, {"a": a, "b": b})["y"]
    dy = np.array([1, 2, 3, 4, 5], np.float32)
    da, db = (
        run("eltmax_backward", NeuronProblem(5), device, {"x": x, "y": y, "dy": dy})["dx"].tolist()
        for x in inputs
    )
    assert da == [1, 0, 3, 0, 5] and db == [1, 2, 3, 0, 5]


def test_a_chain_of_maxima(device: Device) -> None:
    """The maximum of three tensors, and the gradient for the one that contains it."""
    random = np.random.default_rng(0)
    x = random.standard_normal((3, 1003), dtype=np.float32)
    problem = NeuronProblem(1003)
    y = run("eltmax_forward", problem, device, {"a": x[0], "b": x[1]})["y"]
    y = run("eltmax_forward", problem, device, {"a": y, "b": x[2]})["y"]
    np.testing.assert_array_equal(y, x.max(axis=0))
    dy = random.standard_normal(1003, dtype=np.float32)
    dx = [run("eltmax_backward", problem, device, {"x": one, "y": y, "dy": dy})["dx"] for one in x]
    np.testing.assert_array_equal(np.argmax(np.array(dx) != 0, axis=0), x.argmax(axis=0))
    np.testing.assert_array_equal(np.sum(dx, axis=0), dy)
