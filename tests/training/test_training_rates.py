"""Learning rates: steps, plateaus, factors of layers, and changes by hand."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Listener
from helpers.training import assert_same_run, fake_tests, resume, run_training, steps_in_log, tensors_of

from cconvnet import runs
from cconvnet.evaluate import Tally
from cconvnet.nets import LrStep
from cconvnet.runs import checkpoint
from cconvnet.runs.checkpoint import MEAN, Folder
from cconvnet.training.option_values import parse_freeze, parse_lr_plateau, parse_lr_scale, parse_lr_steps
from cconvnet.training.options import Options
from cconvnet.training.schedule import Rates, StepSchedule, on_plateau


def rates_in_log(run: Path) -> list[float]:
    return [line["lr"] for line in steps_in_log(run)]


def test_lr_steps_are_read_as_they_are_written() -> None:
    assert parse_lr_steps(None) is None and parse_lr_steps("none") == ()
    assert parse_lr_steps("60,75.5") == (LrStep(60.0, 0.1), LrStep(75.5, 0.1))
    for wrong in ("75,60", "0", "5,5", "soon", "", "nan"):
        with pytest.raises(ValueError, match="--lr-steps must be rising epochs"):
            parse_lr_steps(wrong)


def test_plateaus_and_factors_are_read_as_they_are_written() -> None:
    assert (parse_lr_plateau(None), parse_lr_plateau("none"), parse_lr_plateau("5")) == (None, 0, 5)
    for wrong in ("0", "-1", "2.5", "", "soon"):
        with pytest.raises(ValueError, match="--lr-plateau must be a number of epochs from 1 on"):
            parse_lr_plateau(wrong)
    assert Options().lr_factors() is None
    both = Options(lr_scale=parse_lr_scale("conv1=0.1, fc1=2"), freeze=parse_freeze("conv2"))
    assert both.lr_factors() == {"conv1": 0.1, "fc1": 2.0, "conv2": 0.0}
    for wrong in ("conv1", "conv1=", "=2", "conv1=-1", "conv1=nan", "", "conv1=1,"):
        with pytest.raises(ValueError, match="--lr-scale must be like"):
            parse_lr_scale(wrong)
    with pytest.raises(ValueError, match="--freeze must be layers"):
        parse_freeze("conv1,")
    with pytest.raises(ValueError, match="--lr-scale and --freeze both name the layer conv1"):
        Options(lr_scale=parse_lr_scale("conv1=1"), freeze=parse_freeze("conv1")).check()


def test_rates_are_products_of_all_that_changes_them() -> None:
    steps = (
        LrStep(2, 0.5),
        LrStep(3.5, 0.1, layers=("conv1",), of="bias"),
        LrStep(4, 0, layers=("conv1",), of="weight"),
    )
    Named = collections.namedtuple("Named", "layer of lr_curve learns", defaults=[None, True])
    parts = [("conv1", "weight"), ("conv1", "bias"), *2 * [("conv3", "weight")], ("conv3", "bias")]
    names = [f"parameter {number}" for number in range(5)]
    parameters = {name: Named(*part) for name, part in zip(names, parts, strict=True)}
    rates = Rates(StepSchedule(1.0, steps), parameters, {"conv3": 0.2}, epochs=5)

    def at(epoch: float, divisions: int = 0) -> list[float]:
        found = rates.at(epoch, divisions)
        assert list(found) == names
        return list(found.values())

    assert at(0) == [1, 1, 0.2, 0.2, 0.2]
    assert at(2) == [0.5, 0.5, 0.1, 0.1, 0.1]
    assert at(3.4) == at(2)
    assert at(3.5) == [0.5, 0.05, 0.1, 0.1, 0.1]
    np.testing.assert_allclose(at(4, 2), [0, 0.0005, 0.001, 0.001, 0.001], rtol=1e-12)
    assert rates.general(3.5) == 0.5
    np.testing.assert_allclose(rates.general(3.5, 1), 0.05, rtol=1e-12)
    for factors, steps in (({"conv2": 0.0}, ()), ({}, (LrStep(1, 0.1, ("conv2",)),))):
        with pytest.raises(ValueError, match=r"a layer must be one of conv1, conv3, not 'conv2'"):
            Rates(StepSchedule(1.0, steps), parameters, factors, epochs=5)


@pytest.mark.parametrize(
    ("errors", "patience", "expected"),
    [
        ([9, 8, 7, 6], 1, []),
        ([9, 9, 9, 9], 1, [2, 3, 4]),
        ([9, 9, 9, 9, 9, 9], 2, [3, 5]),
        ([9, 10, 8, 9, 9, 7, 7, 7], 2, [5, 8]),
        ([9, 9, 9, 9], 0, []),
    ],
)
def test_plateaus(errors: list[int], patience: int, expected: list[int]) -> None:
    best_epoch, divisions = 0, []
    for epoch, error in enumerate(errors, start=1):
        if best_epoch == 0 or error < errors[best_epoch - 1]:
            best_epoch = epoch
        if on_plateau(epoch, best_epoch, divisions, patience):
            divisions.append(epoch)
    assert divisions == expected


def test_a_plateau_divides_the_rates_and_a_resumed_run_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schedule has a step too; the test errors come from a list."""
    settings = {"epochs": 6, "lr_plateau": 2, "lr_steps": (LrStep(4.5, 0.5),), "log_every": 15}
    listener = Listener()
    fake_tests(monkeypatch, [50, 40, 40, 40, 40, 40])
    run_training(listener, out=tmp_path / "whole", **settings)
    assert "lr: 0.005 from here on, a tenth: the test error has not fallen for 2 epochs" in listener.lines
    # Log lines after 15, 30 and 45 steps of an epoch. The plateau of epochs 3 and 4 lets the rates fall after
    # epoch 4, that of epochs 5 and 6 after 6; the step is in the middle of the fifth epoch.
    expected = [0.05] * 12 + [0.005] + [0.0025] * 5
    np.testing.assert_allclose(rates_in_log(tmp_path / "whole"), expected, rtol=1e-12)

    parts = tmp_path / "parts"
    fake_tests(monkeypatch, [50, 40, 40, 99])  # the last where it is stopped, which is no epoch's end
    run_training(out=parts, steps=140, **settings)
    fake_tests(monkeypatch, [40, 1])
    resume(parts, steps=190, log_every=15)
    assert runs.find_checkpoint(parts)[1].progress["lr_divisions"] == [4]
    fake_tests(monkeypatch, [40, 40])
    resume(parts, log_every=15)
    assert_same_run(tmp_path / "whole", parts)


def test_a_plateau_may_be_asked_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "cconvnet.training.trainer.evaluate",
        lambda network, batches, stopped, world: Tally(100.0, 50, 0, 100),
    )
    run_training(out=tmp_path / "run", epochs=2)
    assert runs.find_checkpoint(tmp_path / "run")[1].progress["lr_divisions"] == []
    listener = Listener()
    resume(tmp_path / "run", listener, epochs=3, lr_plateau=2)
    assert "lr: a tenth after 2 epochs without a lower test error" in listener.lines
    assert runs.find_checkpoint(tmp_path / "run")[1].progress["lr_divisions"] == [3]
    listener = Listener()
    resume(tmp_path / "run", listener, epochs=4, lr=0.5)
    assert "lr: 0.05 from here on, it was 0.005" in listener.lines


def test_frozen_layers_stay_as_they_are(tmp_path: Path) -> None:
    run_training(out=tmp_path / "run", steps=10, lr_scale={"conv1": 0.0})
    first = Folder(tmp_path / "run" / "checkpoints").file(0)
    before, after = checkpoint.load(first).tensors, tensors_of(tmp_path / "run")
    for name, tensor in after.items():
        same = tensor.tobytes() == before[name].tobytes()
        assert same == (name.startswith("conv1.") or name == MEAN), name
    # Frozen in mid-course: the velocity that is there must not carry the weights on.
    listener = Listener()
    resume(tmp_path / "run", listener, steps=20, lr_scale={"conv1": 1.0, "conv2": 0.0})
    assert "lr: conv1 learns at 1 times its rate from here on" in listener.lines
    assert "lr: conv2 is frozen from here on" in listener.lines
    last = tensors_of(tmp_path / "run")
    for name in ("conv2.weight", "conv2.bias"):
        assert np.abs(after[f"{name}.velocity"]).max() > 0
        assert last[name].tobytes() == after[name].tobytes()
    assert (last["conv1.weight"] != after["conv1.weight"]).any()
    other = steps_in_log(tmp_path / "run")[-1]["lr_other"]
    assert other == {"conv2.weight": 0.0, "conv2.bias": 0.0}
    # A later resume keeps what it is not told anew.
    resume(tmp_path / "run", steps=25, lr_scale={"fc1": 0.5})
    assert tensors_of(tmp_path / "run")["conv2.weight"].tobytes() == after["conv2.weight"].tobytes()
    with pytest.raises(ValueError, match=r"a layer must be one of .*, not 'conv3'; did you mean 'conv"):
        resume(tmp_path / "run", lr_scale={"conv3": 0.0})
    with pytest.raises(ValueError, match=r"a layer must be one of .*, not 'relu'"):
        run_training(out=tmp_path / "other", lr_scale={"relu": 0.0})
    assert not (tmp_path / "other").exists()


def test_a_smaller_factor_makes_smaller_steps(tmp_path: Path) -> None:
    """After one step from rest the velocity is the rate times the gradient."""
    for name, factors in (("plain", {}), ("scaled", {"fc1": 0.25})):
        run_training(out=tmp_path / name, steps=1, lr_scale=factors)
    plain, scaled = tensors_of(tmp_path / "plain"), tensors_of(tmp_path / "scaled")
    for name in ("conv1.weight", "fc1.weight", "fc1.bias", "fc2.bias"):
        factor = 0.25 if name.startswith("fc1.") else 1.0
        np.testing.assert_allclose(
            scaled[f"{name}.velocity"], factor * plain[f"{name}.velocity"], rtol=1e-5, err_msg=name
        )


def test_the_rate_may_be_changed_by_hand(tmp_path: Path) -> None:
    listener = Listener()
    run_training(out=tmp_path / "run", epochs=1)
    resume(tmp_path / "run", listener, epochs=2, lr=0.005)
    assert "lr: 0.005 from here on, it was 0.05" in listener.lines
    assert steps_in_log(tmp_path / "run")[-1]["lr"] == 0.005


def test_factors_are_for_layers_that_a_pattern_fits() -> None:
    class Weight:
        of, lr_curve, learns = "weight", None, True

        def __init__(self, layer: str) -> None:
            self.layer = layer

    weights: Any = {
        name: Weight(name) for name in ("conv1", "conv10", "fire2_squeeze", "fire3_squeeze", "fc")
    }

    def rates(text: str, freeze: str | None = None) -> dict[str, float]:
        frozen = None if freeze is None else parse_freeze(freeze)
        factors = Options(lr_scale=parse_lr_scale(text), freeze=frozen).lr_factors()
        return Rates(StepSchedule(1.0), weights, factors or {}, epochs=1).at(0)

    assert rates("*=0.1, conv10=1") == {**dict.fromkeys(weights, 0.1), "conv10": 1}
    assert rates("fire*=0.5, fire3*=2, conv1=3", "f?") == {
        **{"conv1": 3, "conv10": 1, "fc": 0},
        **{"fire2_squeeze": 0.5, "fire3_squeeze": 2},
    }
    with pytest.raises(ValueError, match=r"--freeze: a layer must be one of .*, not 'pool"):
        rates("pool*=0.1")
