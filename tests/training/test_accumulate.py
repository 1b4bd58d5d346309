"""Runs whose steps have several batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.training import assert_same_run, resume, run_training, steps_in_log, tensors_of

from cconvnet import runs
from cconvnet.runs.reading import RunError

HALVES: dict[str, Any] = {"batch": 16, "accumulate": 2, "mirror": True, "color_noise": 0.1}


def test_halves_of_a_batch_train_as_the_batch(tmp_path: Path) -> None:
    """The same images and noise in the same order, so that only rounding differs.

    With other seeds it decides on which side of a ReLU's kink a value is, and the courses part.
    """
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run_training(out=whole, steps=12, **HALVES | {"batch": 32, "accumulate": 1, "seed": 6})
    run_training(out=halves, steps=12, **HALVES | {"seed": 6})
    one, other = tensors_of(whole), tensors_of(halves)
    for name, value in one.items():
        assert np.abs(value - other[name]).max() <= 2e-6, name
    lines = zip(steps_in_log(whole), steps_in_log(halves), strict=True)
    for mine, theirs in lines:
        assert (mine["step"], mine["lr"]) == (theirs["step"], theirs["lr"])
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    summary = runs.read_config(halves)["settings"]
    assert (summary["batch"], summary["accumulate"]) == (16, 2)


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, parts, checked = (tmp_path / name for name in ("whole", "parts", "checked"))
    run_training(out=whole, steps=60, **HALVES)
    run_training(out=parts, steps=31, **HALVES)
    with pytest.raises(RunError, match="--accumulate 3 differs from the run's, 2; leave it out"):
        resume(parts, accumulate=3)
    resume(parts, steps=60)
    assert_same_run(whole, parts)
    run_training(out=checked, steps=60, detect_anomaly=True, **HALVES)
    for name, value in tensors_of(whole).items():
        assert value.tobytes() == tensors_of(checked)[name].tobytes(), name


def test_steps_of_more_images_than_there_are_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"--batch 800 2 times is larger than the 1,442 training images"):
        run_training(out=out, batch=800, accumulate=2)
    with pytest.raises(ValueError, match=r"--accumulate 2,000 is more than the 1,442 training images"):
        run_training(out=out, accumulate=2000)
    assert not out.exists()
