"""What a device can do at most, measured: how fast it copies memory and how fast it multiplies matrices."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cconvnet._problem import FcProblem
from cconvnet.backends import Device
from cconvnet.bench.timing import Clock
from cconvnet.bench.work import Work


@dataclass(frozen=True)
class Ceilings:
    """Attributes
    bytes_per_second: of a large copy, bytes read plus bytes written.
    flops_per_second: of a large matrix product.
    """

    bytes_per_second: float
    flops_per_second: float

    def floor(self, work: Work) -> float:
        """The seconds that `work` takes at least: the longer of arithmetic and traffic."""
        return max(work.flops / self.flops_per_second, work.bytes / self.bytes_per_second)

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def measure(device: Device, precision: str = "fp32") -> Ceilings:
    """The ceilings of a device for one precision: the fastest of several tries, since they are limits.

    The copy is many times as large as any cache. The matrix product is the faster of the array library's
    (NumPy's BLAS, cuBLAS through CuPy) and of our own fully connected layer's, of 2048 x 2048 matrices on a
    CPU and 8192 x 8192 on a GPU.

    Raises ValueError for a precision that does not exist.
    """
    if precision != "fp32":
        raise ValueError(f"precision must be fp32, not {precision!r}")
    clock = Clock(device)
    size = {"cuda": 1 << 30, "cpu": 1 << 28}.get(device.kind, 1 << 20)
    source, target = device.zeros(size // 4), device.zeros(size // 4)
    copy = _copy(device, target, source)
    bandwidth = 2 * size / min(clock.seconds(copy, 6)[1:])
    del source, target, copy

    side = {"cuda": 8192, "cpu": 2048}.get(device.kind, 64)
    random = np.random.default_rng(0)
    x, w = (device.array(random.standard_normal((side, side), np.float32)) for _ in range(2))
    y = device.empty((side, side))
    problem = FcProblem(side, side, side)
    needed = int(device.module.fc_fprop_workspace(problem))
    workspace = device.empty(needed, np.uint8) if needed else None

    def own() -> None:
        device.module.fc_fprop(problem, x, w, None, False, y, workspace, device.stream)

    def library() -> None:
        with device:
            device.xp.matmul(x, w, out=y)

    fastest = min(min(clock.seconds(call, 6)[1:]) for call in (own, library))
    return Ceilings(bandwidth, 2 * side**3 / fastest)


def _copy(device: Device, target: Any, source: Any) -> Any:
    """A call that copies with all that the device has."""
    if device.kind == "cuda":

        def on_device() -> None:
            with device:
                device.xp.copyto(target, source)

        return on_device
    # One thread cannot saturate the memory of a processor with several cores.
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pieces = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    pool = ThreadPoolExecutor(threads)

    def on_host() -> None:
        list(pool.map(lambda pair: np.copyto(*pair), pieces))

    return on_host
