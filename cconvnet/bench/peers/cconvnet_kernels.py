"""Our side of a comparison of kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cconvnet.bench import peaks
from cconvnet.bench.cases import Case
from cconvnet.bench.cost import Work, work
from cconvnet.bench.peers.side import Plan, Refused, Replay, Side
from cconvnet.bench.tiles import Tiled, Tiles, count_bad
from cconvnet.bench.timing import GRAPH, Clock
from cconvnet.bfloat16 import BITS, pack
from cconvnet.devices import Device, get_device, machine
from cconvnet.devices.proofs import unproven_rows
from cconvnet.operations import OPERATIONS, workspace_size
from cconvnet.testing.check import TRANSFORMING, impls

Array = np.ndarray[Any, Any]

_NAN = int(pack(math.nan))


class _Plan(Plan):
    def __init__(self, device: Device, case: Case, impl: str | None, tiles: Tiles) -> None:
        self._device, self._case, self._tiles = device, case, tiles
        self._spec = OPERATIONS[case.operation]
        self._arrays: dict[str, Any] = {}
        self._arguments: list[Any] = []
        self._keywords: dict[str, Any] = {}
        self._forced = [impl] if self._spec.has_impls else []
        self.name = case.operation
        if self._spec.has_impls:
            served = impls(case.operation, case.problem, device)
            unproven = unproven_rows(device.module)
            if impl is not None and impl not in served:
                names = (f"{row} (unproven)" if row in unproven else str(row) for row in served)
                raise Refused(f"{impl} does not serve it; there are {', '.join(names)}")
            self.name = impl or str(served[0])
            self.unproven = self.name in unproven
            self.transforms = self.name in TRANSFORMING

    def load(self, inputs: dict[str, Any]) -> None:
        device, case, spec = self._device, self._case, self._spec
        kept = {
            name: pack(value) if value.dtype == np.float32 and case.dtype(name) == BITS else value
            for name, value in inputs.items()
            if isinstance(value, np.ndarray)
        }
        tiled = {name: value for name, value in inputs.items() if isinstance(value, Tiled)}
        problems = spec.problems(case.problem)
        forward = f"{case.operation.removesuffix('_backward')}_forward" if _needs_forward(case) else ""
        if not self._arrays:
            self._arrays = {name: device.array(value) for name, value in kept.items()}
            self._arrays |= {
                name: device.empty(value.shape, case.dtype(name)) for name, value in tiled.items()
            }
            if forward:
                self._arrays["y"] = device.empty(problems[-1].y_shape, case.dtype("y"))
            for name, shape in case.outputs.items():
                if name not in inputs:
                    dtype = case.dtype(name)
                    self._arrays[name] = device.empty(shape, dtype)
            self._arguments = self._call_arguments(inputs)
        for name, value in kept.items():
            device.fill(self._arrays[name], value)
        for name in tiled:
            self._tiles.fill(self._arrays[name])
        with device:
            for name in case.outputs.keys() - inputs.keys():
                array = self._arrays[name]
                array.fill({np.dtype(np.int32): -1, np.dtype(BITS): _NAN}.get(array.dtype, math.nan))
            if forward:
                arguments = (self._arrays["x"], self._arrays["y"], device.stream)
                getattr(device.module, forward)(*problems, *arguments)

    def _call_arguments(self, inputs: dict[str, Any]) -> list[Any]:
        device, case, spec = self._device, self._case, self._spec
        names = list(inputs)
        if _needs_forward(case):
            names.insert(1, "y")
        arguments = list(spec.problems(case.problem))
        arguments += [self._arrays.get(name, inputs.get(name)) for name in names]
        outputs = [name for name in case.outputs if name not in (*inputs, *spec.keywords)]
        arguments += [self._arrays[name] for name in outputs]
        if spec.has_workspace:
            size = workspace_size(device.module, case.operation, case.problem, *self._forced)
            arguments.append(device.empty(size, np.uint8) if size else None)
        self._keywords = {name: self._arrays[name] for name in spec.keywords if name in self._arrays}
        return [*arguments, device.stream, *self._forced]

    def call(self) -> None:
        with self._device:
            getattr(self._device.module, self._case.operation)(*self._arguments, **self._keywords)

    def results(self) -> dict[str, Array]:
        return {
            name: self._device.host(self._arrays[name]).reshape(shape)
            for name, shape in self._case.outputs.items()
        }

    def bad(self) -> dict[str, tuple[int, int]]:
        with self._device as device:
            arrays = {name: self._arrays[name] for name in self._case.outputs}
            return {name: (count_bad(device.xp, array), array.size) for name, array in arrays.items()}

    @property
    def work(self) -> Work:
        least = work(self._case.operation, self._arguments, self._keywords)
        return Work(round(least.flops * self._case.needed), least.bytes)


def _needs_forward(case: Case) -> bool:
    """Return whether it reads the y of its own forward pass."""
    return case.operation in ("maxpool_backward", "lrn_maxpool_backward")


class Ours(Side):
    """Our kernels, on any of our devices.

    Args:
        device: The name of the device.
        precision: One of cconvnet.devices.PRECISIONS.
        impl: A row of the selection tables to force where there is a table; None: the selected one.
        verify: The check of results; see Side.
    """

    strict = True

    def __init__(
        self, device: str, precision: str, impl: str | None = None, verify: str | None = None
    ) -> None:
        super().__init__(device, precision, verify)
        self._device, self._impl = get_device(device), impl
        self._clock = Clock(self._device)
        self._tiles = Tiles(self._device)

    def plans(self, case: Case) -> Sequence[Plan]:
        """Return the one plan of a case."""
        return [_Plan(self._device, case, self._impl, self._tiles)]

    def seconds(self, plan: Plan, count: int) -> list[float]:
        """Return the device's time of each call."""
        return self._clock.seconds(plan.call, count)

    def captured(self, plan: Plan) -> tuple[Plan, str]:
        """Capture a plan's work in a graph, where the device can."""
        replay, how = self._clock.captured(plan.call)
        return (Replay(plan, replay) if how == GRAPH else plan), how

    def launch_seconds(self, plan: Plan, count: int) -> list[float]:
        """Return the host's time of each call."""
        return self._clock.launch_seconds(plan.call, count)

    def serves(self, precision: str) -> bool:
        """Return whether the device computes in a precision."""
        return self._device.serves(precision)

    def machine(self) -> dict[str, Any]:
        """Describe the machine for results."""
        return {"machine": machine.describe(self._device)}

    def synchronize(self) -> None:
        """Wait for the device."""
        self._device.synchronize()

    def about(self) -> dict[str, Any]:
        """Describe the caches' state when a call begins."""
        return {"caches": self._clock.caches}

    def work(self) -> dict[str, int]:
        """Return the least work of the prepared case; see cconvnet.bench.cost."""
        (plan,) = self._kept.values()
        if isinstance(plan, Replay):
            plan = plan.plan
        assert isinstance(plan, _Plan)
        return {"flops": plan.work.flops, "bytes": plan.work.bytes}

    def ceilings(self) -> dict[str, float]:
        """Measure the device's peaks."""
        return peaks.measure(self._device, self.precision).to_dict()
