"""Interface of a side of a comparison of kernels: an object in a process of its own.

A side offers one or several plans for each case, in one column or several. For each column the fastest plan
whose result is right is kept and measured. A side must implement the abstract methods of `Side`.
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
from cconvnet.bench.cases import Case, Net, find
from cconvnet.bench.processes import WorkerError
from cconvnet.testing import compare

Array = np.ndarray[Any, Any]


# Checks of a plan. FULL checks all of its results on the host. FINITE checks on the device that every element
# was written and is finite. The tests check the same kernels bit by bit, and on a GPU a check on the host
# takes minutes for a network.
FULL, FINITE = "full", "finite"
VERIFICATIONS = (FULL, FINITE)
# Calls whose launches are timed.
LAUNCHES = 9


def verify_for(kind: str) -> str:
    """Return the check on a kind of device unless another is requested."""
    return FINITE if kind == "cuda" else FULL


class Refused(WorkerError):
    """This side does not compute the case; the text says why."""


class Plan(abc.ABC):
    """One way to compute one case, with the buffers it needs.

    Attributes:
        name: The name of the kernel or the algorithm, as the table shows it.
        columns: The side's columns for which it may be chosen.
        transforms: Whether it transforms its inputs, with rounding, as Winograd's algorithm does.
        unproven: Whether it is a row of ours that this GPU is to prove yet; see cconvnet.devices.proofs.
    """

    name: str
    columns: tuple[str, ...] = ("plan",)
    transforms: bool = False
    unproven: bool = False

    @abc.abstractmethod
    def load(self, inputs: dict[str, Any]) -> None:
        """Load inputs to where `call` reads them, and fill the outputs with NaN.

        `inputs` are those of `Case.operation` in cconvnet.operations, by name: numbers, and host arrays in
        our layouts (x[N,H,W,C], w[K,R,S,C/groups], y[N,P,Q,K]). They contain floats that the case's arrays
        represent exactly. An array may be a Tiled, which the plan makes on the device. Backward passes of max
        pooling get no ``y`` but make it with their own forward pass. Plans that share buffers may keep their
        contents if the same object comes again; the outputs are filled all the same.
        """

    @abc.abstractmethod
    def call(self) -> None:
        """Compute once. This is what is timed, so it does nothing else."""

    @abc.abstractmethod
    def results(self) -> dict[str, Array]:
        """Return the outputs by name once all work is done: host arrays in our layouts.

        Arrays of bfloat16 contain its bits. A peer may leave out outputs that it does not compute.
        """

    def bad(self) -> dict[str, tuple[int, int]]:
        """Count for each output the elements that are not finite, and all.

        Elements that were not written are not finite. A plan on a GPU counts there.
        """
        found = {}
        for name, kept in self.results().items():
            result = compare.values(kept)
            found[name] = int(result.size - np.count_nonzero(np.isfinite(result))), int(result.size)
        return found

    def may_fill(self, column: str) -> bool:
        """Return whether it may be chosen for a column."""
        return column in self.columns


class Replay(Plan):
    """A plan whose work is launched as one captured graph."""

    def __init__(self, plan: Plan, replay: Callable[[], Any]) -> None:
        self.plan, self.name, self._replay = plan, plan.name, replay

    def load(self, inputs: dict[str, Any]) -> None:
        """Load the plan's inputs."""
        self.plan.load(inputs)

    def call(self) -> None:
        """Replay the graph."""
        self._replay()

    def results(self) -> dict[str, Array]:
        """Return the plan's outputs."""
        return self.plan.results()


class Side(abc.ABC):
    """One side of a comparison of kernels.

    Args:
        device: The name of our device, "cuda:0". A peer computes on the same physical one.
        precision: One of cconvnet.devices.PRECISIONS.
        verify: The check of a plan: FULL, FINITE, or None for that of `verify_for`.

    Attributes:
        columns: The columns of this side in results, the first one first.
        strict: Whether it promises the same exactness as our kernels; see verify.check.
        trial_seconds: Seconds for which the plans of a case are tried, beyond the first that runs.
    """

    columns: ClassVar[tuple[str, ...]] = ("plan",)
    strict: ClassVar[bool] = False
    trial_seconds: float = math.inf

    def __init__(self, device: str, precision: str, verify: str | None = None) -> None:
        self.device, self.precision = device, precision
        self.verify = verify or verify_for(device.partition(":")[0])
        self._kept: dict[str, Plan] = {}

    def use(self, precision: str) -> None:
        """Compute in another precision from the next case on."""
        self.precision = precision

    # ---- what a side brings along ----

    @abc.abstractmethod
    def plans(self, case: Case) -> Sequence[Plan]:
        """Return every way this side has to compute the case.

        Raises:
            Refused: There is none.
        """

    @abc.abstractmethod
    def seconds(self, plan: Plan, count: int) -> list[float]:
        """Return the time of each of `count` calls of the plan, one after the other."""

    def captured(self, plan: Plan) -> tuple[Plan, str]:
        """Return on a GPU a Replay of the plan and "graph", or the plan itself and the reason.

        Elsewhere the reason is empty. The plan has been called before with the inputs that are loaded.
        """
        return plan, ""

    def launch_seconds(self, plan: Plan, count: int) -> list[float]:
        """Return on a GPU the host's time for each of `count` calls that only enqueue their work."""
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        """Describe this side for result files, such as its versions and settings, as JSON values."""
        return {}

    def serves(self, precision: str) -> bool:
        """Return whether it can compute in a precision here."""
        return True

    def machine(self) -> dict[str, Any]:
        """Return ``machine``, a description for results; empty if another side reports it."""
        return {}

    @property
    def shows_blocks(self) -> bool:
        """Return whether a first convolution is also computed over blocks of pixels; see cases.cases."""
        return self.device.partition(":")[0] in ("cuda", "emulator")

    def synchronize(self) -> None:  # noqa: B027 - only GPUs are waited for
        """Wait for the device; raise if it cannot be used any more."""

    # ---- requests to it ----

    def describe(self) -> dict[str, Any]:
        """Return ``columns``, and the result of `about`."""
        return {"columns": list(self.columns), **self.about()}

    def prepare(
        self,
        network: Net,
        batch: int,
        layer: str,
        operation: str,
        seed: int = 0,
        precision: str | None = None,
    ) -> dict[str, Any]:
        """Make the plans of a case, check them, and keep the fastest right one of each column.

        Args:
            network: The case's network; see cconvnet.bench.cases.cases.
            batch: The case's batch.
            layer: The case's layer.
            operation: The case's operation.
            seed: Seed of the inputs.
            precision: Precision of this case and those after it; None: as before.

        Returns:
            ``plans``: for each column ``{"kernel": the plan's name, "seconds": a first time}``, and
            ``unproven`` for a row of ours that is. On a GPU also
            ``how`` its work is launched when it is timed ("graph", or why there is none), ``launch_seconds``
            (the host's time for one call) and ``called_seconds`` (the device's time for a call without
            graph). ``wrong`` and ``failed`` contain the names of plans that were rejected for that, and the
            reasons. Or ``refused``: why there is no plan.
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
                if plan.may_fill(column):
                    if plan not in verdicts:
                        verdicts[plan] = self._wrong(case, plan, checked)
                    if not verdicts[plan]:
                        self._kept[column] = plan
                        break
        wrong = {plan.name: text for plan, text in verdicts.items() if text}
        return {"plans": self._first_times(timed), "wrong": wrong, "failed": failed}

    def _first_times(self, inputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Prepare the kept plans for timing, and time them for the first time."""
        found: dict[Plan, tuple[Plan, dict[str, Any]]] = {}
        for plan in dict.fromkeys(self._kept.values()):
            plan.load(inputs)
            self.seconds(plan, 1)
            timed, how = self.captured(plan)
            about: dict[str, Any] = {"kernel": plan.name}
            about |= {"unproven": True} if plan.unproven else {}
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
        """Return the plans by time. Those that fail are left out and named in `failed`."""
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
            except Exception as error:  # any error of a library; the other plans may work
                failed[plan.name] = f"{type(error).__name__}: {error}"
        return sorted(times, key=lambda plan: times[plan])

    def _wrong(self, case: Case, plan: Plan, inputs: dict[str, Any]) -> str:
        """Return the error in a plan's result; empty if it is right."""
        plan.load(inputs)
        plan.call()
        try:
            if self.verify == FINITE:
                for name, (bad, size) in plan.bad().items():
                    verify.check_finite(name, bad, size)
                return ""
            verify.check(case, inputs, plan.results(), strict=self.strict and not plan.transforms)
        except AssertionError as error:
            return str(error)
        return ""

    def time(self, column: str, calls: int) -> list[float]:
        """Return the time of each of `calls` calls of the plan that `prepare` kept for the column."""
        return self.seconds(self._kept[column], calls)

    def release(self) -> None:
        """Free the case's buffers."""
        self._kept.clear()
