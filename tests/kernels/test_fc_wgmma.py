"""FC layers by the products of warp groups: the convolutions' rows, clusters of splits, and streamed weights.

In the emulator three blocks share the tiles of a problem, so that a block goes round its stages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cconvnet.devices import Device, get_device
from cconvnet.operations import workspace_size
from cconvnet.testing import check as checks
from cconvnet.testing.buffers import Buffer
from cconvnet.testing.check import check, check_fused, own_impls
from cconvnet.testing.problems import FC_WARP_GROUPS, with_precision

PASSES = ("fc_fprop", "fc_dgrad", "fc_wgrad")
PROBLEMS = {name: with_precision(problem, "bf16") for name, problem in FC_WARP_GROUPS.items()}
STREAMED = "fc_wgrad_wgmma_streamed_bf16_128x128x64"
CLUSTERS = {
    "fc_fprop": "fc_fprop_wgmma_cluster_bf16_128x128x64",
    "fc_dgrad": "fc_dgrad_wgmma_cluster_bf16_128x128x64",
}


def rows(operation: str, name: str, device: Device) -> list[str]:
    """Return the rows of warp groups that serve a problem."""
    if not device.serves("bf16"):
        return []
    return [str(row) for row in own_impls(operation, PROBLEMS[name], device) if "wgmma" in str(row)]


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("operation", PASSES)
def test_exact(device: Device, operation: str, name: str) -> None:
    for row in (found := rows(operation, name, device)):
        check(operation, PROBLEMS[name], device, impl=row)
    if not found:
        pytest.skip(f"{device.name} has no warp groups")


@pytest.mark.parametrize("operation", PASSES)
def test_which_rows_serve_a_problem(operation: str) -> None:
    device = get_device("emulator:0")
    split = {"fc_fprop": "split", "fc_dgrad": "split_back", "fc_wgrad": "split_batch"}[operation]
    for name, problem in PROBLEMS.items():
        found = rows(operation, name, device)
        splits = workspace_size(device.module, operation, problem) > 0
        assert splits == (name == split)
        clusters = [row for row in found if "cluster" in row]
        assert clusters == ([CLUSTERS[operation]] if splits and operation != "fc_wgrad" else [])
        # The sums of splits are added in another launch, which then updates.
        assert (STREAMED in found) == (operation == "fc_wgrad" and not splits)
        assert (
            len(found) == {"fc_fprop": 7 + splits, "fc_dgrad": 6 + splits, "fc_wgrad": 7 - splits}[operation]
        )


@pytest.mark.parametrize("name", ["boxes", "part_of_a_box"])
def test_what_goes_along(device: Device, name: str) -> None:
    for operation, options in FUSED.items():
        for row in (found := rows(operation, name, device)):
            check(operation, PROBLEMS[name], device, impl=row, nonzero=0.05, **options[-1])
    if not found:
        pytest.skip(f"{device.name} has no warp groups")


@pytest.mark.parametrize("update", ["plain", "full", "halted"])
@pytest.mark.parametrize("name", ["boxes", "part_of_a_box", "one_image"])
def test_update_of_streamed_weights(device: Device, name: str, update: str) -> None:
    if STREAMED not in rows("fc_wgrad", name, device):
        pytest.skip(f"{device.name} has no warp groups")
    check("fc_wgrad", PROBLEMS[name], device, impl=STREAMED, update=update)
    check_fused("fc_wgrad", PROBLEMS[name], device, impl=STREAMED, update=update, nesterov=True)


def shift(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: Any) -> list[Buffer]:
    """Let arrays of a shape and a type begin an element behind a boundary; return those that do."""
    shifted: list[Buffer] = []

    def buffer(device: Device, of: tuple[int, ...], kind: Any = np.float32, **given: Any) -> Buffer:
        if np.dtype(kind) == dtype and tuple(of) == shape:
            given["offset"] = np.dtype(dtype).itemsize
            shifted.append(made := Buffer(device, of, kind, **given))
            return made
        return Buffer(device, of, kind, **given)

    monkeypatch.setattr(checks, "Buffer", buffer)
    return shifted


@pytest.mark.parametrize("update", [None, "full"])
def test_weights_off_the_boundary_are_not_streamed(
    device: Device, update: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tensor map describes them. Results are those of another row."""
    if STREAMED not in rows("fc_wgrad", "part_of_a_box", device):
        pytest.skip(f"{device.name} has no warp groups")
    problem = PROBLEMS["part_of_a_box"]
    shifted = shift(monkeypatch, (problem.k, problem.c), np.float32)
    check("fc_wgrad", problem, device, impl=STREAMED, **({"update": update} if update else {}))
    assert shifted


FUSED: dict[str, list[dict[str, Any]]] = {
    "fc_fprop": [{"bias": True, "relu": True}, {"bias": True, "relu": True, "dropout": "odd_part"}],
    "fc_dgrad": [{"db": True, "masked": True}],
}


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "off_the_boundary"])
@pytest.mark.parametrize(("operation", "name"), [("fc_fprop", "split"), ("fc_dgrad", "split_back")])
def test_what_goes_along_with_splits_of_a_cluster(
    device: Device, operation: str, name: str, aligned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if CLUSTERS[operation] not in rows(operation, name, device):
        pytest.skip(f"{device.name} has no warp groups")
    problem = PROBLEMS[name]
    columns = problem.k if operation == "fc_fprop" else problem.c
    shifted = [] if aligned else shift(monkeypatch, (problem.n, columns), np.uint16)
    for options in FUSED[operation]:
        check(operation, problem, device, impl=CLUSTERS[operation], nonzero=0.05, **options)
    assert aligned or shifted
