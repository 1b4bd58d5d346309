"""Random problems over all operations, devices and rows: 300 in a usual run, 3,000 in the long one."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet.devices import Device
from cconvnet.operations import OPERATIONS
from cconvnet.testing import reference
from cconvnet.testing.check import check, exact_impls, make_inputs
from cconvnet.testing.random_problems import random_case


def check_random(seed: int, devices: list[Device]) -> bool:
    """Check a problem on one of the devices that serve its precision; return False if none does."""
    operation, problem, arguments = random_case(seed, OPERATIONS)
    precision = getattr(problem, "precision", arguments.get("element", "fp32"))
    devices = [device for device in devices if device.serves(precision)]
    if not devices:
        return False
    device = devices[seed % len(devices)]
    rows = exact_impls(operation, problem, device)
    # The first choice, as a network would run it, or any other row.
    impl = rows[seed // len(devices) % len(rows)] if seed % 3 and "offset" not in arguments else None
    check(operation, problem, device, impl=impl, **arguments)
    return True


@pytest.mark.parametrize("seed", range(300))
def test_random(all_devices: list[Device], seed: int) -> None:
    if not check_random(seed, all_devices):
        pytest.skip("no device of this run serves the problem's precision")


@pytest.mark.long
@pytest.mark.parametrize("hundred", range(3, 33))
def test_3000_random(all_devices: list[Device], hundred: int) -> None:
    checked = [check_random(seed, all_devices) for seed in range(100 * hundred, 100 * (hundred + 1))]
    assert any(checked)


def test_random_problems_are_worth_testing() -> None:
    """Every operation is drawn, and few of the convolutions have a mostly zero result."""
    drawn, poor, kinds = set(), [], set()
    for seed in range(300):
        operation, problem, arguments = random_case(seed, OPERATIONS)
        drawn.add(operation)
        kinds.add(getattr(problem, "precision", arguments.get("element", "fp32")))
        kinds.update(str(arguments.get(name)) for name in ("dropout", "update"))
        if operation.startswith("conv"):
            inputs = make_inputs(operation, problem, "exact", seed)
            result = getattr(reference, operation)(problem, *inputs.values())
            poor.append(np.count_nonzero(result) < 0.25 * result.size)
    assert drawn == set(OPERATIONS)
    assert kinds >= {
        "fp32",
        "fp32x3",
        "tf32",
        "bf16",
        "whole",
        "rows",
        "part",
        "odd_part",
        "plain",
        "full",
        "halted",
    }
    assert len(poor) >= 15 and np.mean(poor) <= 0.25
