"""The launches of a training step: every operation of a network is called under the counting emulator."""

from __future__ import annotations

import copy
import fnmatch
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cconvnet.bench.cost import work
from cconvnet.bench.roofline import Recorder
from cconvnet.devices import Device, get_device
from cconvnet.devices.counting import Launch, counting, counting_module
from cconvnet.devices.device import used_multiprocessors
from cconvnet.formats.netfiles import AnyNet
from cconvnet.formats.networks import build_spec
from cconvnet.nets import DATA
from cconvnet.network import Network
from cconvnet.network.synthetic import Training
from cconvnet.operations import OPERATIONS, workspace_size


@dataclass
class Called:
    """A call of an operation, or several that are the same.

    Attributes:
        layer: The layer, or layers computed together, joined by "+".
        part: The pass; see cconvnet.bench.roofline.Call.
        operation: The function of kernels/api.h.
        problem: Its problem or problems in words.
        row: The row of its selection table; empty without a table.
        runner_up: The row that would be next; empty if there is none.
        flops: Floating-point operations that are needed.
        bytes: Bytes that must be moved.
        beside: Whether it runs beside the calls after it; see Device.beside.
        multiprocessors: Those that its kernels use if others are left to another branch; 0: all.
        launches: Its launches.
        runner_up_launches: The launches with the runner-up.
    """

    layer: str
    part: str
    operation: str
    problem: str
    row: str
    runner_up: str
    flops: int
    bytes: int
    beside: bool = False
    multiprocessors: int = 0
    launches: Sequence[Launch] = ()
    runner_up_launches: Sequence[Launch] = field(default=(), repr=False)


# Calls a function with the module that counts, for so many multiprocessors or all, and returns the launches.
Observe = Callable[[Callable[[Any], None], int], list[Launch]]


def observer(blocks: int, multiprocessors: int) -> Observe:
    """Return what counts the launches of a call in the counting emulator.

    Args:
        blocks: The blocks of each launch that run, spread evenly over the grid.
        multiprocessors: Those of the GPU, each of which has a block of a persistent kernel.

    Raises:
        DeviceUnavailable: The counting emulator was not built.
    """
    counting_module()
    emulator = get_device("emulator:0")

    def observe(call: Callable[[Any], None], used: int) -> list[Launch]:
        with counting(blocks, races=False, multiprocessors=used or multiprocessors) as record:
            call(emulator.module)
        return record.launches

    return observe


class Walker(Recorder):
    """Stand-in for a device's module which counts the launches of each operation.

    A step through it runs nothing: operations are noted, and counted afterwards.

    Args:
        observe: Runs a call and returns its launches; None: nothing is run.
        layer: Patterns of the layers that are called, separated by commas; empty: all.
        part: Patterns of passes.
        impl: The row that serves the operations that have it; empty: the chosen one.
        runners_up: Whether the rows that would be next run too.
        multiprocessors: Those of the GPU.

    Attributes:
        found: The calls, in order.
        layers: The names of all layers with operations, in order.
    """

    def __init__(
        self,
        observe: Observe | None,
        layer: str = "",
        part: str = "",
        impl: str = "",
        runners_up: bool = True,
        multiprocessors: int = 0,
    ) -> None:
        super().__init__()
        self._observe = observe
        self._layers, self._parts, self._impl = layer, part, impl
        self._runners_up, self._multiprocessors = runners_up, multiprocessors
        self._beside, self._used = False, 0
        self._waiting: list[Callable[[], None]] = []
        self._known: dict[Any, list[Launch]] = {}
        self._needed_now = 1.0
        self.found: list[Called] = []
        self.layers: dict[str, None] = {}

    @property
    def counts(self) -> bool:
        """Return whether launches are counted."""
        return self._observe is not None

    def device(self, original: Device) -> Device:
        """Return a device whose operations are noted, with branches as on a GPU."""
        device = super().device(original)

        def beside(work: Callable[[], None]) -> None:
            self._beside = True
            work()
            self._beside = False

        def use(share: float) -> None:
            self._used = used_multiprocessors(self._multiprocessors, share)

        device.runs_beside = os.environ.get("CCONVNET_BESIDE") != "off"
        device.beside, device.use = beside, use  # type: ignore[method-assign]
        device.join = functools.partial(use, 1.0)  # type: ignore[method-assign]
        return device

    def at(self, layer: str, phase: str, needed: float) -> None:
        """Set the layer and the phase of the calls that follow, and the needed share of their products."""
        self._layer, self.phase, self._needed_now = layer, phase, needed

    def call(self, device: Device, module: Any, operation: str, arguments: tuple[Any, ...], rest: Any) -> Any:
        """Note an operation, whose launches count() then counts."""
        if operation not in OPERATIONS:
            return getattr(module, operation)(*arguments, **rest)
        if not self.recording:
            return None
        wholes = (whole for array in arguments for whole in (array, getattr(array, "base", None)))
        owners = (self._owners[id(whole)] for whole in wholes if id(whole) in self._owners)
        layer = self._layer or next(owners, DATA)
        part = self._part(operation, rest)
        self.layers[layer] = None
        if not (matches(self._layers, [layer, *layer.split("+")]) and matches(self._parts, part.split("+"))):
            return None
        impls = getattr(module, f"{operation}_impls", None)
        rows = [] if impls is None else impls(arguments[0])
        row = self._impl if self._impl in rows else (rows[0] if rows else "")
        others = [name for name in rows if name != row]
        least = work(operation, arguments, rest)
        called = Called(
            layer=layer,
            part=part,
            operation=operation,
            problem=", ".join(map(repr, arguments[: len(OPERATIONS[operation].problem_types)])),
            row=row,
            runner_up=others[0] if others else "",
            flops=round(least.flops * self._needed.get(id(arguments[0]), self._needed_now)),
            bytes=least.bytes,
            beside=self._beside,
            multiprocessors=self._used,
        )
        self.found.append(called)
        chosen = row if row and row == self._impl else None

        def count() -> None:
            called.launches = self._launches(module, called, arguments, rest, chosen)
            if operation == "watch_losses":
                arguments[1][...] = 0  # losses of blocks that did not run must not halt the updates
            if called.runner_up and self._runners_up:
                called.runner_up_launches = self._launches(module, called, arguments, rest, called.runner_up)

        self._waiting.append(count)
        return None

    def count(self, stepped: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Count the launches of all operations, once for each problem.

        Args:
            stepped: Called with the number of operations done and that of all.
        """
        if self._observe is None:
            return
        for done, count in enumerate(self._waiting):
            stepped(done, len(self._waiting))
            count()

    def _launches(
        self,
        module: Any,
        called: Called,
        arguments: tuple[Any, ...],
        rest: Mapping[str, Any],
        impl: str | None,
    ) -> list[Launch]:
        """Return the launches of a call; `impl` names a row of the table if it is not the first choice."""
        operation, used = called.operation, called.multiprocessors
        described = OPERATIONS[operation]
        problems, values = described.bind(arguments, rest)
        forms = ((name, _form(one)) for name, one in values.items())
        key = (operation, impl, used, *map(repr, problems), *forms)
        if key not in self._known:
            positions = list(arguments)
            if impl is not None:
                values["impl"] = impl
                sums = described.asks_for_sums(values)
                needed = workspace_size(module, operation, problems, impl, sums=sums)
                values["workspace"] = np.zeros(needed, np.uint8) if needed else None
                names = described.positions[: described.positions.index("impl") + 1]
                positions = [*problems, *(values.pop(name) for name in names)]
                rest = values
            assert self._observe is not None
            self._known[key] = self._observe(
                lambda counts: getattr(counts, operation)(*positions, **rest), used
            )
        return self._known[key]


def matches(patterns: str, names: Sequence[str]) -> bool:
    """Return whether one of several patterns, separated by commas, matches one of some names."""
    return not patterns or any(
        fnmatch.fnmatchcase(name, pattern.strip()) for pattern in patterns.split(",") for name in names
    )


def _form(value: Any) -> Any:
    """Return what of an argument decides about the launches."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return tuple(map(_form, value))
    shape = getattr(value, "shape", None)
    # Arrays count by shape, type and alignment.
    return repr(value) if shape is None else (shape, str(value.dtype), value.ctypes.data % 256)


def walk(net: AnyNet, batch: int | None, precision: str, size: int | None, walker: Walker) -> tuple[str, int]:
    """Walk through a training step of a network on the emulator; the walker then has its operations.

    Args:
        net: A network, or its name or file.
        batch: Images in a batch; None: the network's own.
        precision: One of cconvnet.devices.PRECISIONS.
        size: Height and width of the images; None: the network's own.
        walker: Called in place of the emulator.

    Returns:
        The network's name and the batch.

    Raises:
        ValueError: The text names the argument.
        DeviceUnavailable: The device was not built.
    """
    emulator = copy.copy(get_device("emulator:0"))
    if walker.counts:
        # Rows and workspaces are those of the kernels that are counted, if the two builds are not of one age.
        emulator.module = counting_module()
    device = walker.device(emulator)
    # What no block writes must be a number: some kernels treat others apart.
    device.empty = device.zeros  # type: ignore[method-assign]
    spec, batch = build_spec(net, batch, precision, size)
    network = Network(spec, batch=batch, devices=[device], precision=precision, needs=None)
    walker.watch(network)
    training = Training(network)
    walker.recording = True
    training.step()
    return spec.name, batch
