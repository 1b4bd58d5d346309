"""Columns of numbers that are read from a run's log."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

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


def line_of_ranks(step: int, waited: list[float]) -> dict[str, Any]:
    """Return a line of ten steps, 320 images at 64 a second: five seconds."""
    own = {"ranks": len(waited), "wait_seconds": waited, "sent_bytes": [1000] * len(waited)}
    return {"step": step, "epoch": step / 10, "loss": 1.0, "images_per_second": 64.0} | (
        own if waited else {}
    )


@pytest.mark.parametrize("bytes_read_whole", [2**24, 3000])
def test_waits_are_those_since_the_number_of_ranks_changed(
    bytes_read_whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a long log, of which only some lines are read, if these are like the others."""
    monkeypatch.setattr("cconvnet.runs.history._READ_WHOLE", bytes_read_whole)
    (tmp_path / "config.json").write_text(json.dumps({"settings": {"batch": 16, "accumulate": 2}}))
    waits = [[], [2.5], [1.0, 2.0, 3.0], [0.5, 0.25]]
    lines = [line_of_ranks(10 * number, waits[number // 50]) for number in range(1, 200)]
    lines.insert(120, {"step": 1200, "epoch": 120, "test_loss": 1.0, "test_error_top1": 0.1})
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines[:170]))
    history = History(tmp_path)
    with log.open("a") as more:
        more.writelines(json.dumps(line) + "\n" for line in lines[170:])
    assert history.read()
    found = history.waits
    assert len(found.waited) == 2 and found.slowest == 1
    assert found.share == pytest.approx(0.075)
    assert found.sent[0] / found.seconds == pytest.approx(200)
    assert found.images / found.seconds == pytest.approx(64)
    if bytes_read_whole == 2**24:
        assert found.seconds == 250 and found.waited == [25.0, 12.5]


def test_a_run_of_one_rank_has_no_waits(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"settings": {"batch": 16}}))
    lines = [line_of_ranks(10, [1.0, 2.0]), line_of_ranks(20, [])]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert History(tmp_path).waits.waited == []
