"""Dropout: the mask is bit-identical to the reference's on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cconvnet._problem import ConvProblem, DropoutProblem, FcProblem, LocalProblem
from cconvnet.devices import Device
from cconvnet.testing.check import check, make_inputs, own_impls, run

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


# columns, row_stride and first of a part: multiples of 4 and not, each in each place, and whole rows.
PARTS = [
    *((48, 96, first) for first in (0, 48, 47, 4, 2)),
    *((5, 11, first) for first in (0, 6, 3)),
    (1, 1, 0),
    (48, 48, 0),
    (66, 66, 0),
    (1, 64, 63),
    (64, 66, 0),
    (66, 96, 8),
    (300, 1000, 400),
    (1027, 2000, 801),
    (1027, 1027, 0),
]


@pytest.mark.parametrize("rows", [slice(0, 7), slice(4, 7), slice(5, 6)], ids=str)
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_part_draws_what_the_whole_does(device: Device, part: tuple[int, int, int], rows: slice) -> None:
    columns, row_stride, first = part
    draws = 0.5, 2.0, 2**33 + 1, 2**40 + 7
    x = np.random.default_rng(0).standard_normal((7, row_stride), dtype=np.float32)
    whole = run("dropout", DropoutProblem(x.size, *draws), device, {"x": x.ravel()})["y"].reshape(x.shape)
    own = np.s_[rows, first : first + columns]
    problem = DropoutProblem(x[own].size, *draws, columns, row_stride, first, rows.start)
    inputs = {"x": x[own].ravel()}
    for offset in (0, 4):
        y = run("dropout", problem, device, inputs, offset=offset)["y"]
        np.testing.assert_array_equal(y, whole[own].ravel())
    check("dropout", problem, device, data="real", in_place="x")


PRODUCTS: dict[str, Callable[[int, int, str], Any]] = {
    "conv_fprop": lambda n, k, precision: ConvProblem(n, 4, 4, 8, k, 3, 3, precision=precision),
    "local_fprop": lambda n, k, precision: LocalProblem(n, 4, 4, 8, k, 3, 3, precision=precision),
    "fc_fprop": lambda n, k, precision: FcProblem(n, 20, k, precision),
}


@pytest.mark.parametrize("operation", PRODUCTS)
def test_a_product_of_a_part_drops_what_the_whole_does(
    device: Device, precision: str, operation: str
) -> None:
    """Images 3 to 5 of 7, of all 24 channels and of a part of them."""
    whole = PRODUCTS[operation](7, 24, precision)
    inputs = make_inputs(operation, whole, "exact", 1, dropout="whole")
    # Nothing is 0 but what is dropped.
    x, w, bias = abs(inputs["x"]), abs(inputs["w"]), abs(inputs["bias"]) + 1
    result = run(operation, whole, device, inputs | {"x": x, "w": w, "bias": bias})["y"]
    y = result.reshape(7, -1, 24)
    assert 0.4 < np.mean(y != 0) < 0.6
    for first, k in ((0, 24), (12, 12), (6, 9)):
        part, channels = PRODUCTS[operation](3, k, precision), range(first, first + k)
        expected = y[3:6, :, first : first + k]
        first_row = 3 * y.shape[1]
        given = inputs | {
            "x": x[3:6],
            "w": w.take(channels, w.shape.index(24)),
            "bias": bias.take(channels, bias.shape.index(24)),
            "dropout": DropoutProblem(expected.size, 0.5, 2.0, 7, 2**32 - 2, k, 24, first, first_row),
        }
        for impl in own_impls(operation, part, device):
            results = run(operation, part, device, given, impl=impl)["y"]
            np.testing.assert_array_equal(results.ravel(), expected.ravel(), err_msg=str(impl))


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
    for part in ((10, 2**30 - 10, 8), (10, 10, 0, 2**31 // 10 - 3), (10, 12, 1, 2**31 // 12 - 3)):
        check("dropout", DropoutProblem(30, 0.5, 1.0, 1, 2, *part), device, element=element)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ((0, 8, 0), "columns must be given"),
        ((0, 0, 1), "columns must be given"),
        ((0, 0, 0, 1), "columns must be given"),
        ((5, 8, 0), r"columns \(5\) must divide count \(12\)"),
        ((-4, 8, 0), "columns must be at least 0, not -4"),
        ((4, 8, -1), "first must be at least 0, not -1"),
        ((4, 8, 5), "row_stride must be at least first [+] columns, 9, not 8"),
        ((4, 4, 2**31 - 1), "row_stride must be"),
        ((4, 2**30, 0), "row_stride or first_row is too large: the last index would be 2147483651"),
        ((4, 8, 0, -1), "first_row must be at least 0, not -1"),
        ((4, 8, 0, 2**28 - 2), "first_row is too large: the last index would be 2147483651"),
        ((12, 2**31 - 1, 0, 2**31 - 1), "first_row is too large: the last index would be 46116860"),
    ],
)
def test_a_part_lies_in_the_whole(part: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DropoutProblem(12, 0.5, 1.0, 0, 0, *part)


def test_repr_rebuilds_the_problem() -> None:
    whole = DropoutProblem(12, 0.5)
    assert "columns" not in repr(whole)
    assert whole == DropoutProblem(12, 0.5, columns=12, row_stride=20)
    assert whole == DropoutProblem(12, 0.5, columns=4, row_stride=4)
    for part in (
        {"row_stride": 9, "first": 5},
        {"row_stride": 9, "first_row": 3},
        {"row_stride": 4, "first_row": 1},
    ):
        problem = DropoutProblem(12, 0.5, columns=4, **part)
        assert eval(repr(problem)) == problem != whole  # noqa: S307
        assert all(getattr(problem, name) == value for name, value in part.items())


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
