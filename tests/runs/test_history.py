"""Columns of numbers that are read from a run's log."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cconvnet.runs.history import History

WARM_UP = [0.01 * step for step in range(1, 11)]
COSINE = [0.05 + 0.05 * math.cos(math.pi * step / 30) for step in range(30)]


@pytest.mark.parametrize(
    ("rates", "changes", "steps"),
    [
        ([0.1] * 9 + [0.01] * 9 + [0.001] * 9, 2, [(9, 0.01), (18, 0.001)]),
        (WARM_UP + [0.1] * 9 + [0.01] * 9, 10, [(19, 0.01)]),
        (WARM_UP + COSINE, 38, []),
        ([0.1] * 9 + [0.01, 0.001, 0.0001] + [0.0001] * 3, 3, [(9, 0.01), (10, 0.001), (11, 0.0001)]),
        ([0.1] * 9, 0, []),
        ([], 0, []),
    ],
    ids=["steps", "warm-up", "cosine", "in quick succession", "constant", "empty"],
)
def test_steps_of_the_rate_are_told_from_curves(
    tmp_path: Path, rates: list[float], changes: int, steps: list[tuple[int, float]]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"settings": {}}))
    lines = [
        {
            "step": step,
            "epoch": step / 10,
            "loss": 1.0,
            "train_error_top1": 0.5,
            "lr": rate,
            "images_per_second": 9.0,
        }
        for step, rate in enumerate(rates, 1)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    history = History(tmp_path)
    assert len(history.rate_changes()) == changes
    assert history.rate_steps() == steps
