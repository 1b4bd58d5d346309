"""Sides of a comparison of kernels that compute with the reference, and fail on purpose."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cconvnet
from cconvnet.bench.cases import Case
from cconvnet.bench.kernels import Peer
from cconvnet.bench.peers.side import Plan, Refused, Side
from cconvnet.bench.processes import PeerMissing
from cconvnet.operations import OPERATIONS
from cconvnet.testing import reference

Array = np.ndarray[Any, Any]


class FakePlan(Plan):
    """Plan that computes with the reference, and is wrong or slow if its name says so."""

    def __init__(self, case: Case, name: str, columns: tuple[str, ...] = ("plan",)) -> None:
        self.case, self.name, self.columns = case, name, columns

    def load(self, inputs: dict[str, Any]) -> None:
        if "fails" in self.name:
            raise RuntimeError("no such engine")
        self.inputs = dict(inputs)
        self.done: dict[str, Array] = {}

    def call(self) -> None:
        spec = OPERATIONS[self.case.operation]
        arguments = ([self.case.problem] if spec.has_problem else []) + list(self.inputs.values())
        result = np.asarray(getattr(reference, self.case.operation)(*arguments), np.float32)
        if "wrong" in self.name:
            result.flat[-1] += 1
        self.done = {next(iter(spec.output_shapes(self.case.problem))): result}

    def results(self) -> dict[str, Array]:
        return self.done


class FakePeer(Side):
    """Two columns; each plan takes the time that its name says."""

    columns = ("best", "strict")

    def plans(self, case: Case) -> Sequence[Plan]:
        if case.operation == "fc_wgrad":
            raise Refused("it has no such thing")
        return [
            FakePlan(case, "3s", self.columns),
            FakePlan(case, "1s wrong", self.columns),
            FakePlan(case, "2s", ("best",)),
            FakePlan(case, "1s fails", self.columns),
        ]

    def seconds(self, plan: Plan, count: int) -> list[float]:
        plan.call()
        return [float(plan.name.partition("s")[0])] * count

    def about(self) -> dict[str, Any]:
        return {"version": "1.0"}


class MissingPeer(Side):
    def __init__(self, device: str, precision: str) -> None:
        raise PeerMissing("it is missing: pip install it")

    def plans(self, case: Case) -> Sequence[Plan]:
        raise NotImplementedError

    seconds = plans  # type: ignore[assignment]


class FailingPeer(FakePeer):
    """Peer whose process ends once in the middle of a case."""

    columns = ("plan",)

    def plans(self, case: Case) -> Sequence[Plan]:
        return [FakePlan(case, "2s")]

    def time(self, column: str, calls: int) -> list[float]:
        sys.exit(3)


def peer(kind: type[Side]) -> Peer:
    path = f"{Path(cconvnet.__file__).parents[1]}:{Path(__file__).parents[1]}"
    return Peer(kind.__name__, f"helpers.fake_sides:{kind.__name__}", environment={"PYTHONPATH": path})
