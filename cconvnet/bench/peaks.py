"""Peak rates of a device, as measured: copying memory and multiplying matrices."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cconvnet._problem import ConvProblem, FcProblem
from cconvnet.bench.cost import Work
from cconvnet.bench.tiles import Tiles
from cconvnet.bench.timing import Clock
from cconvnet.bfloat16 import BITS
from cconvnet.devices import Device, require_precision


@dataclass(frozen=True)
class Peaks:
    """Peak rates of a device.

    Attributes:
        bytes_per_second: Bytes read plus bytes written by a large copy.
        flops_per_second: Operations of large sums of products.
    """

    bytes_per_second: float
    flops_per_second: float

    def floor(self, work: Work) -> float:
        """Return the least seconds that `work` can take: the longer of arithmetic and traffic."""
        return max(work.flops / self.flops_per_second, work.bytes / self.bytes_per_second)

    def __str__(self) -> str:
        return f"{self.flops_per_second / 1e12:,.3f} TFLOP/s, {self.bytes_per_second / 1e9:,.1f} GB/s copied"

    def to_dict(self) -> dict[str, float]:
        """Return the rates as JSON values."""
        return asdict(self)


def measure(device: Device, precision: str = "fp32") -> Peaks:
    """Measure the peaks of a device for one precision: the fastest of several tries, since they are limits.

    The copy is many times as large as any cache. Arithmetic is the fastest of a large convolution or matrix
    product of ours and, in fp32 and bf16, a matrix product by the array library. A library need not be the
    fastest on every device.

    Raises:
        ValueError: The precision does not exist, or the device does not support it.
    """
    require_precision(device, precision)
    clock = Clock(device)
    size = {"cuda": 1 << 30, "cpu": 1 << 28}.get(device.kind, 1 << 20)
    source, target = device.zeros(size // 4), device.zeros(size // 4)
    copy = _copy(device, target, source)
    bandwidth = 2 * size / _fastest(clock, copy, 20)
    del source, target, copy

    rates = [_own_rate(device, clock, problem) for problem in _large(device, precision)]
    if (element := _library_element(device, precision)) is not None:
        rates.append(_library_rate(device, clock, element))
    return Peaks(bandwidth, max(rates))


def _fastest(clock: Clock, call: Any, tries: int = 6) -> float:
    return min(clock.seconds(call, tries)[1:])


def _library_element(device: Device, precision: str) -> Any:
    """Return the type in which the array library multiplies at full speed; None if it has none.

    CuPy has no bfloat16, but the tensor cores that have it multiply it as fast as float16. Source: NVIDIA's
    data sheets of the A100, H100 and H200.
    """
    if precision == "bf16" and device.kind == "cuda":
        return np.float16
    return np.float32 if precision == "fp32" else None


def _library_rate(device: Device, clock: Clock, element: Any) -> float:
    """Return FLOP/s of a product of two large matrices by NumPy's BLAS, or by cuBLAS through CuPy."""
    side = {"cuda": 8192, "cpu": 2048}.get(device.kind, 64)
    tiles = Tiles(device)
    x, w = (tiles.array((side, side), element) for _ in range(2))
    y = device.empty((side, side), element)

    def product() -> None:
        with device:
            device.xp.matmul(x, w, out=y)

    return 2 * side**3 / _fastest(clock, product)


def _large(device: Device, precision: str) -> list[Any]:
    """Return products of shapes that suit every kernel."""
    images = {"cuda": 256, "cpu": 32}.get(device.kind, 1)
    channels, size = (8, 6) if device.kind == "emulator" else (256, 28)
    side = {"cuda": 8192, "cpu": 2048}.get(device.kind, 64)
    return [
        ConvProblem(images, size, size, channels, channels, 3, 3, padding=(1, 1), precision=precision),
        FcProblem(side, side, side, precision),
    ]


def _own_rate(device: Device, clock: Clock, problem: Any) -> float:
    """Return FLOP/s of the forward pass of one of our products."""
    family = "fc" if isinstance(problem, FcProblem) else "conv"
    element = BITS if problem.precision == "bf16" else np.float32
    tiles = Tiles(device)
    x, w = (tiles.array(tuple(shape), element) for shape in (problem.x_shape, problem.w_shape))
    y = device.empty(problem.y_shape, element)
    needed = int(getattr(device.module, f"{family}_fprop_workspace")(problem))
    workspace = device.empty(needed, np.uint8) if needed else None
    fprop = getattr(device.module, f"{family}_fprop")

    def call() -> None:
        fprop(problem, x, w, None, False, y, workspace, device.stream)

    return float(problem.flops) / _fastest(clock, call)


def _copy(device: Device, target: Any, source: Any) -> Any:
    """Return a call that copies memory with the whole device."""
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
