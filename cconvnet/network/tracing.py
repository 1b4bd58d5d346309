"""The time of a training step: a span for each layer's pass, each update and each copy.

A traced step does the same as any other, but is not captured. On a GPU each call is between two events. Off
the GPU a call returns when its work is done, so spans follow each other. Of one of several ranks, a span ends
where it waits for the others, and another one begins behind the wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from cconvnet.devices import Device
from cconvnet.layers import Layer
from cconvnet.network.network import Network
from cconvnet.network.synthetic import Training
from cconvnet.optim import Parameter
from cconvnet.ranks.wires import Wires

PASSES = ("load", "forward", "check", "backward", "exchange", "update", "copy")
# What ranks exchange, by the method of wires that begins it.
_EXCHANGED = {"highest": "check", "exchange": "gradients", "reduce": "gradients", "gather": "weights"}


@dataclasses.dataclass(frozen=True)
class Span:
    """One stretch of work.

    Attributes:
        layer: its name; the names of fused layers joined with +. Of the update after shards, "all layers", or
            of several ranks "bucket 1" of the gradients.
        what: one of PASSES. On one device updates are part of "backward", but for that of biases. "exchange"
            is the work of one of several ranks before transfers, which it then begins.
        lane: the device, or "cpu:0 to cpu:1" for a copy.
        begin: in seconds since the step began.
        end: likewise.
        shard: the number of the shard; None: batches are whole, or it is of all shards.
    """

    layer: str
    what: str
    lane: str
    begin: float
    end: float
    shard: int | None = None

    @property
    def seconds(self) -> float:
        """The length of the span."""
        return self.end - self.begin


@dataclasses.dataclass(frozen=True)
class Transfer:
    """An exchange with the other ranks, as one of them sees it.

    Attributes:
        of: "bucket 1" of all gradients in the order of the backward pass, a layer, or "losses".
        what: "gradients" or "weights" of a bucket, "factors" of a layer, "activations" or their gradients of
            one that ranks compute together, or the "check" of losses.
        begin: when this rank had computed what it sends, in seconds since the step began.
        wait: when it began to wait for what it receives.
        end: when it had that.
    """

    of: str
    what: str
    begin: float
    wait: float
    end: float


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
        return self.seconds - covered((span.begin, span.end) for span in self.spans)

    def totals(self) -> list[dict[str, Any]]:
        """Return the time of each layer, as the function of this name does."""
        return totals(self.spans)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**dataclasses.asdict(self), "unaccounted": self.unaccounted, "layers": self.totals()}

    def chrome_trace(self) -> dict[str, Any]:
        """Return the trace events that Perfetto and Chrome's tracing page open.

        Source: "Trace Event Format", the complete events ("X") and the metadata ("M").
        """
        events = process_events(0, f"{self.net}, a training step", self.lanes)
        events += span_events(0, self.lanes, self.spans)
        return {"traceEvents": events, "displayTimeUnit": "ms"}


def covered(stretches: Iterable[tuple[float, float]]) -> float:
    """Return the seconds that any of these stretches of time covers.

    Args:
        stretches: begins and ends, in the order of the begins; no begin is below 0.
    """
    found, until = 0.0, 0.0
    for begin, end in stretches:
        found += max(0.0, end - max(begin, until))
        until = max(until, end)
    return found


def totals(spans: Iterable[Span]) -> list[dict[str, Any]]:
    """Return one entry for each layer, in the order of their first spans.

    An entry has the layer's name, and its seconds in each pass, summed over lanes.
    """
    found: dict[str, dict[str, Any]] = {}
    for span in spans:
        row = found.setdefault(span.layer, {"layer": span.layer, **dict.fromkeys(PASSES, 0.0)})
        row[span.what] += span.seconds
    return list(found.values())


def process_events(pid: int, name: str, lanes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the trace events that name a process and its lanes, which are threads of it."""
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": pid, "args": {"name": name}},
        {"name": "process_sort_index", "ph": "M", "pid": pid, "args": {"sort_index": pid}},
    ]
    for thread, lane in enumerate(lanes):
        here = {"ph": "M", "pid": pid, "tid": thread}
        events.append({**here, "name": "thread_name", "args": {"name": lane}})
        events.append({**here, "name": "thread_sort_index", "args": {"sort_index": thread}})
    return events


def span_events(pid: int, lanes: Sequence[str], spans: Iterable[Span]) -> list[dict[str, Any]]:
    """Return the trace events of spans."""
    return [
        {
            "name": f"{span.layer} {span.what}",
            "cat": span.what,
            "ph": "X",
            "ts": 1e6 * span.begin,
            "dur": 1e6 * span.seconds,
            "pid": pid,
            "tid": lanes.index(span.lane),
            "args": {"layer": span.layer, "pass": span.what}
            | ({} if span.shard is None else {"shard": span.shard}),
        }
        for span in spans
    ]


@dataclasses.dataclass
class _Begun:
    """A transfer that this rank has begun; moments are of its device."""

    transfer: Any
    what: str
    begin: Any
    of: str = ""
    wait: Any = None
    end: Any = None


class Tracer:
    """Observes steps of a network; between steps the network is as it was.

    Attributes:
        begun: the host's clock when the last step began.
        transfers: the last step's exchanges with other ranks, in the order in which all ranks begin them.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._names = {name: "+".join(layer.names) for layer in network.layers for name in layer.names}
        # Layer, pass, lane, the device whose moments these are, begin, end, shard.
        self._seen: list[tuple[str, str, str, Device, Any, Any, int | None]] = []
        self._open: tuple[str, str, Any] = ("", "", None)  # layer, pass and begin of the span that goes on
        self._begun: dict[int, _Begun] = {}  # by the identity of the transfer
        self.begun = 0.0
        self.transfers: list[Transfer] = []

    def trace(self, step: Callable[[], Any]) -> tuple[list[Span], float]:
        """Do a step.

        Returns:
            Its spans in the order in which they began, and its seconds.
        """
        devices = self._network.devices
        for device in devices:
            device.synchronize()
        self._seen.clear()
        self._begun.clear()
        with self._network.observed(self), self._watched_wires():
            self.begun = begin = time.perf_counter()
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
                shard,
            )
            for layer, phase, lane, device, begin, end, shard in self._seen
        ]
        since = functools.partial(devices[0].seconds_between, first[devices[0].name])
        self.transfers = [
            Transfer(one.of, one.what, since(one.begin), since(one.wait), since(one.end))
            for one in self._begun.values()
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
        shards = self._network.graph.shards
        if shards is not None and shards.wires is None and phase == "exchange":
            # A process alone only adds its shards, and then updates all parameters at once.
            phase, name = "update", "all layers" if work == shards.finish else name
        self._open = (self._names.get(name, name), phase, device.moment())
        work(*args)
        self._close(device)

    def _close(self, device: Device) -> None:
        """End the span that goes on."""
        (name, phase, begin), shards = self._open, self._network.graph.shards
        shard = None
        if shards is not None and phase != "update":
            shard = shards.share.own[shards.pushed]
        self._seen.append((name, phase, device.name, device, begin, device.moment(), shard))

    # -- exchanges with other ranks, which have one device each --

    @contextlib.contextmanager
    def _watched_wires(self) -> Iterator[None]:
        shards = self._network.graph.shards
        if shards is None or shards.wires is None:
            yield
            return
        wires, watched = shards.wires, _WatchedWires(shards.wires, self)
        shards.wires = cast(Wires, watched)
        try:
            yield
        finally:
            shards.wires = wires

    def begin_transfer(self, what: str, begin: Callable[..., Any], *args: Any) -> Any:
        """Begin a transfer, and return it."""
        transfer = begin(*args)
        self._begun[id(transfer)] = _Begun(transfer, what, self._network.devices[0].moment())
        return transfer

    def wait_for(self, transfer: Any, wait: Callable[[Any], None]) -> None:
        """Wait for a transfer, between two spans."""
        device, begun = self._network.devices[0], self._begun[id(transfer)]
        begun.of, begun.what = self._described(begun)
        self._close(device)
        begun.wait = device.moment()
        wait(transfer)
        begun.end = device.moment()
        layer, phase, _ = self._open
        if phase in ("exchange", "update"):  # of what has arrived
            layer, phase = begun.of, "update"
        self._open = layer, phase, begun.end

    def _described(self, begun: _Begun) -> tuple[str, str]:
        """Return what a transfer is of, and what it brings."""
        shards = self._network.graph.shards
        assert shards is not None
        for factors in shards.factors.values():
            if factors.transfer is begun.transfer:
                return self._names[factors.layer.name], "factors"
        for number, bucket in enumerate(shards.buckets, 1):
            if bucket.transfer is begun.transfer:
                return f"bucket {number}", begun.what
        return ("losses", "check") if begun.what == "check" else (self._open[0], "activations")

    # -- copies between devices --

    def _add_copies(self, copy: Layer, device: Device, back: bool) -> None:
        """The parts of a copy have been timed by the copy itself."""
        source = copy.inputs[0]
        ends = [source.device.name, copy.device.name]
        lane = " to ".join(reversed(ends) if back else ends)
        for measured_on, begin, end in copy.last_copies(back):
            self._seen.append(
                (self._names[source.name], "copy", lane, measured_on or device, begin, end, None)
            )


class _WatchedWires:
    """The wires of a network that is traced."""

    def __init__(self, wires: Wires, tracer: Tracer) -> None:
        self._wires, self._tracer = wires, tracer

    def __getattr__(self, name: str) -> Any:
        own, what = getattr(self._wires, name), _EXCHANGED.get(name)
        return own if what is None else functools.partial(self._tracer.begin_transfer, what, own)

    def wait(self, transfer: Any) -> None:
        self._tracer.wait_for(transfer, self._wires.wait)


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
    shards = network.graph.shards
    return Record(
        net=network.spec.name,
        batch=network.batch * (1 if shards is None else shards.share.count),
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
