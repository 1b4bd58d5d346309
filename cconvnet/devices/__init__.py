"""Devices: their names, memory, streams and copies, and the compiled modules that compute on them.

A device is named ``cuda:0``, ``cpu:0``, ``emulator:0``, ... Several logical devices may share a physical one,
so a network over two devices runs anywhere. ``CCONVNET_CUDA_DEVICES=0,0`` maps ``cuda:0`` and ``cuda:1`` to
physical GPU 0. ``reference:0`` computes in float64 with NumPy, for tests and gradient checks.

The modules, in the order of reading:

    modules: loads the compiled module, or NumPy's, of a kind of device.
    numpy_module: the functions of ``kernels/api.h``, computed by the NumPy reference.
    device: the base class, which serves devices without streams.
    proofs: which kernels a GPU of an architecture has proven.
    cuda: GPUs, with streams, events, pinned memory and copies between devices.
    registry: devices by name.
    counting: memory accesses and races of kernels in the emulator.
    precision: checks that a device can compute in a precision.
    machine, memory: facts about the machine, and the free memory of a device.
"""

from __future__ import annotations

from cconvnet.devices.cuda import CudaDevice, CudaFeed, CudaTransfer, import_cupy
from cconvnet.devices.device import Device, Feed, ReferenceDevice, Transfer
from cconvnet.devices.precision import PRECISIONS, check_precision, require_precision
from cconvnet.devices.registry import KINDS, cuda_device_on, devices_of, get_device, present_devices
from cconvnet.errors import CudaError, DeviceUnavailable

__all__ = [
    "KINDS",
    "PRECISIONS",
    "CudaDevice",
    "CudaError",
    "CudaFeed",
    "CudaTransfer",
    "Device",
    "DeviceUnavailable",
    "Feed",
    "ReferenceDevice",
    "Transfer",
    "check_precision",
    "cuda_device_on",
    "devices_of",
    "get_device",
    "import_cupy",
    "present_devices",
    "require_precision",
]
