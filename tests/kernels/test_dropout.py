"""Dropout: the mask is bit-identical to the reference's on every device."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import DropoutProblem
from cconvnet.devices import Device
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
def test_dropout(device: Device, element: str, problem: DropoutProblem, data: str) -> None:
    check("dropout", problem, device, element=element, data=data)


@pytest.mark.parametrize("problem", PROBLEMS[1:4], ids=repr)
def test_in_place_and_any_alignment(device: Device, element: str, problem: DropoutProblem) -> None:
    check("dropout", problem, device, element=element, in_place="x")
    check("dropout", problem, device, element=element, offset=4)
    check("dropout", problem, device, element=element, in_place="x", offset=12)


# columns, row_stride and first of a part of 7 rows: multiples of 4 and not, each in each place.
PARTS = [
    *((48, 96, first) for first in (0, 48, 47, 4, 2)),
    *((5, 11, first) for first in (0, 6, 3)),
    (1, 1, 0),
    (1, 64, 63),
    (64, 66, 0),
    (66, 96, 8),
    (300, 1000, 400),
    (1027, 2000, 801),
]


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_part_draws_what_the_whole_does(device: Device, part: tuple[int, int, int]) -> None:
    columns, row_stride, first = part
    draws = 0.5, 2.0, 2**33 + 1, 2**40 + 7
    x = np.random.default_rng(0).standard_normal((7, row_stride), dtype=np.float32)
    whole = run("dropout", DropoutProblem(x.size, *draws), device, {"x": x.ravel()})["y"].reshape(x.shape)
    columns_of = np.s_[:, first : first + columns]
    problem = DropoutProblem(7 * columns, *draws, columns, row_stride, first)
    inputs = {"x": x[columns_of].ravel()}
    for offset in (0, 4):
        y = run("dropout", problem, device, inputs, offset=offset)["y"]
        np.testing.assert_array_equal(y, whole[columns_of].ravel())
    check("dropout", problem, device, data="real", in_place="x")


@pytest.mark.parametrize("step", [0, 5, 2**63 - 1])
def test_the_step_is_added_to_the_subsequence(device: Device, element: str, step: int) -> None:
    for problem in (
        DropoutProblem(1027, 0.5, 2.0, 7, 2**64 - 3),
        DropoutProblem(91, 0.5, 2.0, 7, 2**32 - 2, 13, 20, 5),
    ):
        check("dropout", problem, device, element=element, step=step)
        check("dropout", problem, device, element=element, step=step, in_place="x", offset=4)


def test_a_row_is_a_part(device: Device, element: str) -> None:
    """One row that begins anywhere, also far on, where the index nearly exceeds 31 bits."""
    for columns, first in ((30, 4), (30, 7), (1027, 2**31 - 1028)):
        check(
            "dropout",
            DropoutProblem(columns, 0.5, 1.0, 1, 2, columns, 2**31 - 1, first),
            device,
            element=element,
        )
    check("dropout", DropoutProblem(30, 0.5, 1.0, 1, 2, 10, 2**30 - 10, 8), device, element=element)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ((0, 8, 0), "columns must be given"),
        ((0, 0, 1), "columns must be given"),
        ((5, 8, 0), r"columns \(5\) must divide count \(12\)"),
        ((-4, 8, 0), "columns must be at least 0, not -4"),
        ((4, 8, -1), "first must be at least 0, not -1"),
        ((4, 8, 5), "row_stride must be at least first [+] columns, 9, not 8"),
        ((4, 4, 2**31 - 1), "row_stride must be"),
        ((4, 2**30, 0), "row_stride is too large"),
    ],
)
def test_a_part_lies_in_the_whole(part: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DropoutProblem(12, 0.5, 1.0, 0, 0, *part)


def test_repr_rebuilds_the_problem() -> None:
    whole, part = DropoutProblem(12, 0.5), DropoutProblem(12, 0.5, columns=4, row_stride=9, first=5)
    assert "columns" not in repr(whole) and whole == DropoutProblem(12, 0.5, columns=12, row_stride=20)
    assert eval(repr(part)) == part != whole  # noqa: S307


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
