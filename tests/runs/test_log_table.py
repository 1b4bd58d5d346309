"""A run's log as a table and as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from helpers.commands import succeed_here as succeed

from cconvnet import runs
from cconvnet.runs import RunError
from cconvnet.runs.log_table import KINDS, log_table


def test_epochs_are_rows(small_run: Path) -> None:
    columns, rows = log_table(small_run)
    lines = [line for line in runs.read_log(small_run) if "test_loss" in line]
    assert len(rows) == len(lines) == 4
    for row, line, lr in zip(rows, lines, (0.05, 0.05, 0.005, 0.005), strict=True):
        found = dict(zip(columns, row, strict=True))
        assert found.pop("lr") == pytest.approx(lr)
        assert found == line and found["images_per_second"] > 0 and found["test_seconds"] > 0


def test_steps_and_checkpoints_are_rows(small_run: Path) -> None:
    log = runs.read_log(small_run)
    columns, rows = log_table(small_run, "steps")
    assert [dict(zip(columns, row, strict=True)) for row in rows] == [line for line in log if "loss" in line]
    columns, rows = log_table(small_run, "checkpoints")
    assert columns[:3] == ["step", "epoch", "checkpoint"] and None not in rows[0]
    assert [row[2] for row in rows] == [line["checkpoint"] for line in log if "checkpoint" in line]


def test_values_that_are_missing_are_empty_and_rates_have_columns(small_run: Path, tmp_path: Path) -> None:
    """Runs of earlier versions do not log the speed of an epoch."""
    (tmp_path / "config.json").write_bytes((small_run / "config.json").read_bytes())
    lines = [
        {"step": 5, "epoch": 0.5, "loss": 2.0, "lr": 0.1},
        {"step": 10, "epoch": 1.0, "loss": 1.0, "lr": 0.1, "lr_other": {"fc1.bias": 0.2}},
        {"step": 10, "epoch": 1, "train_loss": 1.5, "test_loss": 1.0, "test_error_top1": 0.25},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut')
    columns, rows = log_table(tmp_path, "steps")
    assert columns[-1] == "lr.fc1.bias" and [row[-1] for row in rows] == [None, 0.2]
    assert succeed("runs", "log", tmp_path, "--csv", "-") == (
        "epoch,step,train_loss,train_error_top1,test_loss,test_error_top1,test_error_top5,lr,"
        "images_per_second,test_seconds\n1,10,1.5,,1.0,0.25,,0.1,,\n"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_writes_the_same_as_csv_and_json(kind: str, small_run: Path, tmp_path: Path) -> None:
    columns, rows = log_table(small_run, kind)
    succeed(
        "runs", "log", small_run, "--of", kind, "--csv", tmp_path / "a.csv", "--json", tmp_path / "a.json"
    )
    found = json.loads((tmp_path / "a.json").read_text())
    assert found == [dict(zip(columns, row, strict=True)) for row in rows]
    read = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert [{key: str(value) for key, value in row.items()} for row in found] == read


def test_the_command_shows_a_table(small_run: Path) -> None:
    shown = succeed("runs", "log", small_run)
    for line in runs.read_log(small_run):
        if "test_loss" in line:
            assert f"{line['test_loss']:.6g}" in shown
    text = "--of must be one of checkpoints, epochs, steps, not 'epoch'; did you mean 'epochs'?"
    with pytest.raises(ValueError, match=re.escape(text)):
        succeed("runs", "log", small_run, "--of", "epoch")
    with pytest.raises(RunError, match="is not a run"):
        succeed("runs", "log", small_run.parent)


def test_listing_is_what_runs_does_without_a_command(small_run: Path) -> None:
    shown = succeed("runs", "list", small_run.parent)
    assert small_run.name in shown
    assert succeed("runs", small_run.parent) == shown
    assert succeed("runs", "--sort", "error", small_run.parent) == shown


def test_what_is_no_run_has_no_table(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        log_table(tmp_path)
