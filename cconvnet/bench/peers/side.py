"""One side of a comparison of kernels: an object in a process of its own (cconvnet.bench.processes).

A side offers one plan or several for each case, in one column or several; for each column the fastest plan
whose result is right is kept and measured. What a side must bring along is what `Side` leaves open.
"""

from __future__ import annotations

import abc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from cconvnet.bench import verify
from cconvnet.bench.cases import Case, find
from cconvnet.bench.processes import WorkerError
from cconvnet.testing import compare

Array = np.ndarray[Any, Any]


# What is checked of a plan: all of its results, on the host; or that every element was written and is finite,
# where the device can tell. The tests hold the same kernels to the bit; on a GPU a check on the host takes
# minutes for a network.
FULL, FINITE = "full", "finite"
VERIFICATIONS = (FULL, FINITE)
# Calls whose launches are timed.
LAUNCHES = 9


def verify_for(kind: str) -> str:
    """The check on a kind of device unless another is asked for."""
    return FINITE if kind == "cuda" else FULL


class Refused(WorkerError):
    """This side does not compute the case; the text says why."""


class Plan(abc.ABC):
    """One way to compute one case, with the buffers it needs.

    Attributes
        name: of the kernel or the algorithm, as the table shows it.
        columns: those of the side's columns it may stand in.
    """

    name: str
    columns: tuple[str, ...] = ("plan",)

    @abc.abstractmethod
    def load(self, inputs: dict[str, Any]) -> None:
        """Brings inputs to where `call` reads them, and fills the outputs with NaN.

        `inputs` are those of `Case.operation` in cconvnet.operations, by name: host arrays in
        our layouts (x[N,H,W,C], w[K,R,S,C/groups], y[N,P,Q,K]) and numbers; floats, of values that the
        case's arrays hold. An array may be a Tiled, which the plan makes on the device. Backward passes of
        max pooling get no ``y`` but make it with their own forward pass. Plans that share buffers may keep
        what is there when the same object comes again; the outputs are filled all the same.
        """

    @abc.abstractmethod
    def call(self) -> None:
        """Computes once. Nothing else happens here: this is what is timed."""

    @abc.abstractmethod
    def results(self) -> dict[str, Array]:
        """The outputs by name, once all work is done: host arrays in our layouts, bfloat16 as its bits.

        A peer may leave out outputs that it does not compute.
        """

    def bad(self) -> dict[str, tuple[int, int]]:
        """For each output how many elements are not finite, which those not written are not, and of how many.

        A plan on a GPU counts there.
        """
        found = {}
        for name, kept in self.results().items():
            result = compare.values(kept)
            found[name] = int(result.size - np.count_nonzero(np.isfinite(result))), int(result.size)
        return found

    def stands_in(self, column: str) -> bool:
        """True if it may stand in one of the side's columns."""
        return column in self.columns


class Replay(Plan):
    """A plan whose work is started as one captured graph, without its launches."""

    def __init__(self, plan: Plan, replay: Callable[[], Any]) -> None:
        self.plan, self.name, self._replay = plan, plan.name, replay

    def load(self, inputs: dict[str, Any]) -> None:
        self.plan.load(inputs)

    def call(self) -> None:
        self._replay()

    def results(self) -> dict[str, Array]:
        return self.plan.results()


class Side(abc.ABC):
    """Args:
    device: the name of ours, "cuda:0"; a peer computes on the same physical one.
    precision: one of cconvnet.devices.PRECISIONS.
    verify: what is checked of a plan: FULL, FINITE, or None for what `verify_for` says.

    Attributes:
        columns: what is reported of this side, the first first.
        strict: whether it promises what our kernels promise; see verify.check.
        trial_seconds: how long the plans of a case are tried, beyond the first that runs.
    """

    columns: ClassVar[tuple[str, ...]] = ("plan",)
    strict: ClassVar[bool] = False
    trial_seconds: float = math.inf

    def __init__(self, device: str, precision: str, verify: str | None = None) -> None:
        self.device, self.precision = device, precision
        self.verify = verify or verify_for(device.partition(":")[0])
        self._kept: dict[str, Plan] = {}

    def use(self, precision: str) -> None:
        """From the next case on it computes in another precision."""
        self.precision = precision

    # ---- what a side brings along ----

    @abc.abstractmethod
    def plans(self, case: Case) -> Sequence[Plan]:
        """Every way this side has to compute the case.

        Raises Refused if there is none.
        """

    @abc.abstractmethod
    def seconds(self, plan: Plan, count: int) -> list[float]:
        """The time of each of `count` calls of the plan, one after the other."""

    def captured(self, plan: Plan) -> tuple[Plan, str]:
        """On a GPU a Replay of the plan and "graph", or the plan itself and why; elsewhere no reason.

        The plan has been called before with the inputs that are loaded.
        """
        return plan, ""

    def launch_seconds(self, plan: Plan, count: int) -> list[float]:
        """On a GPU the host's time for each of `count` calls that only enqueue their work."""
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        """As JSON values: what a result file says of this side, such as versions and settings."""
        return {}

    def serves(self, precision: str) -> bool:
        """True if it can compute in a precision here."""
        return True

    def machine(self) -> dict[str, Any]:
        """``machine``: what results say of where they were measured; empty if another side says that."""
        return {}

    @property
    def shows_blocks(self) -> bool:
        """True if a first convolution is also computed over blocks of pixels; see cases.cases."""
        return self.device.partition(":")[0] in ("cuda", "emulator")

    def synchronize(self) -> None:  # noqa: B027 - only GPUs are waited for
        """Waits for the device; raises if it cannot be used any more."""

    # ---- what it is asked ----

    def describe(self) -> dict[str, Any]:
        """``columns``, and what `about` says."""
        return {"columns": list(self.columns), **self.about()}

    def prepare(
        self,
        network: str,
        batch: int,
        layer: str,
        operation: str,
        seed: int = 0,
        precision: str | None = None,
    ) -> dict[str, Any]:
        """Makes the plans of a case, checks them, and keeps the fastest right one of each column.

        Args
            precision: of this case and those behind it; None: as before.

        Returns
            ``plans``: for each column ``{"kernel": the plan's name, "seconds": a first time}``, on a GPU also
            ``how`` its work is started when it is timed ("graph", or why there is none), ``launch_seconds``
            (the host's, of one call) and ``called_seconds`` (the device's, of a call without graph);
            ``wrong`` and ``failed``: for plans that were not kept for that, their names and what is the
            matter. Or ``refused``: why there is no plan.
        """
        self.release()
        if precision is not None and precision != self.precision:
            self.use(precision)
        case = find(network, batch, layer, operation, self.precision)
        try:
            plans = list(self.plans(case))
        except Refused as refused:
            return {"plans": {}, "wrong": {}, "failed": {}, "refused": str(refused)}
        if self.verify == FINITE:
            timed = checked = verify.tiled_inputs(case)
        else:
            timed, checked = verify.timed_inputs(case, seed), verify.checked_inputs(case, seed)
        failed: dict[str, str] = {}
        if len(plans) > 1:
            plans = self._fastest_first(plans, timed, failed)
        verdicts: dict[Plan, str] = {}
        for column in self.columns:
            for plan in plans:
                if plan.stands_in(column):
                    if plan not in verdicts:
                        verdicts[plan] = self._wrong(case, plan, checked)
                    if not verdicts[plan]:
                        self._kept[column] = plan
                        break
        wrong = {plan.name: text for plan, text in verdicts.items() if text}
        return {"plans": self._first_times(timed), "wrong": wrong, "failed": failed}

    def _first_times(self, inputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Makes the kept plans ready to be timed, and times them for the first time."""
        found: dict[Plan, tuple[Plan, dict[str, Any]]] = {}
        for plan in dict.fromkeys(self._kept.values()):
            plan.load(inputs)
            self.seconds(plan, 1)
            timed, how = self.captured(plan)
            about: dict[str, Any] = {"kernel": plan.name}
            if how:
                about["how"] = how
                about["launch_seconds"] = statistics.median(self.launch_seconds(plan, LAUNCHES))
                about["called_seconds"] = statistics.median(self.seconds(plan, LAUNCHES))
            about["seconds"] = min(self.seconds(timed, 2))
            found[plan] = timed, about
        plans = {column: found[plan][1] for column, plan in self._kept.items()}
        self._kept = {column: found[plan][0] for column, plan in self._kept.items()}
        return plans

    def _fastest_first(
        self, plans: Sequence[Plan], inputs: dict[str, Any], failed: dict[str, str]
    ) -> list[Plan]:
        """The plans by time; those that fail are left out and named in `failed`."""
        times: dict[Plan, float] = {}
        deadline = time.monotonic() + self.trial_seconds
        for place, plan in enumerate(plans):
            if times and time.monotonic() > deadline:
                failed[f"{len(plans) - place} more plans"] = f"not tried within {self.trial_seconds:g} s"
                break
            try:
                plan.load(inputs)
                self.seconds(plan, 1)
                times[plan] = min(self.seconds(plan, 3))
            except Exception as error:  # whatever a library raises, the other plans may do
                failed[plan.name] = f"{type(error).__name__}: {error}"
        return sorted(times, key=lambda plan: times[plan])

    def _wrong(self, case: Case, plan: Plan, inputs: dict[str, Any]) -> str:
        """What is wrong with a plan's result; empty if it is right."""
        plan.load(inputs)
        plan.call()
        try:
            if self.verify == FINITE:
                for name, (bad, size) in plan.bad().items():
                    verify.check_finite(name, bad, size)
                return ""
            verify.check(case, inputs, plan.results(), strict=self.strict)
        except AssertionError as error:
            return str(error)
        return ""

    def time(self, column: str, calls: int) -> list[float]:
        """The time of each of so many calls of the plan that `prepare` kept for the column."""
        return self.seconds(self._kept[column], calls)

    def release(self) -> None:
        """Lets go of the case's buffers."""
        self._kept.clear()
