"""FC layers by the products of warp groups: the convolutions' rows, and the one that streams the weights.

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
        # The sums of splits are added in another launch, which then updates.
        assert (STREAMED in found) == (operation == "fc_wgrad" and not splits)
        assert len(found) == {"fc_fprop": 7, "fc_dgrad": 6, "fc_wgrad": 6 + (not splits)}[operation]


@pytest.mark.parametrize("name", ["boxes", "part_of_a_box"])
def test_what_goes_along(device: Device, name: str) -> None:
    options: dict[str, list[dict[str, Any]]] = {
        "fc_fprop": [{"bias": True, "relu": True, "dropout": "odd_part"}],
        "fc_dgrad": [{"db": True, "masked": True}],
    }
    for operation, those in options.items():
        for row in (found := rows(operation, name, device)):
            for arguments in those:
                check(operation, PROBLEMS[name], device, impl=row, nonzero=0.05, **arguments)
    if not found:
        pytest.skip(f"{device.name} has no warp groups")


@pytest.mark.parametrize("update", ["plain", "full", "halted"])
@pytest.mark.parametrize("name", ["boxes", "part_of_a_box", "one_image"])
def test_update_of_streamed_weights(device: Device, name: str, update: str) -> None:
    if STREAMED not in rows("fc_wgrad", name, device):
        pytest.skip(f"{device.name} has no warp groups")
    check("fc_wgrad", PROBLEMS[name], device, impl=STREAMED, update=update)
    check_fused("fc_wgrad", PROBLEMS[name], device, impl=STREAMED, update=update, nesterov=True)


@pytest.mark.parametrize("update", [None, "full"])
def test_weights_off_the_boundary_are_not_streamed(
    device: Device, update: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tensor map describes them. Results are those of another row."""
    name = "part_of_a_box"
    if STREAMED not in rows("fc_wgrad", name, device):
        pytest.skip(f"{device.name} has no warp groups")
    shifted = []

    def buffer(device: Device, shape: tuple[int, ...], dtype: Any = np.float32, **given: Any) -> Buffer:
        if dtype == np.float32 and tuple(shape) == (PROBLEMS[name].k, PROBLEMS[name].c):
            given["offset"] = 4
            shifted.append(shape)
        return Buffer(device, shape, dtype, **given)

    monkeypatch.setattr(checks, "Buffer", buffer)
    check("fc_wgrad", PROBLEMS[name], device, impl=STREAMED, **({"update": update} if update else {}))
    assert shifted
