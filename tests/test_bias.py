"""The gradient of a bias: a matrix summed over its rows."""

from __future__ import annotations

import pytest

from cconvnet._problem import BiasProblem
from cconvnet.backends import Device
from cconvnet.testing.check import check

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
def test_exact(device: Device, problem: BiasProblem) -> None:
    check("bias_grad", problem, device)


@pytest.mark.parametrize("problem", PROBLEMS[3:], ids=repr)
def test_real(device: Device, problem: BiasProblem) -> None:
    check("bias_grad", problem, device, data="real")


@pytest.mark.parametrize("problem", [BiasProblem(7, 13), BiasProblem(64, 32)], ids=repr)
def test_any_alignment(device: Device, problem: BiasProblem) -> None:
    check("bias_grad", problem, device, offset=4)
