"""The time of a training step: a span for each layer's pass, each update and each copy.

A traced step does the same as any other, but is not captured. On a GPU each call is between two events. Off
the GPU a call returns when its work is done, so spans follow each other.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from cconvnet.devices import Device
from cconvnet.layers import Layer
from cconvnet.network.network import Network
from cconvnet.network.synthetic import Training
from cconvnet.optim import Parameter

PASSES = ("load", "forward", "check", "backward", "update", "copy")


@dataclasses.dataclass(frozen=True)
class Span:
    """One stretch of work.

    Attributes:
        layer: its name; the names of fused layers joined with +.
        what: one of PASSES. On one device updates are part of "backward", but for that of biases.
        lane: the device, or "cpu:0 to cpu:1" for a copy.
        begin: in seconds since the step began.
        end: likewise.
    """

    layer: str
    what: str
    lane: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """The length of the span."""
        return self.end - self.begin


@dataclasses.dataclass(frozen=True)
class Record:
    """The median of several traced steps.

    Attributes:
        net: the network's name.
        batch: how many images the batch had.
        precision: of the network.
        devices: the names of the devices.
        lanes: the devices, then the directions of copies.
        spans: in the order in which they began.
        seconds: from the batch in host memory to the loss, by the host's clock.
        untraced_seconds: the median of steps that were not traced, which alternated with traced ones.
        steps: how many steps were traced.
    """

    net: str
    batch: int
    precision: str
    devices: list[str]
    lanes: list[str]
    spans: list[Span]
    seconds: float
    untraced_seconds: float
    steps: int

    @property
    def unaccounted(self) -> float:
        """The seconds in which no span runs."""
        busy, until = 0.0, 0.0
        for span in self.spans:
            busy += max(0.0, span.end - max(span.begin, until))
            until = max(until, span.end)
        return self.seconds - busy

    def totals(self) -> list[dict[str, Any]]:
        """Return one entry for each layer, in the order of their first spans.

        An entry has the layer's name, and its seconds in each pass, summed over lanes.
        """
        found: dict[str, dict[str, Any]] = {}
        for span in self.spans:
            row = found.setdefault(span.layer, {"layer": span.layer, **dict.fromkeys(PASSES, 0.0)})
            row[span.what] += span.seconds
        return list(found.values())

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**dataclasses.asdict(self), "unaccounted": self.unaccounted, "layers": self.totals()}

    def chrome_trace(self) -> dict[str, Any]:
        """Return the trace events that Perfetto and Chrome's tracing page open.

        Source: "Trace Event Format", the complete events ("X") and the metadata ("M").
        """
        threads = {lane: index for index, lane in enumerate(self.lanes)}
        events: list[dict[str, Any]] = [
            {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": f"{self.net}, a training step"}}
        ]
        for lane, thread in threads.items():
            here = {"ph": "M", "pid": 0, "tid": thread}
            events.append({**here, "name": "thread_name", "args": {"name": lane}})
            events.append({**here, "name": "thread_sort_index", "args": {"sort_index": thread}})
        events += [
            {
                "name": f"{span.layer} {span.what}",
                "cat": span.what,
                "ph": "X",
                "ts": 1e6 * span.begin,
                "dur": 1e6 * span.seconds,
                "pid": 0,
                "tid": threads[span.lane],
                "args": {"layer": span.layer, "pass": span.what},
            }
            for span in self.spans
        ]
        return {"traceEvents": events, "displayTimeUnit": "ms"}


class Tracer:
    """Observes steps of a network; between steps the network is as it was."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._names = {name: "+".join(layer.names) for layer in network.layers for name in layer.names}
        # Layer, pass, lane, the device whose moments these are, begin, end.
        self._seen: list[tuple[str, str, str, Device, Any, Any]] = []

    def trace(self, step: Callable[[], Any]) -> tuple[list[Span], float]:
        """Do a step.

        Returns:
            Its spans in the order in which they began, and its seconds.
        """
        devices = self._network.devices
        for device in devices:
            device.synchronize()
        self._seen.clear()
        with self._network.observed(self):
            begin = time.perf_counter()
            first = {device.name: device.moment() for device in devices}
            step()
            for device in devices:
                device.synchronize()
            seconds = time.perf_counter() - begin
        spans = [
            Span(
                layer,
                phase,
                lane,
                device.seconds_between(first[device.name], begin),
                device.seconds_between(first[device.name], end),
            )
            for layer, phase, lane, device, begin, end in self._seen
        ]
        return sorted(spans, key=lambda span: span.begin), seconds

    def __call__(
        self, owner: Layer | Parameter, device: Device, phase: str, work: Callable[..., None], *args: Any
    ) -> None:
        """Do a piece of a step's work between two moments of its device; see Observer."""
        if isinstance(owner, Parameter):
            self._timed(owner.layer, device, phase, work, *args)
        elif owner.is_copy:
            work(*args)
            self._add_copies(owner, device, back=phase == "backward")
        else:
            self._timed(owner.name, device, phase, work, *args)

    def _timed(self, name: str, device: Device, phase: str, work: Callable[..., None], *args: Any) -> None:
        begin = device.moment()
        work(*args)
        self._seen.append((self._names.get(name, name), phase, device.name, device, begin, device.moment()))

    def _add_copies(self, copy: Layer, device: Device, back: bool) -> None:
        """The parts of a copy have been timed by the copy itself."""
        source = copy.inputs[0]
        ends = [source.device.name, copy.device.name]
        lane = " to ".join(reversed(ends) if back else ends)
        for measured_on, begin, end in copy.last_copies(back):
            self._seen.append((self._names[source.name], "copy", lane, measured_on or device, begin, end))


def record(
    network: Network, steps: int, warmup: int = 2, stepped: Callable[[int], None] = lambda done: None
) -> Record:
    """Trace training steps of a network on random images.

    Args:
        network: the network.
        steps: how many steps are traced; as many alternate with them that are not.
        warmup: steps before those. On a GPU the second one is captured.
        stepped: called with the number of steps done so far, of all three kinds.
    """
    training, tracer = Training(network), Tracer(network)
    traced: list[tuple[list[Span], float]] = []
    untraced: list[float] = []
    for done in range(warmup):
        training.step()
        stepped(done + 1)
    for done in range(steps):
        begin = time.perf_counter()
        training.step()
        untraced.append(time.perf_counter() - begin)
        traced.append(tracer.trace(training.step))
        stepped(warmup + 2 * (done + 1))
    spans, seconds = sorted(traced, key=lambda one: one[1])[len(traced) // 2]
    return Record(
        net=network.spec.name,
        batch=network.batch,
        precision=network.precision,
        devices=[device.name for device in network.devices],
        lanes=_lanes(network, spans),
        spans=spans,
        seconds=seconds,
        untraced_seconds=statistics.median(untraced),
        steps=steps,
    )


def _lanes(network: Network, spans: Sequence[Span]) -> list[str]:
    """The devices, then the directions of copies, each once."""
    names = [device.name for device in network.devices]
    return list(dict.fromkeys([*names, *sorted(span.lane for span in spans)]))
