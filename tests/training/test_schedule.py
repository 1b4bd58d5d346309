"""Schedules of learning rates."""

from __future__ import annotations

import pytest

from cconvnet.nets import (
    LrStep,
)
from cconvnet.training.schedule import StepSchedule


def test_schedule() -> None:
    schedule = StepSchedule(0.01, (LrStep(2, 0.1), LrStep(5, 0.5)))
    assert [schedule.at(epoch) for epoch in (0, 1.9, 2, 4, 5, 9)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001, 0.0005, 0.0005]
    )
    with pytest.raises(ValueError, match="lr must be"):
        StepSchedule(-1.0)
    for step in ({"epoch": 1, "factor": -0.1}, {"epoch": float("nan"), "factor": 1}):
        with pytest.raises(ValueError, match=r"epoch must be|factor must be"):
            LrStep(**step)
    with pytest.raises(ValueError, match=r"of must be one of.*did you mean 'weight'"):
        LrStep(1, 0.1, of="weights")


def test_a_schedule_tells_layers_and_biases_apart() -> None:
    steps = (LrStep(1, 0.1, of="weight"), LrStep(2, 0.5, layers=("conv1",)), LrStep(3, 0, ("conv1",), "bias"))
    schedule = StepSchedule(1.0, steps)
    assert schedule.at(3) == schedule.at(3, "conv2") == pytest.approx(0.1)
    assert schedule.at(3, "conv2", "bias") == 1
    assert [schedule.at(e, "conv1") for e in (0, 1, 2, 3)] == pytest.approx([1, 0.1, 0.05, 0.05])
    assert [schedule.at(e, "conv1", "bias") for e in (0, 1, 2, 3)] == [1, 1, 0.5, 0]
