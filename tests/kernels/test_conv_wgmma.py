"""Convolutions by the products of warp groups: every row of the tables, on problems that are hard for it.

Most rows want 64 channels, so the problems of test_conv.py meet few of them. In the emulator three blocks
share the tiles of a problem, so that blocks have several, and go round their stages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cconvnet._problem import ConvProblem
from cconvnet.devices import Device, get_device
from cconvnet.operations import workspace_size
from cconvnet.testing import compare, reference
from cconvnet.testing.check import check, make_inputs, own_impls, run
from cconvnet.testing.problems import with_precision

PASSES = ("conv_fprop", "conv_dgrad", "conv_wgrad")


def problem(*sizes: int, **options: Any) -> ConvProblem:
    return with_precision(ConvProblem(*sizes, **options), "bf16")


PROBLEMS = {
    # Rows, columns and pixels beyond the last of a tile.
    "padded": problem(2, 8, 9, 64, 64, 3, 3, padding=(1, 1)),
    "strided": problem(12, 11, 9, 64, 64, 3, 3, stride=(2, 3), padding=(1, 2)),
    "dilated": problem(2, 10, 9, 64, 64, 3, 2, padding=(2, 1), dilation=(2, 3)),
    "wide": problem(1, 5, 6, 320, 320, 1, 1),
    "1x1": problem(5, 1, 1, 128, 192, 1, 1),
    "groups_of_64": problem(1, 6, 7, 128, 128, 2, 3, padding=(1, 1), groups=2),
    # Sums end within a step, and within a stage.
    "groups_of_48": problem(1, 7, 8, 96, 96, 3, 3, padding=(1, 1), groups=2),
    "groups_of_16": problem(2, 6, 5, 64, 64, 3, 1, padding=(1, 0), groups=4),
    # Taps behind the last would be further away than the copy engine can say.
    "dilated_far": problem(1, 120, 2, 16, 16, 2, 1, dilation=(100, 1)),
    # Eight tiles and more of two steps.
    "many_tiles": problem(4, 16, 17, 64, 136, 2, 1),
    "many_tiles_back": problem(4, 16, 17, 136, 64, 2, 1),
    "split": problem(3, 1, 1, 1024, 128, 1, 1),
    "split_back": problem(3, 1, 1, 128, 1024, 1, 1),
    "split_pixels": problem(4, 13, 13, 64, 64, 1, 1),
}  # fmt: skip


def rows(operation: str, name: str, device: Device) -> list[str]:
    """Return the rows of warp groups that serve a problem."""
    if not device.serves("bf16"):
        return []
    return [str(row) for row in own_impls(operation, PROBLEMS[name], device) if "wgmma" in str(row)]


def cases() -> Iterator[tuple[str, str]]:
    for name, of in PROBLEMS.items():
        channels, filters = of.c // of.groups, of.k // of.groups
        if channels % 16 == 0:
            yield "conv_fprop", name
        if filters % 16 == 0 and of.stride_h == of.stride_w == 1:
            yield "conv_dgrad", name
        if channels % 16 == 0:
            yield "conv_wgrad", name


@pytest.mark.parametrize(("operation", "name"), [*cases()])
def test_exact(device: Device, operation: str, name: str) -> None:
    for row in (found := rows(operation, name, device)):
        check(operation, PROBLEMS[name], device, impl=row)
    if not found:
        pytest.skip(f"{device.name} has no warp groups")


@pytest.mark.parametrize("operation", ["conv_fprop", "conv_dgrad"])
def test_nan_and_infinity_reach_only_the_sums_that_hold_them(device: Device, operation: str) -> None:
    """Behind the end of a sum both factors are 0. One is not enough: NaN * 0 and infinity * 0 are NaN."""
    of = PROBLEMS["groups_of_48"]
    inputs = make_inputs(operation, of)
    if operation == "conv_fprop":
        inputs |= {"bias": None, "relu": False}
    moving = next(iter(inputs))
    for pixel in (0, 30, 55):
        place = (0, pixel // 8, pixel % 8)
        for name, at, value in (
            (moving, place, np.nan),
            (moving, (*place, 0), np.inf),
            ("w", (pixel,), np.nan),
        ):
            changed = inputs[name].copy()
            changed[at] = value
            given = inputs | {name: changed}
            with np.errstate(invalid="ignore"):
                expected = getattr(reference, operation)(of, *given.values())
            assert 0 < np.isfinite(expected).sum() < expected.size
            for row in rows(operation, "groups_of_48", device):
                (result,) = run(operation, of, device, given, impl=row).values()
                for kind in (np.isnan, np.isposinf, np.isneginf):
                    same = np.array_equal(kind(compare.values(result)), kind(expected))
                    assert same, (row, name, pixel, value)
    if not rows(operation, "groups_of_48", device):
        pytest.skip(f"{device.name} has no warp groups")


EPILOGUES: dict[str, list[dict[str, Any]]] = {
    "conv_fprop": [{"bias": True, "relu": True}, {"bias": True, "relu": True, "dropout": "odd_part"}],
    "conv_dgrad": [{"db": True, "masked": True}],
    "conv_wgrad": [{"update": "full"}],
}


@pytest.mark.parametrize("name", ["groups_of_48", "padded"])
@pytest.mark.parametrize("operation", PASSES)
def test_what_goes_along(device: Device, operation: str, name: str) -> None:
    for row in (found := rows(operation, name, device)):
        for options in EPILOGUES[operation]:
            check(operation, PROBLEMS[name], device, impl=row, nonzero=0.05, **options)
    if not found:
        pytest.skip(f"{device.name} has no warp groups")


@pytest.mark.parametrize("operation", PASSES)
def test_every_row_meets_all_that_is_hard(operation: str) -> None:
    device = get_device("emulator:0")
    met = {name: rows(operation, name, device) for of, name in cases() if of == operation}
    every = set(met["1x1"])
    short = {row for row in every if "_slabs_of_16" in row or "_lines_of_16" in row}
    assert len(every) == {"conv_fprop": 7, "conv_dgrad": 6, "conv_wgrad": 6}[operation]
    for name, found in met.items():
        of = PROBLEMS[name]
        lines = of.k // of.groups if operation == "conv_dgrad" else of.c // of.groups
        assert set(found) == (short if lines % 64 else every), name
    split = {"conv_fprop": "split", "conv_dgrad": "split_back", "conv_wgrad": "split_pixels"}[operation]
    assert workspace_size(device.module, operation, PROBLEMS[split]) > 0
