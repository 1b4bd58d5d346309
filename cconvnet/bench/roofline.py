"""Time of each operation in a training step, and its distance from the device's limits."""

from __future__ import annotations

import copy
import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cconvnet.bench.cost import Work, work
from cconvnet.bench.peaks import Peaks, measure
from cconvnet.bench.timing import summary
from cconvnet.devices import Device, devices_of, machine
from cconvnet.formats.netfiles import AnyNet
from cconvnet.formats.networks import build_spec
from cconvnet.layers import Layer
from cconvnet.nets import DATA
from cconvnet.network import Network
from cconvnet.network.synthetic import Training, check_counts

CACHES = "as in a step: as the call before left them"
FURTHEST = 5

# Functions of the module that compute nothing.
_QUERIES = ("_workspace", "_impls", "build_kind", "build_info")


@dataclass
class Call:
    """One call of an operation within a step.

    Attributes:
        layer: The layer it belongs to, or layers that are computed together, joined by "+".
        device: The device on which it ran.
        part: "fprop", "dgrad", "wgrad" of a product, "wgrad+update" if it also updates the weights; else
            "forward", "backward" or "update".
        operation: The function of kernels/api.h.
        kernel: The row of its selection table, if it has several.
        seconds: The time it took; None until the device has reported it.
    """

    layer: str
    device: str
    part: str
    operation: str
    kernel: str
    work: Work
    seconds: float | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """Return the layer, device, pass, operation and kernel."""
        return self.layer, self.device, self.part, self.operation, self.kernel


# Operations that belong to the update wherever they are called: those that follow a gradient or forbid it.
_UPDATES = ("sgd_update", "lars_rate", "limit_norm", "to_bf16", "tree_sum", "watch_losses")


class Recorder:
    """Stand-in for the modules of devices, which records every operation of a network's steps.

    Copies between devices are not recorded: they run beside other work. A recorded step is not replayed as a
    whole but called operation by operation.

    Args:
        clock: Returns seconds off the GPU, where a call returns when its work is done. On a GPU every call is
            enclosed by two events on the device's stream.

    Attributes:
        recording: Whether calls are recorded; otherwise they only pass through.
        phase: The phase of the step, "forward" or "backward".
        calls: The recorded calls, in order.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.recording = False
        self.phase = "forward"
        self.calls: list[Call] = []
        self._layer: str | None = None
        # The layer of each array, for operations that the network runs outside its layers.
        self._owners: dict[int, str] = {}
        # The share of a problem's operations that is needed: blocks of pixels add products with zeros.
        self._needed: dict[int, float] = {}
        self._events: list[tuple[Call, Any, Any, Any]] = []

    def device(self, original: Device) -> Device:
        """Return a device like the original one whose operations are recorded."""
        device = copy.copy(original)
        device.module = _Module(original.module, self, device)

        def captured(work: Callable[[], None]) -> Callable[[], None]:
            replay: Callable[[], None] | None = None

            def run() -> None:
                nonlocal replay
                if self.recording:
                    work()
                else:
                    replay = replay or original.captured(work)
                    replay()

            return run

        def beside(work: Callable[[], None]) -> None:
            if self.recording:
                work()  # each operation is timed alone
            else:
                type(original).beside(device, work)

        def use(share: float) -> None:
            if not self.recording:
                type(original).use(device, share)

        device.captured = captured  # type: ignore[method-assign]
        device.beside, device.use = beside, use  # type: ignore[method-assign]
        return device

    def watch(self, network: Network) -> None:
        """Find out from now on to which of the network's layers a call belongs.

        Raises:
            ValueError: Its devices are not all this recorder's.
        """
        for device in network.devices:
            if not isinstance(device.module, _Module):
                raise ValueError(f"{device.name} is not recorded")
        labels: dict[str, str] = {}
        for layer in network.layers:
            label = label_of(layer)
            labels |= dict.fromkeys(layer.names, label)
            for phase in ("forward", "backward"):
                method = functools.partial(self._within, label, phase, getattr(layer, phase))
                setattr(layer, phase, method)
            if layer.output.gradient is not None:
                self._owners[id(layer.output.gradient)] = label
            if layer.cost is not None:
                self._owners[id(layer.cost.losses)] = label
            for branch in getattr(layer, "branches", ()):
                if (blocks := branch.blocks) is not None:
                    filters = blocks.problem
                    needed = math.prod(filters.w_shape) / math.prod(filters.blocks_shape)
                    self._needed[id(branch.problem)] = needed
        for parameter in network.parameters.values():
            for piece in parameter.pieces:
                self._owners[id(piece.value)] = labels[parameter.layer]
        if len(network.graph.costs) > 1:
            self._owners[id(network.graph.losses)] = labels[network.graph.cost.name]
        # Joined biases move behind the backward pass of the first layer.
        for group in network.graph.updates.groups if network.graph.updates is not None else ():
            self._owners[id(group.value)] = labels[group.parameters[0].layer]

    def _within(self, label: str, phase: str, method: Callable[..., None], *arguments: Any) -> None:
        outer, self._layer, self.phase = self._layer, label, phase
        try:
            method(*arguments)
        finally:
            self._layer = outer

    def call(self, device: Device, module: Any, operation: str, arguments: tuple[Any, ...], rest: Any) -> Any:
        """Call an operation and record it."""
        function = getattr(module, operation)
        if not self.recording:
            return function(*arguments, **rest)
        # Some pointers are inside arrays.
        wholes = (whole for array in arguments for whole in (array, getattr(array, "base", None)))
        owners = (self._owners[id(whole)] for whole in wholes if id(whole) in self._owners)
        impls = getattr(module, f"{operation}_impls", None)
        least = work(operation, arguments, rest)
        noted = Call(
            layer=self._layer or next(owners, DATA),
            device=device.name,
            part=self._part(operation, rest),
            operation=operation,
            kernel=operation if impls is None else impls(arguments[0])[0],
            work=Work(round(least.flops * self._needed.get(id(arguments[0]), 1.0)), least.bytes),
        )
        self.calls.append(noted)
        if device.kind == "cuda":
            with device:
                cuda = device.xp.cuda
                stream = cuda.ExternalStream(device.stream)
                begin, end = cuda.Event(), cuda.Event()
                begin.record(stream)
                result = function(*arguments, **rest)
                end.record(stream)
            self._events.append((noted, device, begin, end))
            return result
        start = self._clock()
        result = function(*arguments, **rest)
        noted.seconds = self._clock() - start
        return result

    def _part(self, operation: str, keywords: Mapping[str, Any]) -> str:
        name = operation.rpartition("_")[2]
        if operation in _UPDATES:
            return "update"
        if name == "wgrad" and keywords.get("update") is not None:
            return "wgrad+update"
        return name if name in ("fprop", "dgrad", "wgrad") else self.phase

    def take(self) -> list[Call]:
        """Return the calls recorded since the last time, once the devices have finished them."""
        for call, device, begin, end in self._events:
            end.synchronize()
            call.seconds = device.xp.cuda.get_elapsed_time(begin, end) / 1e3
        self._events.clear()
        calls, self.calls = self.calls, []
        return calls


class _Module:
    """A device's module that passes every call of an operation to the recorder."""

    def __init__(self, module: Any, recorder: Recorder, device: Device) -> None:
        self._module, self._recorder, self._device = module, recorder, device

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if name.endswith(_QUERIES) or name == "copy" or not callable(value):
            return value

        def call(*arguments: Any, **rest: Any) -> Any:
            return self._recorder.call(self._device, self._module, name, arguments, rest)

        self.__dict__[name] = call  # later look-ups find it there
        return call


class _HeadStart:
    """Work that keeps a GPU busy while the host launches the calls of a step.

    Without it a call that is shorter than its launch would be timed together with the wait for it.
    """

    _BYTES = 1 << 28

    def __init__(self, devices: list[Device], bytes_per_second: float) -> None:
        self._buffers = [(d, d.empty(self._BYTES // 4)) for d in devices if d.kind == "cuda"]
        self._seconds = self._BYTES / bytes_per_second

    def give(self, seconds: float) -> None:
        for device, buffer in self._buffers:
            with device:
                for _ in range(math.ceil(min(seconds, 0.2) / self._seconds)):
                    buffer.fill(0.0)


def label_of(layer: Layer) -> str:
    """Return the name of a layer in rows: the names of all the layers it computes."""
    return "+".join(layer.names)


def roofline(
    net: AnyNet,
    *,
    devices: list[str] | None = None,
    batch: int | None = None,
    precision: str | None = None,
    size: int | None = None,
    places: Mapping[str, int | str] | None = None,
    steps: int = 10,
    warmup: int = 2,
    peaks: Peaks | None = None,
    clock: Callable[[], float] = time.perf_counter,
    stepped: Callable[[int], None] = lambda done: None,
    found: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Time every operation within real training steps, and compare each with its floor.

    The floor is the longer of the operation's arithmetic at the device's matrix rate and its traffic at the
    device's copy rate. Recorded steps take turns with steps without the recorder, whose time is the step's.
    On one GPU the latter are replayed as one launch.

    Args:
        net: A network, or its name or file; see cconvnet.formats.netfiles.resolve.
        devices: Names of the devices; None: the default device.
        batch: Images in a batch; None: the network's own.
        precision: One of cconvnet.devices.PRECISIONS; None: fp32.
        size: Height and width of the images; None: the network's own.
        places: Layers and the devices on which they are placed; see cconvnet.nets.place.
        steps: Steps of either kind.
        warmup: Untimed steps before them.
        peaks: The device's peaks; None: they are measured now. Those of the first device are used for all.
        clock: See Recorder.
        stepped: Called after each step with the number of finished steps, of `warmup` + 2 `steps`.
        found: Called with the result so far after each pair of timed steps.

    Returns:
        ``ceilings``, the peaks. ``rows`` in the order of a step, one for each layer, device, pass and
        operation, with ``calls`` in a step, ``flops``, ``bytes``, ``floor_seconds``, the median ``seconds``
        of these calls together, ``share`` (floor over time), ``lost_seconds`` (time less floor),
        ``flops_per_second`` and ``bytes_per_second``. ``step`` with the whole step's ``seconds`` and
        ``floor_seconds``, the rows' ``recorded_seconds``, and the ``rest_seconds`` that no operation accounts
        for: loading and the host's own work. On several devices, which work at once, the rest may be below 0.
        ``furthest``: the layers with the largest ``lost_seconds``, the largest first.

    Raises:
        ValueError: The text names the argument.
    """
    check_counts(steps, warmup)
    used = devices_of(devices)
    # By a name get_device would find the original device, not the recorded one.
    numbers = {device.name: index for index, device in enumerate(used)}
    indices = {name: numbers.get(str(where), where) for name, where in (places or {}).items()}
    spec, batch = build_spec(net, batch, precision, size, indices)
    precision = precision or "fp32"
    recorder = Recorder(clock)
    network = Network(
        spec,
        batch=batch,
        devices=[recorder.device(device) for device in used],
        precision=precision,
    )
    recorder.watch(network)
    limits = peaks or measure(used[0], precision)
    result: dict[str, Any] = {
        "what": "roofline",
        "machine": machine.describe(used[0]),
        "net": spec.name,
        "batch": network.batch,
        "precision": precision,
        "image": list(spec.stored_shape),
        "device": ",".join(device.name for device in used),
        "caches": CACHES,
        "ceilings": limits.to_dict(),
        "rows": [],
    }
    training = Training(network)
    head_start = _HeadStart(used, limits.bytes_per_second)

    def step(recording: bool) -> float:
        def begins(phase: str) -> None:
            recorder.phase = "forward"
            if recording and phase == "train":
                head_start.give(2 * statistics.median(whole or [0.1]))

        recorder.recording = recording
        begin = clock()
        training.step(begins)
        return clock() - begin

    whole: list[float] = []
    recorded: list[list[Call]] = []
    for index in range(warmup):
        step(recording=False)
        stepped(index + 1)
    for index in range(steps):
        whole.append(step(recording=False))
        stepped(warmup + 2 * index + 1)
        step(recording=True)
        recorded.append(recorder.take())
        stepped(warmup + 2 * index + 2)
        types = {label_of(layer): layer.type for layer in network.layers} | {DATA: DATA}
        result["rows"] = rows(recorded, limits, types)
        result |= totals(result["rows"], whole)
        found(result)
    return result


def rows(steps: list[list[Call]], peaks: Peaks, types: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return one row for each layer, device, pass and operation of these steps.

    All steps made the same calls.
    """
    groups: dict[tuple[str, ...], list[Call]] = {}
    for call in steps[0]:
        groups.setdefault(call.key, []).append(call)
    times: dict[tuple[str, ...], list[float]] = {}
    for calls in steps:
        own = dict.fromkeys(groups, 0.0)
        for call in calls:
            assert call.seconds is not None
            own[call.key] += call.seconds
        for key, seconds in own.items():
            times.setdefault(key, []).append(seconds)
    found = []
    for key, calls in groups.items():
        first, total = calls[0], sum((call.work for call in calls), Work(0, 0))
        # These calls run one after the other, so their floors add up.
        floor = sum(peaks.floor(call.work) for call in calls)
        timed = summary(times[key])
        seconds = max(timed["seconds"], 1e-12)
        found.append(
            {
                "layer": first.layer,
                "type": types[first.layer],
                "device": first.device,
                "pass": first.part,
                "operation": first.operation,
                "kernel": first.kernel,
                "flops": total.flops,
                "bytes": total.bytes,
                "floor_seconds": floor,
                **timed,
                "calls": len(calls),
                "share": floor / seconds,
                "lost_seconds": seconds - floor,
                "flops_per_second": total.flops / seconds,
                "bytes_per_second": total.bytes / seconds,
            }
        )
    return found


def totals(rows: list[dict[str, Any]], whole: list[float]) -> dict[str, Any]:
    """Return ``step`` and ``furthest`` of a result with these rows and times of whole steps."""
    seconds = max(statistics.median(whole), 1e-12)
    recorded = sum(row["seconds"] for row in rows)
    floor = sum(row["floor_seconds"] for row in rows)
    layers: dict[str, dict[str, Any]] = {}
    for row in rows:
        own = layers.setdefault(row["layer"], {"layer": row["layer"], "seconds": 0.0, "floor_seconds": 0.0})
        own["seconds"] += row["seconds"]
        own["floor_seconds"] += row["floor_seconds"]
    for own in layers.values():
        own["share"] = own["floor_seconds"] / max(own["seconds"], 1e-12)
        own["lost_seconds"] = own["seconds"] - own["floor_seconds"]
    return {
        "step": {
            **summary(whole),
            "recorded_seconds": recorded,
            "rest_seconds": seconds - recorded,
            "floor_seconds": floor,
            "share": floor / seconds,
        },
        "furthest": sorted(layers.values(), key=lambda own: -float(own["lost_seconds"]))[:FURTHEST],
    }


# ---- for people ------------------------------------------------------------------------------------------


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table of the result of :func:`roofline`."""
    several = len({row["device"] for row in result["rows"]}) > 1
    header = ["layer", *(["device"] if several else []), "pass", "operation", "kernel"]
    header += ["GFLOP", "MB", "floor us", "time us", "share", "lost us"]
    lines = [
        [
            row["layer"],
            *([row["device"]] if several else []),
            row["pass"],
            row["operation"],
            row["kernel"] if row["kernel"] != row["operation"] else "",
            f"{row['flops'] / 1e9:,.3f}" if row["flops"] else "",
            f"{row['bytes'] / 1e6:,.2f}",
            f"{1e6 * row['floor_seconds']:,.1f}",
            f"{1e6 * row['seconds']:,.1f}",
            f"{row['share']:.1%}",
            f"{1e6 * row['lost_seconds']:,.1f}",
        ]
        for row in result["rows"]
    ]
    return header, lines


def verdict(result: Mapping[str, Any]) -> list[str]:
    """Return the conclusions of the table: the peaks, the whole step, and the layers that lose the most."""
    whole = result["step"]
    furthest = ", ".join(
        f"{own['layer']} ({1e3 * own['lost_seconds']:,.2f} ms lost, {own['share']:.0%} of its floor reached)"
        for own in result["furthest"]
    )
    return [
        f"limits, measured: {Peaks(**result['ceilings'])}; caches: {result['caches']}",
        f"step: {1e3 * whole['seconds']:,.2f} ms, its floor {1e3 * whole['floor_seconds']:,.2f} ms, "
        f"{whole['share']:.1%} of it reached; operations {1e3 * whole['recorded_seconds']:,.2f} ms, "
        f"the rest (loading, the host) {1e3 * whole['rest_seconds']:,.2f} ms",
        f"furthest from their floor: {furthest}",
    ]
