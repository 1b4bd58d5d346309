"""A GPU as peers need it: memory, a stream and graphs, without this package's own kernels.

So peers can be measured while those are being compiled.
"""

from __future__ import annotations

import functools
from typing import Any

from cconvnet.bench.processes import PeerMissing
from cconvnet.devices import CudaDevice
from cconvnet.errors import DeviceUnavailable


class PeerGpu(CudaDevice):
    """A CUDA device whose ``module`` is None."""

    def _loaded(self) -> tuple[Any, str]:
        return None, "without kernels of its own"


@functools.cache
def gpu(name: str) -> PeerGpu:
    """Return the GPU of a device name such as "cuda:0".

    Raises:
        PeerMissing: The device cannot be used, or is no GPU.
    """
    kind, _, index = name.partition(":")
    if kind != "cuda":
        raise PeerMissing(f"{name} is no GPU")
    try:
        return PeerGpu(int(index or "0"))
    except DeviceUnavailable as error:
        raise PeerMissing(str(error)) from None
