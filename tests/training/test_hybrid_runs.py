"""Runs whose FC layers ranks compute together, of one rank: learning, resuming, refusals and failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.training import assert_same_run, resume, run_training, tensors_of

from cconvnet.training.options import Options
from cconvnet.training.stopping import TrainingStopped

HYBRID: dict[str, Any] = {"shards": 2, "parallel": "hybrid"}


def test_a_run_learns_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    outcome = run_training(out=whole, **HYBRID)
    assert outcome.summary["test_error_top1"] < 0.15
    run_training(out=stopped, steps=50, **HYBRID)
    resume(stopped)
    assert_same_run(stopped, whole)
    run_training(out=tmp_path / "data", shards=2)
    one, other = tensors_of(whole), tensors_of(tmp_path / "data")
    assert any(one[name].tobytes() != other[name].tobytes() for name in one)


@pytest.mark.parametrize("option", [{"detect_anomaly": True}, {"lars": 0.01}])
def test_what_does_not_go_with_it_is_refused(option: dict[str, Any], tmp_path: Path) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is for --parallel data"):
        Options(**HYBRID, **option).check()
    run_training(out=tmp_path / "run", steps=1, **HYBRID)
    with pytest.raises(ValueError, match="is for --parallel data"):
        resume(tmp_path / "run", **option)


def test_where_a_bad_loss_came_from_is_found(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match=r"the loss is (nan|inf) at step \d+ .*first not finite: "):
        run_training(out=tmp_path / "run", lr=1e6, **HYBRID)
