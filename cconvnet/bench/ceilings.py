"""What a device can do at most, measured: how fast it copies memory and how fast it multiplies matrices."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cconvnet._problem import ConvProblem
from cconvnet.backends import Device
from cconvnet.bench.timing import Clock
from cconvnet.bench.work import Work


@dataclass(frozen=True)
class Ceilings:
    """Attributes
    bytes_per_second: of a large copy, bytes read plus bytes written.
    flops_per_second: of large sums of products.
    """

    bytes_per_second: float
    flops_per_second: float

    def floor(self, work: Work) -> float:
        """The seconds that `work` takes at least: the longer of arithmetic and traffic."""
        return max(work.flops / self.flops_per_second, work.bytes / self.bytes_per_second)

    def __str__(self) -> str:
        return f"{self.flops_per_second / 1e12:,.3f} TFLOP/s, {self.bytes_per_second / 1e9:,.1f} GB/s copied"

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def measure(device: Device, precision: str = "fp32") -> Ceilings:
    """The ceilings of a device for one precision: the fastest of several tries, since they are limits.

    The copy is many times as large as any cache. Arithmetic is that of a large matrix product by the array
    library or of one of our own convolutions, whichever is faster: the one need not suit its library.

    Raises ValueError for a precision that does not exist.
    """
    if precision != "fp32":
        raise ValueError(f"precision must be fp32, not {precision!r}")
    clock = Clock(device)
    size = {"cuda": 1 << 30, "cpu": 1 << 28}.get(device.kind, 1 << 20)
    source, target = device.zeros(size // 4), device.zeros(size // 4)
    copy = _copy(device, target, source)
    bandwidth = 2 * size / _fastest(clock, copy, 20)
    del source, target, copy

    rate = max(_product_rate(device, clock), _convolution_rate(device, clock))
    return Ceilings(bandwidth, rate)


def _fastest(clock: Clock, call: Any, tries: int = 6) -> float:
    return min(clock.seconds(call, tries)[1:])


def _product_rate(device: Device, clock: Clock) -> float:
    """FLOP/s of the array library's product of two large matrices: NumPy's BLAS, or cuBLAS through CuPy."""
    side = {"cuda": 8192, "cpu": 2048}.get(device.kind, 64)
    random = np.random.default_rng(0)
    x, w = (device.array(random.standard_normal((side, side), np.float32)) for _ in range(2))
    y = device.empty((side, side))

    def product() -> None:
        with device:
            device.xp.matmul(x, w, out=y)

    return 2 * side**3 / _fastest(clock, product)


def _convolution_rate(device: Device, clock: Clock) -> float:
    """FLOP/s of our own convolution of a shape that suits every kernel."""
    images = {"cuda": 256, "cpu": 32}.get(device.kind, 0)
    channels, size = (256, 28) if images else (8, 6)
    problem = ConvProblem(max(images, 1), size, size, channels, channels, 3, 3, padding=(1, 1))
    random = np.random.default_rng(0)
    x, w = (
        device.array(random.standard_normal(shape, np.float32))
        for shape in (problem.x_shape, problem.w_shape)
    )
    y = device.empty(problem.y_shape)
    needed = int(device.module.conv_fprop_workspace(problem))
    workspace = device.empty(needed, np.uint8) if needed else None

    def convolve() -> None:
        device.module.conv_fprop(problem, x, w, None, False, y, workspace, device.stream)

    return float(problem.flops) / _fastest(clock, convolve)


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
