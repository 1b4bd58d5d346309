"""The devices of a network."""

from __future__ import annotations

from collections.abc import Sequence

from cconvnet.devices import Device, get_device


def distinct_devices(devices: str | Device | Sequence[str | Device] | None) -> list[Device]:
    """Devices of one kind by their names, the default of none; a ValueError names one that is given twice."""
    given = [devices] if devices is None or isinstance(devices, str | Device) else list(devices)
    if not given:
        raise ValueError("devices must not be empty")
    found = [get_device(device) for device in given]
    for index, device in enumerate(found):
        if device.name in {other.name for other in found[:index]}:
            raise ValueError(
                f"device {device.name} is given twice; {device.kind}:{device.index + 1} would be another one"
            )
        if device.kind != found[0].kind:
            raise ValueError(
                f"devices must be of one kind: {device.name} is no {found[0].kind} device like "
                f"{found[0].name}"
            )
    return found
