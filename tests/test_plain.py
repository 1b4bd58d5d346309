"""Plain elementwise operations, and what every compiled module says of itself."""

from __future__ import annotations

import numpy as np
import pytest

from cconvnet._problem import NeuronProblem
from cconvnet.backends import Device, copy
from cconvnet.testing.check import OPERATIONS, check


@pytest.mark.parametrize("count", [1, 3, 4, 31, 256, 1027])
def test_add(device: Device, count: int) -> None:
    problem = NeuronProblem(count)
    check("add", problem, device)
    check("add", problem, device, data="real", offset=4)
    for operand in ("a", "b"):
        check("add", problem, device, in_place=operand)


def test_copy(device: Device) -> None:
    host = np.arange(1027, dtype=np.float32)
    source, target = device.array(host), device.zeros(host.shape)
    copy(target, device, source, device)
    assert device.host(target).tolist() == host.tolist()


def test_copy_of_the_module(device: Device) -> None:
    host = np.arange(1027, dtype=np.float32)
    source, target = device.array(host), device.zeros(host.shape)
    with device:
        device.module.copy(target, device.ordinal, source, device.ordinal, device.stream)
    device.synchronize()
    assert device.host(target).tolist() == host.tolist()


def test_a_module_has_every_operation(device: Device) -> None:
    missing = [name for name in OPERATIONS if not callable(getattr(device.module, name, None))]
    assert not missing


def test_a_module_says_what_it_is(device: Device) -> None:
    # Without oneDNN the CPU device runs on NumPy.
    kinds = {device.kind, "numpy"} if device.kind == "cpu" else {device.kind}
    assert device.module.build_kind() in kinds
    assert device.module.build_info()
