"""A bias added to the rows of a matrix, and its gradient: the matrix summed over its rows."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import BiasProblem
from cconvnet.devices import Device
from cconvnet.testing import compare
from cconvnet.testing.check import check, check_fused, make_inputs, run
from cconvnet.testing.reference.base import Array, to_float

PROBLEMS = [
    BiasProblem(1, 1),
    BiasProblem(1, 70),
    BiasProblem(300, 1),
    BiasProblem(7, 13),
    BiasProblem(64, 32),
    BiasProblem(257, 33),
    BiasProblem(3025, 96),
    BiasProblem(128, 1000),
    BiasProblem(20_000, 10),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_exact(device: Device, element: str, problem: BiasProblem) -> None:
    check("bias_grad", problem, device, element=element)


@pytest.mark.parametrize("problem", PROBLEMS[3:], ids=repr)
def test_real(device: Device, element: str, problem: BiasProblem) -> None:
    check("bias_grad", problem, device, element=element, data="real")


@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_gradient_behind_a_relu(device: Device, element: str, problem: BiasProblem) -> None:
    """The gradient of a bias and the ReLU after it, with or without a dropout's scale."""
    # One unit's gradients may all be dropped.
    nonzero = 0.25 if problem.rows * problem.k > 100 else 0
    check("relu_bias_backward", problem, device, element=element, nonzero=nonzero)
    check("relu_bias_backward", problem, device, element=element, nonzero=nonzero, in_place="dy", scale=1.0)
    check_fused("relu_bias_backward", problem, device, element=element, scale=1 / 0.7)
    for offset in (2, 4):
        check_fused("relu_bias_backward", problem, device, element=element, scale=1.0, offset=offset)


def sums_of_groups(matrix: Array) -> Array:
    """Add groups of 32 rows, each in 8 strands that are added like a tree."""
    rows, columns = matrix.shape
    strands = np.zeros((-(-rows // 32), 4, 8, columns), np.float32)
    strands.reshape(-1, columns)[:rows] = matrix
    sums = np.zeros_like(strands[:, 0])
    for turn in range(4):
        sums += strands[:, turn]
    for apart in (4, 2, 1):
        sums = sums[:, :apart] + sums[:, apart:]
    return sums[:, 0]


@pytest.mark.parametrize("rows", [1, 31, 33, 1024, 1025, 9000, 40_000])
@pytest.mark.parametrize("columns", [3, 40])
def test_the_order_of_additions(device: Device, element: str, rows: int, columns: int) -> None:
    """On GPUs it depends on the number of rows alone."""
    if device.kind not in ("cuda", "emulator"):
        pytest.skip("CPUs have an order of their own")
    problem = BiasProblem(rows, columns)
    inputs = make_inputs("bias_grad", problem, "real", element=element)
    wanted = sums_of_groups(to_float(inputs["dy"], (rows, columns)))
    while len(wanted) > 1:
        wanted = sums_of_groups(wanted)
    for offset in (0, 4):
        db = run("bias_grad", problem, device, inputs, element=element, offset=offset)["db"]
        compare.assert_same_bits("db", db, wanted[0])


@pytest.mark.parametrize("problem", PROBLEMS[3:6], ids=repr)
def test_real_gradient_behind_a_relu(device: Device, element: str, problem: BiasProblem) -> None:
    check("relu_bias_backward", problem, device, element=element, data="real")


@pytest.mark.parametrize("problem", [BiasProblem(7, 13), BiasProblem(64, 32)], ids=repr)
def test_any_alignment(device: Device, element: str, problem: BiasProblem) -> None:
    check("bias_grad", problem, device, element=element, offset=4)
    check("bias_add", problem, device, element=element, offset=4)
    check("bias_add", problem, device, element=element, offset=12, in_place="x")


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("data", ["exact", "real"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_add(device: Device, element: str, problem: BiasProblem, data: str, relu: bool) -> None:
    # Behind a ReLU a column with a low bias is mostly 0.
    check(
        "bias_add",
        problem,
        device,
        element=element,
        data=data,
        relu=relu,
        nonzero=0.1 if problem.rows > 7 else 0,
    )
    check("bias_add", problem, device, element=element, data=data, relu=relu, in_place="x", nonzero=0)


def test_relu_hands_nan_on(device: Device, element: str) -> None:
    problem = BiasProblem(2, 2)
    inputs = {"x": np.array([1, np.nan, -3, -2], np.float32), "bias": np.array([1, 2], np.float32)}
    y = compare.values(run("bias_add", problem, device, {**inputs, "relu": True}, element=element)["y"])
    np.testing.assert_array_equal(y, [[2, np.nan], [0, 0]])
