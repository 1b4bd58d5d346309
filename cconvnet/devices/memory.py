"""Free memory of a device."""

from __future__ import annotations

from cconvnet.devices import Device
from cconvnet.system import memory


def available(device: Device) -> memory.Free | None:
    """Return the memory that is free for arrays of a device: a GPU's own, otherwise the host's."""
    if device.kind != "cuda":
        return memory.host()
    with device:
        free, in_all = device.xp.cuda.runtime.memGetInfo()
        kept = device.xp.get_default_memory_pool().free_bytes()
    return memory.Free(int(free) + int(kept), int(in_all), device.name)
