"""Schedules of learning rates."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cconvnet.nets import (
    CONSTANT,
    ConvSpec,
    LrStep,
    RateCurve,
    TrainRecipe,
    build,
    compare,
    spec_from_dict,
    spec_to_dict,
)
from cconvnet.nets.transform import decayed
from cconvnet.training.option_values import parse_lr_schedule, parse_lr_steps, plain
from cconvnet.training.schedule import Rates, StepSchedule, curve_factor


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


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (RateCurve("constant", 1.0), {0: 1, 0.3: 1, 1: 1}),
        (RateCurve("cosine", None), {0: 1, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1: 0}),
        (RateCurve("cosine", 5.0), {0: 1, 0.5: 0.6, 1: 0.2}),
        (RateCurve("linear", None), {0: 1, 0.25: 0.75, 1: 0}),
        (RateCurve("poly", None, power=2.0), {0: 1, 0.25: 0.5625, 0.5: 0.25, 1: 0}),
        (RateCurve("poly", 2.0, power=0.5), {0: 1, 0.75: 0.75, 1: 0.5}),
    ],
)
def test_curves_of_a_whole_run(curve: RateCurve, expected: dict[float, float]) -> None:
    for progress, factor in expected.items():
        assert curve_factor(curve, progress) == pytest.approx(factor, abs=1e-12), progress


def test_a_warm_up_rises_to_where_the_curve_begins() -> None:
    schedule = StepSchedule(0.5, (), RateCurve("cosine", None), warmup=2.0, warmup_from=0.25)
    factors = [schedule.course(epoch, 10) for epoch in (0, 0.5, 1, 2, 6, 10)]
    assert factors == pytest.approx([0.25, 0.4375, 0.625, 1, 0.5, 0])
    assert schedule.at(0) == 0.5  # steps and course are two factors
    assert [StepSchedule(1.0).course(epoch, 10) for epoch in (0, 3, 10)] == [1, 1, 1]
    # A run that is shorter than its warm-up ends on the way.
    assert schedule.course(0.5, 1) == 0.4375


def test_rates_have_the_course_and_the_steps() -> None:
    class Weight:
        layer, of, lr_curve = "conv1", "weight", RateCurve("linear", 2.0)
        learns = True

    schedule = StepSchedule(1.0, (LrStep(3, 0.1),), RateCurve("linear", None), warmup=1.0, warmup_from=0.0)
    rates = Rates(schedule, {"conv1.weight": Weight()}, {}, epochs=5)
    assert [rates.general(epoch) for epoch in (0, 0.5, 1, 3, 5)] == pytest.approx([0, 0.5, 1, 0.05, 0])
    # The layer's own curve begins with the run, not with the end of the warm-up.
    assert rates.at(2.5, divisions=1)["conv1.weight"] == pytest.approx(0.1 * 0.625 * 0.75)
    assert rates.general(2.5, 1) == pytest.approx(0.1 * 0.625)


def test_a_network_may_have_a_schedule() -> None:
    recipe = TrainRecipe(8, 2, 0.1, schedule=RateCurve("cosine", 100.0), warmup=0.5, warmup_from=0.2, pad=2)
    spec = dataclasses.replace(build("lenet"), recipe=recipe)
    assert spec_from_dict(json.loads(json.dumps(spec_to_dict(spec)))) == spec
    assert ["recipe", "schedule", "constant", "cosine to 1/100"] in compare(build("lenet"), spec)
    for wrong, text in (
        ({"schedule": RateCurve("exp", 2.0, noise=0.1)}, "schedule must be without noise"),
        ({"warmup": -1.0}, "warmup must be at least 0"),
        ({"warmup_from": 1.5}, "warmup_from must be at most 1"),
        ({"pad": -1}, "pad must be at least 0"),
    ):
        with pytest.raises(ValueError, match=text):
            TrainRecipe(8, 2, 0.1, **wrong)
    with pytest.raises(ValueError, match="factor must be a number: the curve exp cannot fall to 0"):
        RateCurve("exp", None)


def test_a_rate_falls_by_a_factor_an_epoch_down_to_its_last() -> None:
    """Whatever the length of the run: 0.993 from 0.001 to 0.00003 takes 500 epochs."""
    curve = RateCurve("epochs", 0.001 / 0.00003, power=0.993)
    for epochs in (10, 800):
        schedule = StepSchedule(0.001, curve=curve, warmup=2)
        rates = [
            schedule.lr * schedule.course(2 + epoch, epochs) for epoch in (0, 0.9, 1, 2.5, 400, 499, 501, 798)
        ]
        expected = [0.001 * 0.993**e for e in (0, 0, 1, 2, 400, 499)] + [0.00003, 0.00003]
        assert rates == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="power must be below 1 of the curve epochs, not 1"):
        RateCurve("epochs", None)


@pytest.mark.parametrize(
    ("text", "curve"),
    [
        ("constant", CONSTANT),
        ("cosine", RateCurve("cosine", None)),
        ("cosine:0.01", RateCurve("cosine", 100.0)),
        ("linear", RateCurve("linear", None)),
        ("linear:0.5", RateCurve("linear", 2.0)),
        ("exp:0.25", RateCurve("exp", 4.0)),
        ("poly:2", RateCurve("poly", None, power=2.0)),
        ("epochs:0.993", RateCurve("epochs", None, power=0.993)),
        ("epochs:0.993:0.03125", RateCurve("epochs", 32.0, power=0.993)),
    ],
)
def test_schedules_are_read_as_they_are_written(text: str, curve: RateCurve) -> None:
    assert parse_lr_schedule(text) == parse_lr_schedule(curve) == parse_lr_schedule(plain(curve)) == curve


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "cos", "cosine:", "cosine:0", "cosine:2", "exp", "poly", "poly:0", "constant:1", "exp:nan", 3),
        *("epochs", "epochs:1", "epochs:0", "epochs:0.9:", "epochs:0.9:2", "epochs:0.9:0"),
    ],
)
def test_schedules_that_make_no_sense(wrong: object) -> None:
    with pytest.raises(ValueError, match="--lr-schedule must be constant, cosine, linear or poly:POWER"):
        parse_lr_schedule(wrong)


def test_tables_of_schedules_are_checked() -> None:
    steps = (LrStep(2, 0.1), LrStep(3, 0.5, ("conv1",), "weight"), LrStep(3, 0.1))
    assert parse_lr_steps(plain(steps)) == parse_lr_steps(steps) == steps
    assert parse_lr_steps([2, {"epoch": 3, "factor": 0.5, "layers": ["conv1"], "of": "weight"}, 3]) == steps
    with pytest.raises(
        ValueError, match=r"--lr-steps: a key must be one of .*not 'epochs'; did you mean 'epoch'"
    ):
        parse_lr_steps([{"epochs": 3, "factor": 0.5}])
    with pytest.raises(ValueError, match="--lr-schedule must be without noise"):
        parse_lr_schedule({"kind": "exp", "factor": 2.0, "noise": 0.5})


def test_one_weight_decay_is_that_of_all_weights() -> None:
    conv = {"filters": 2, "window": (3, 3), "weight_decay": 0.1, "bias_weight_decay": 0.2}
    inputs = ({"weight_decay": 0.5, "window": (5, 5), "padding": (1, 1)}, {})
    layers = (
        ConvSpec(name="a", inputs=("data",), **conv),
        ConvSpec(name="b", inputs=("data", "data"), per_input=inputs, **conv),
        *build("lenet").layers[-2:],
    )
    spec = dataclasses.replace(build("lenet"), layers=layers)
    a, b, fc, cost = decayed(spec, 0.25).layers
    for layer in (a, b.for_input(0), b.for_input(1), fc):
        assert (layer.weight_decay, layer.bias_weight_decay) == (0.25, 0.0)
    assert b.for_input(0).window == (5, 5) and cost == layers[-1]
    with pytest.raises(ValueError, match="weight_decay must be at least 0"):
        decayed(spec, -1.0)
