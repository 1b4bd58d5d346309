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
from cconvnet.testing.problems import WARP_GROUPS, with_precision

PASSES = ("conv_fprop", "conv_dgrad", "conv_wgrad")


PROBLEMS = {name: with_precision(problem, "bf16") for name, problem in WARP_GROUPS.items()}


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
        if channels % 16 == 0 and of.k % 8 == 0:
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
    met = {name: [row for row in found if "_halo_" not in row] for name, found in met.items()}
    every = set(met["1x1"])
    short = {row for row in every if "_slabs_of_16" in row or "_lines_of_16" in row}
    assert len(every) == {"conv_fprop": 12, "conv_dgrad": 9, "conv_wgrad": 9}[operation]
    assert not met.pop("padded_behind")  # where the copy engine has no windows, only a stream
    for name, found in met.items():
        of = PROBLEMS[name]
        lines = of.k // of.groups if operation == "conv_dgrad" else of.c // of.groups
        assert set(found) == (short if lines % 64 else every), name
    split = {"conv_fprop": "split", "conv_dgrad": "split_back", "conv_wgrad": "split_pixels"}[operation]
    assert workspace_size(device.module, operation, PROBLEMS[split]) > 0


# Where taps share pixels: the rows for lines of 64, 48 and 32 channels, and what they are tried with.
HALO = {
    "conv_fprop": {"padded": 6, "dilated": 6, "groups_of_64": 6, "groups_of_48": 2, "padded_behind": 2,
                   "many_tiles": 6, "slabs": 8},
    "conv_dgrad": {"padded": 7, "dilated": 7, "groups_of_64": 7, "many_tiles_back": 7, "slabs_back": 7,
                   "groups_of_48_back": 7},
}  # fmt: skip


@pytest.mark.parametrize("operation", HALO)
def test_every_row_that_shares_pixels_meets_all_that_is_hard(operation: str) -> None:
    device = get_device("emulator:0")
    for name, count in HALO[operation].items():
        assert sum("_halo_" in row for row in rows(operation, name, device)) == count, name


@pytest.mark.parametrize("operation", HALO)
def test_pixels_are_shared_only_where_one_stream_has_all_windows(operation: str) -> None:
    device = get_device("emulator:0")
    unlike = {
        "strided": ConvProblem(2, 9, 9, 64, 64, 3, 3, stride=(2, 1), padding=(1, 1)),
        "1x1": ConvProblem(2, 9, 9, 64, 64, 1, 1),
        "wider than the filter": ConvProblem(2, 9, 9, 64, 64, 3, 3, padding=(3, 3)),
        "far taps": ConvProblem(1, 9, 400, 64, 64, 3, 3, padding=(1, 1)),
    }
    for name, of in unlike.items():
        found = own_impls(operation, with_precision(of, "bf16"), device)
        assert not any("_halo_" in str(row) for row in found), name
