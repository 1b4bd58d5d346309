"""Devices by name."""

from __future__ import annotations

import contextlib
import functools
import os

from cconvnet.checks import is_number
from cconvnet.devices.cuda import CudaDevice, cuda_ordinals
from cconvnet.devices.device import Device, ReferenceDevice
from cconvnet.devices.modules import load_module
from cconvnet.errors import DeviceUnavailable

KINDS = ("cuda", "cpu", "emulator", "reference")


@functools.cache
def _make(kind: str, index: int) -> Device:
    if kind == "cuda":
        return CudaDevice(index)
    return ReferenceDevice(kind, index) if kind == "reference" else Device(kind, index)


@functools.cache
def _default() -> Device:
    try:
        device = _make("cuda", 0)
    except DeviceUnavailable as error:
        device = Device("cpu", 0)
        device.reason = f"{device.reason} (not a GPU: {str(error).split(';')[0].split(':')[0]})"
    return device


def get_device(name: str | Device | None = None) -> Device:
    """Return the device called `name`; without a name a usable GPU, else the CPU.

    ``Device.reason`` explains the choice.

    Raises:
        TypeError: The name is no string.
        ValueError: The name is not of the form kind:index.
        DeviceUnavailable: The device cannot be used here. The text explains why and how to fix it.
    """
    if isinstance(name, Device):
        return name
    if name is None:
        return _default()
    if not isinstance(name, str):
        raise TypeError(f"device must be a name such as cpu:0 or a Device, not {name!r}")
    kind, _, index = name.partition(":")
    if kind not in KINDS or not is_number(index or "0"):
        raise ValueError(f"device must be cuda:N, cpu:N or emulator:N, not {name!r}")
    return _make(kind, int(index or "0"))


def devices_of(names: list[str] | None) -> list[Device]:
    """Return the devices of these names, or the default device alone."""
    return [get_device(name) for name in names] if names else [get_device()]


def cuda_device_on(ordinal: int) -> Device:
    """Return the first logical CUDA device on a physical GPU.

    Raises:
        DeviceUnavailable: CCONVNET_CUDA_DEVICES leaves that GPU out.
    """
    ordinals = cuda_ordinals()
    if ordinal not in ordinals:
        raise DeviceUnavailable(
            f"CCONVNET_CUDA_DEVICES={os.environ['CCONVNET_CUDA_DEVICES']} leaves GPU {ordinal} out"
        )
    return _make("cuda", ordinals.index(ordinal))


def present_devices() -> list[str]:
    """Return the names of the physical devices that can be used now."""
    names = ["cpu:0"]
    with contextlib.suppress(DeviceUnavailable):
        load_module("emulator")
        names.append("emulator:0")
    with contextlib.suppress(DeviceUnavailable):
        load_module("cuda")
        names = [f"cuda:{index}" for index in range(len(cuda_ordinals()))] + names
    return names
