"""Copies between devices, and the description that every compiled module gives of itself."""

from __future__ import annotations

import numpy as np

from cconvnet.devices import Device
from cconvnet.operations import OPERATIONS


def test_a_transfer_copies_again_and_again(device: Device) -> None:
    source, target = device.zeros(1027), device.zeros((13, 79))
    transfer = device.transfer(target, device, source)
    for start in (0, 5):
        host = np.arange(start, start + 1027, dtype=np.float32)
        device.fill(source, host)
        device.wait(transfer.start(device.mark(), None))
        assert device.host(target).ravel().tolist() == host.tolist()
    assert transfer.seconds > 0


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
