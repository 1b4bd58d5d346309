"""Our side of a comparison of kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cconvnet.backends import Device, get_device
from cconvnet.bench import ceilings
from cconvnet.bench.rows import Row
from cconvnet.bench.sides import Plan, Refused, Side
from cconvnet.bench.timing import Clock
from cconvnet.bench.work import Work, work
from cconvnet.testing.check import OPERATIONS, impls

Array = np.ndarray[Any, Any]


class _Plan(Plan):
    def __init__(self, device: Device, row: Row, impl: str | None) -> None:
        self._device, self._row = device, row
        self._spec = OPERATIONS[row.operation]
        self._arrays: dict[str, Any] = {}
        self._arguments: list[Any] = []
        self._forced = [impl] if self._spec.has_impls else []
        self.name = row.operation
        if self._spec.has_impls:
            served = impls(row.operation, row.problem, device)
            if impl is not None and impl not in served:
                raise Refused(f"{impl} does not serve it; there are {', '.join(map(str, served))}")
            self.name = impl or str(served[0])

    def load(self, inputs: dict[str, Any]) -> None:
        device, row, spec = self._device, self._row, self._spec
        outputs = spec.outputs(row.problem)
        if not self._arrays:
            for name, value in inputs.items():
                if isinstance(value, np.ndarray):
                    self._arrays[name] = device.array(value)
            if row.operation == "maxpool_backward":
                self._arrays["y"] = device.empty(row.problem.y_shape)
            for name, shape in outputs.items():
                if name not in inputs:
                    self._arrays[name] = device.empty(shape, np.int32 if name == "rank" else np.float32)
            self._arguments = self._call_arguments(inputs)
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                device.fill(self._arrays[name], value)
        with device:
            for name in outputs.keys() - inputs.keys():
                self._arrays[name].fill(-1 if name == "rank" else math.nan)
            if row.operation == "maxpool_backward":
                device.module.maxpool_forward(
                    row.problem, self._arrays["x"], self._arrays["y"], device.stream
                )

    def _call_arguments(self, inputs: dict[str, Any]) -> list[Any]:
        device, row, spec = self._device, self._row, self._spec
        names = list(inputs)
        if row.operation == "maxpool_backward":
            names.insert(1, "y")
        arguments = [row.problem] if spec.has_problem else []
        arguments += [self._arrays.get(name, inputs.get(name)) for name in names]
        arguments += [self._arrays[name] for name in spec.outputs(row.problem) if name not in inputs]
        if spec.has_workspace:
            size = int(getattr(device.module, f"{row.operation}_workspace")(row.problem, *self._forced))
            arguments.append(device.empty(size, np.uint8) if size else None)
        return [*arguments, device.stream, *self._forced]

    def call(self) -> None:
        with self._device:
            getattr(self._device.module, self._row.operation)(*self._arguments)

    def results(self) -> dict[str, Array]:
        return {
            name: self._device.host(self._arrays[name]).reshape(shape)
            for name, shape in self._spec.outputs(self._row.problem).items()
        }

    @property
    def work(self) -> Work:
        return work(self._row.operation, self._arguments)


class Ours(Side):
    """Args:
    impl: a row of the selection tables to force where there is a table; None is what they select.
    """

    strict = True

    def __init__(self, device: str, precision: str, impl: str | None = None) -> None:
        super().__init__(device, precision)
        self._device, self._impl = get_device(device), impl
        self._clock = Clock(self._device)

    def plans(self, row: Row) -> Sequence[Plan]:
        return [_Plan(self._device, row, self._impl)]

    def seconds(self, plan: Plan, count: int) -> list[float]:
        return self._clock.seconds(plan.call, count)

    def about(self) -> dict[str, Any]:
        return {"caches": self._clock.caches}

    def work(self) -> dict[str, int]:
        """How much the prepared row must do at least; see cconvnet.bench.work."""
        (plan,) = self._kept.values()
        assert isinstance(plan, _Plan)
        return {"flops": plan.work.flops, "bytes": plan.work.bytes}

    def ceilings(self) -> dict[str, float]:
        """What this device can do at most."""
        return ceilings.measure(self._device, self.precision).to_dict()
