"""Dropout: the mask is that of the reference, bit for bit, on every device."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import DropoutProblem
from cconvnet.backends import Device
from cconvnet.testing.check import check, run

PROBLEMS = [
    DropoutProblem(1, 0.5),
    DropoutProblem(3, 0.5, 2.0, 1, 2),
    DropoutProblem(64, 0.5, 1.0, 2**64 - 1, 2**64 - 1),
    DropoutProblem(1027, 0.5, 2.0, 2**33 + 1, 2**40 + 7),
    DropoutProblem(4096, 0.75, 1.5, 42, 3),
    DropoutProblem(5000, 1.0, 0.5, 9, 9),
    DropoutProblem(5001, 0.3, 1.0, 5, 0),
]


@pytest.mark.parametrize("data", ["exact", "real"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_dropout(device: Device, problem: DropoutProblem, data: str) -> None:
    check("dropout", problem, device, data=data)


@pytest.mark.parametrize("problem", PROBLEMS[1:4], ids=repr)
def test_in_place_and_any_alignment(device: Device, problem: DropoutProblem) -> None:
    check("dropout", problem, device, in_place="x")
    check("dropout", problem, device, offset=4)
    check("dropout", problem, device, in_place="x", offset=12)


def test_the_mask_depends_on_seed_and_subsequence_alone(device: Device) -> None:
    def mask(count: int, *draws: int) -> list[float]:
        x = np.ones(count, np.float32)
        y = run("dropout", DropoutProblem(count, 0.5, 1.0, *draws), device, {"x": x})["y"]
        return y.tolist()

    assert mask(400, 7, 1) == mask(900, 7, 1)[:400]
    others = [mask(400, 7, 2), mask(400, 8, 1), mask(400, 7 + 2**32, 1), mask(400, 7, 1 + 2**32)]
    for other in others:
        # Two independent masks agree in half of their elements, give or take.
        agreement = np.mean(np.equal(other, mask(400, 7, 1)))
        assert 0.35 <= agreement <= 0.65


def test_a_dropped_nan_is_0(device: Device) -> None:
    problem = DropoutProblem(64, 0.5, 1.0, 3)
    kept = run("dropout", problem, device, {"x": np.ones(64, np.float32)})["y"]
    y = run("dropout", problem, device, {"x": np.full(64, np.nan, np.float32)})["y"]
    assert np.isnan(y[kept == 1]).all() and (y[kept == 0] == 0).all()
