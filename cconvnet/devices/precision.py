"""Precisions of products, and checks that a device supports one."""

from __future__ import annotations

from cconvnet.devices.device import Device
from cconvnet.devices.registry import get_device, present_devices

PRECISIONS = ("fp32", "fp32x3", "tf32", "bf16")

# Hardware or libraries that a precision requires.
_NEEDED = {
    "fp32": "oneDNN or a GPU",
    "tf32": "a GPU of compute capability 8.0 or newer",
    "fp32x3": "a GPU of compute capability 8.0 or newer",
    "bf16": "a GPU of compute capability 8.0 or newer, or a CPU with instructions for bfloat16 (AVX512_BF16, "
    "AMX or AVX-NE-CONVERT) and a package built with oneDNN",
}


def check_precision(precision: str | None) -> None:
    """Check the name of a precision; require_precision checks a device.

    Raises:
        ValueError: There is no such precision.
    """
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")


def require_precision(device: Device, precision: str) -> None:
    """Check that a device can compute in a precision.

    Raises:
        ValueError: It cannot, or there is no such precision. The text names the devices that can.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if device.serves(precision):
        return
    able = [name for name in present_devices() if get_device(name).serves(precision)]
    here = f"of the devices here {', '.join(able)} can" if able else "no device here can"
    raise ValueError(
        f"precision {precision} is not for {device.name}: {_NEEDED[precision]} is needed; {here}"
    )
