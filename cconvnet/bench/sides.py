"""One side of a comparison of kernels: an object in a process of its own (cconvnet.bench.workers).

A side offers one plan or several for each row, in one column or several; for each column the fastest plan
whose result is right is kept and measured. What a side must bring along is what `Side` leaves open.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from cconvnet.bench import verify
from cconvnet.bench.rows import Row, find
from cconvnet.bench.workers import WorkerError

Array = np.ndarray[Any, Any]


class Refused(WorkerError):
    """This side does not compute the row; the text says why."""


class Plan(abc.ABC):
    """One way to compute one row, with the buffers it needs.

    Attributes
        name: of the kernel or the algorithm, as the table shows it.
        columns: those of the side's columns it may stand in.
    """

    name: str
    columns: tuple[str, ...] = ("plan",)

    @abc.abstractmethod
    def load(self, inputs: dict[str, Any]) -> None:
        """Brings inputs to where `call` reads them, and fills the outputs with NaN.

        `inputs` are those of `Row.operation` in cconvnet.testing.check.OPERATIONS, by name: host arrays in
        our layouts (x[N,H,W,C], w[K,R,S,C/groups], y[N,P,Q,K]) and numbers; floats, of values that the
        row's arrays hold. Backward passes of max pooling get no ``y`` but make it with their own forward
        pass. Plans that share buffers may keep what is there when the
        same object comes again; the outputs are filled all the same.
        """

    @abc.abstractmethod
    def call(self) -> None:
        """Computes once. Nothing else happens here: this is what is timed."""

    @abc.abstractmethod
    def results(self) -> dict[str, Array]:
        """The outputs by name, once all work is done: host arrays in our layouts, bfloat16 as its bits.

        A peer may leave out outputs that it does not compute.
        """


class Side(abc.ABC):
    """Args:
    device: the name of ours, "cuda:0"; a peer computes on the same physical one.
    precision: one of cconvnet.backends.PRECISIONS.

    Attributes:
        columns: what is reported of this side, the first first.
        strict: whether it promises what our kernels promise; see verify.check.
    """

    columns: ClassVar[tuple[str, ...]] = ("plan",)
    strict: ClassVar[bool] = False

    def __init__(self, device: str, precision: str) -> None:
        self.device, self.precision = device, precision
        self._kept: dict[str, Plan] = {}

    # ---- what a side brings along ----

    @abc.abstractmethod
    def plans(self, row: Row) -> Sequence[Plan]:
        """Every way this side has to compute the row.

        Raises Refused if there is none.
        """

    @abc.abstractmethod
    def seconds(self, plan: Plan, count: int) -> list[float]:
        """The time of each of `count` calls of the plan, one after the other."""

    def about(self) -> dict[str, Any]:
        """As JSON values: what a result file says of this side, such as versions and settings."""
        return {}

    # ---- what it is asked ----

    def describe(self) -> dict[str, Any]:
        """``columns``, and what `about` says."""
        return {"columns": list(self.columns), **self.about()}

    def prepare(self, network: str, batch: int, layer: str, operation: str, seed: int = 0) -> dict[str, Any]:
        """Makes the plans of a row, checks them, and keeps the fastest right one of each column.

        Returns
            ``plans``: for each column ``{"kernel": the plan's name, "seconds": a first time}``; ``wrong`` and
            ``failed``: for plans that were not kept for that, their names and what is the matter. Or
            ``refused``: why there is no plan.
        """
        self.release()
        row = find(network, batch, layer, operation, self.precision)
        try:
            plans = list(self.plans(row))
        except Refused as refused:
            return {"plans": {}, "wrong": {}, "failed": {}, "refused": str(refused)}
        timed, checked = verify.timed_inputs(row, seed), verify.checked_inputs(row, seed)
        failed: dict[str, str] = {}
        if len(plans) > 1:
            plans = self._fastest_first(plans, timed, failed)
        verdicts: dict[Plan, str] = {}
        for column in self.columns:
            for plan in plans:
                if column in plan.columns:
                    if plan not in verdicts:
                        verdicts[plan] = self._wrong(row, plan, checked)
                    if not verdicts[plan]:
                        self._kept[column] = plan
                        break
        first = {}
        for plan in dict.fromkeys(self._kept.values()):
            plan.load(timed)
            self.seconds(plan, 1)
            first[plan] = min(self.seconds(plan, 2))
        kept = {column: {"kernel": plan.name, "seconds": first[plan]} for column, plan in self._kept.items()}
        wrong = {plan.name: text for plan, text in verdicts.items() if text}
        return {"plans": kept, "wrong": wrong, "failed": failed}

    def _fastest_first(
        self, plans: Sequence[Plan], inputs: dict[str, Any], failed: dict[str, str]
    ) -> list[Plan]:
        """The plans by time; those that fail are left out and named in `failed`."""
        times: dict[Plan, float] = {}
        for plan in plans:
            try:
                plan.load(inputs)
                self.seconds(plan, 1)
                times[plan] = min(self.seconds(plan, 3))
            except Exception as error:  # whatever a library raises, the other plans may do
                failed[plan.name] = f"{type(error).__name__}: {error}"
        return sorted(times, key=lambda plan: times[plan])

    def _wrong(self, row: Row, plan: Plan, inputs: dict[str, Any]) -> str:
        """What is wrong with a plan's result; empty if it is right."""
        plan.load(inputs)
        plan.call()
        try:
            verify.check(row, inputs, plan.results(), strict=self.strict)
        except AssertionError as error:
            return str(error)
        return ""

    def time(self, column: str, calls: int) -> list[float]:
        """The time of each of so many calls of the plan that `prepare` kept for the column."""
        return self.seconds(self._kept[column], calls)

    def release(self) -> None:
        """Lets go of the row's buffers."""
        self._kept.clear()
