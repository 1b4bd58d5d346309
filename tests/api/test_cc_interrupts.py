"""Signals end a training from Python with a checkpoint; what follows depends on who waits for the run."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.training import SETTINGS, assert_same_run

import cconvnet as cc
from cconvnet import runs
from cconvnet.runs.overview import read_overview
from cconvnet.training.step import Steps

OPTIONS: dict[str, Any] = {**SETTINGS, "quiet": True}

_SCRIPT = """
import sys
import cconvnet as cc
cc.train(batch=32, epochs=100000, log_every=4, devices="cpu:0", out=sys.argv[1])
print("went on", flush=True)
"""


@pytest.fixture
def signal_in_step_41(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Signals to send, one after the other, while the step after the 40th is begun."""
    numbers: list[int] = []
    begin = Steps.begin

    def interrupted(self: Steps, *args: Any) -> None:
        begin(self, *args)
        if self._progress.step == 41:
            while numbers:
                signal.raise_signal(numbers.pop(0))

    monkeypatch.setattr(Steps, "begin", interrupted)
    return numbers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_script_with_a_checkpoint(number: int, tmp_path: Path) -> None:
    path = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while len(runs.read_log(path)) < 3 and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == -number and "went on" not in output
    step = runs.find_checkpoint(path)[1].step
    assert f"stopped after step {step:,}; to resume: cc.train(resume='{path}')" in output
    assert read_overview(path).state == "stopped"
    if number == signal.SIGINT:
        assert errors.splitlines()[-1] == f"KeyboardInterrupt: training stopped after step {step:,}"


def test_a_stopped_run_is_resumed_to_the_same_bits(signal_in_step_41: list[int], tmp_path: Path) -> None:
    whole = cc.train(out=tmp_path / "whole", **OPTIONS)
    signal_in_step_41.append(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stopped:
        cc.train(out=tmp_path / "run", **OPTIONS)
    run = stopped.value.run  # type: ignore[attr-defined]
    assert run.summary["steps"] == 41 and not run.complete
    run.train(devices="cpu:0", log_every=4, quiet=True)
    assert_same_run(run.path, whole.path)


def test_where_somebody_types_the_stopped_run_is_returned(
    signal_in_step_41: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    signal_in_step_41.append(signal.SIGINT)
    run = cc.train(out=tmp_path / "run", **OPTIONS)
    assert run.overview.state == "stopped" and run.summary["steps"] == 41


def test_a_second_ctrl_c_stops_at_once(
    signal_in_step_41: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    signal_in_step_41 += [signal.SIGINT, signal.SIGINT]
    with pytest.raises(KeyboardInterrupt) as stopped:
        cc.train(out=tmp_path / "run", **OPTIONS)
    assert not hasattr(stopped.value, "run")
    assert runs.find_checkpoint(tmp_path / "run")[1].step == 0


def test_a_handler_of_the_program_has_its_signal_after_the_checkpoint(
    signal_in_step_41: list[int], tmp_path: Path
) -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(read_overview(tmp_path / "run").state))
    try:
        signal_in_step_41.append(signal.SIGTERM)
        run = cc.train(out=tmp_path / "run", **OPTIONS)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["stopped"] and run.summary["steps"] == 41


def test_a_signal_before_the_first_step_is_delivered_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    monkeypatch.setattr("cconvnet.training.start.begin", lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        with pytest.raises(KeyboardInterrupt):
            cc.train(out=tmp_path / "run", **OPTIONS)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_a_training_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    found: list[cc.Run] = []
    handler = signal.getsignal(signal.SIGINT)
    inside: list[Any] = []

    def train() -> None:
        found.append(cc.train(out=tmp_path / "run", **{**OPTIONS, "epochs": 1}))
        inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join(60)
    assert found[0].complete and inside == [handler]
