"""The squared distance of rows from their targets, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet import ops
from cconvnet._problem import L2CostProblem
from cconvnet.devices import Device
from cconvnet.testing.check import check, run

PROBLEMS = [L2CostProblem(1, 1), L2CostProblem(3, 4), L2CostProblem(33, 31), L2CostProblem(9, 4000)]


@pytest.mark.parametrize("operation", ["l2_cost_forward", "l2_cost_backward"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_l2_cost(device: Device, element: str, operation: str, problem: L2CostProblem) -> None:
    least = 0.25 if problem.n * problem.k > 31 else 0  # of a few differences all may be 0
    for data in ("exact", "real"):
        check(operation, problem, device, element=element, data=data, nonzero=least)
        check(operation, problem, device, element=element, data=data, offset=4, nonzero=least)


@pytest.mark.parametrize("offset", [0, 12])
def test_the_gradient_in_place(device: Device, element: str, offset: int) -> None:
    check("l2_cost_backward", PROBLEMS[2], device, element=element, in_place="x", offset=offset)


def test_by_hand(device: Device) -> None:
    x, target = np.array([[1, 2], [3, 4]], np.float32), np.array([[1, 4], [0, 0]], np.float32)
    loss = ops.l2_cost_forward(device.array(x), device.array(target), device=device)
    assert device.host(loss).tolist() == [2, 12.5]
    dx = ops.l2_cost_backward(device.array(x), device.array(target), 0.5, device=device)
    assert device.host(dx).tolist() == [[0, -1], [1.5, 2]]


def test_nan_reaches_only_its_row(device: Device) -> None:
    x = np.ones((3, 40), np.float32)
    x[1, 33] = np.nan
    loss = run("l2_cost_forward", L2CostProblem(3, 40), device, {"x": x, "target": 0 * x + 1})["loss"]
    assert np.isnan(loss).tolist() == [False, True, False] and loss[0] == loss[2] == 0
