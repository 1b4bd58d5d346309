"""Timing of calls on a device."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cconvnet.devices import Device

Call = Callable[[], Any]

# State of the caches when a timed call begins.
CPU_CACHES = "as the call before left them"
FLUSHED = 4  # times the size of the L2 cache is written
GPU_CACHES = f"cold: {FLUSHED} times the L2 cache is written before each call"
# Work on a GPU that is timed as one captured graph.
GRAPH = "graph"


class Clock:
    """Time calls whose work one device does.

    On a GPU each call is enclosed by two events on the device's stream. A write of several times the L2 cache
    precedes it, which evicts the cache and keeps the stream busy while the host launches the call. Elsewhere
    a call returns when its work is done, so the time of the call is the time of the work.

    Attributes:
        caches: The state of the caches when a call begins.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._flush: Any = None
        self.caches = CPU_CACHES
        if device.kind == "cuda":
            self.caches = GPU_CACHES
            with device:
                size = device.xp.cuda.Device().attributes["L2CacheSize"]
            self._flush = device.empty(max(FLUSHED * size // 4, 1))

    def captured(self, call: Call) -> tuple[Call, str]:
        """Return the work of a call without its launch: a replay of its graph, and GRAPH.

        Off the GPU, and where the work cannot be captured, returns the call itself and the reason. Off the
        GPU the reason is empty. The call must have been made once before.
        """
        if self._flush is None:
            return call, ""
        self._device.synchronize()
        try:
            replay = self._device.captured(call)
            replay()
            self._device.synchronize()
        except Exception as error:  # the array library's error for what its driver refuses
            why = (str(error).splitlines() or [type(error).__name__])[0]
            return call, f"not captured: {why}"
        return replay, GRAPH

    def launch_seconds(self, call: Call, count: int) -> list[float]:
        """Return the host's time for each of `count` calls that only enqueue work on an idle device."""
        times = []
        for _ in range(count):
            self._device.synchronize()
            times += wall_seconds(call, 1)
        self._device.synchronize()
        return times

    def seconds(self, call: Call, count: int) -> list[float]:
        """Return the time of each of `count` calls, one after the other."""
        device = self._device
        if self._flush is None:
            return wall_seconds(call, count)
        cuda = device.xp.cuda
        with device:
            stream = cuda.ExternalStream(device.stream)
            events = [(cuda.Event(), cuda.Event()) for _ in range(count)]
            for begin, end in events:
                self._flush.fill(0.0)
                begin.record(stream)
                call()
                end.record(stream)
            device.synchronize()
            return [cuda.get_elapsed_time(begin, end) / 1e3 for begin, end in events]


def wall_seconds(call: Call, count: int) -> list[float]:
    """Return the time of each of `count` calls that return when their work is done."""
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return times


def calls_for(seconds: float, one: float, least: int = 1, most: int = 1000) -> int:
    """Return the number of calls of `one` second each that fill `seconds`."""
    return max(least, min(most, round(seconds / max(one, 1e-9))))


def summary(times: Sequence[float]) -> dict[str, Any]:
    """Return median, extremes and number of timed calls, in seconds."""
    ordered = sorted(times)
    return {
        "seconds": statistics.median(ordered),
        "seconds_min": ordered[0],
        "seconds_max": ordered[-1],
        "calls": len(ordered),
    }


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive numbers; NaN if there are none."""
    logarithms = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logarithms)) if logarithms else math.nan
