"""Cost of cconvnet beside training: imports, memory that does not grow, and their measurement."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import io
import itertools
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cconvnet.console import Bar
from cconvnet.devices import devices_of
from cconvnet.training.new_run import new_run
from cconvnet.training.options import Options
from cconvnet.training.start import begin
from cconvnet.training.trainer import Trainer

HEAVY = {
    "PIL",
    "cupy",
    "google",
    "matplotlib",
    "numpy",
    "rich",
    "safetensors",
    "simplejpeg",
    "tensorboard",
    "torch",
    "typer",
}


@pytest.fixture(scope="module")
def overheads() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "overheads.py"
    spec = importlib.util.spec_from_file_location("overheads", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- imports ---------------------------------------------------------------------------------------------


def imported(code: str) -> set[str]:
    """The packages that a fresh process has imported after some code."""
    shown = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", shown], capture_output=True, text=True, check=True, timeout=200
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("cconvnet", set()),
        ("cconvnet.nets", set()),
        ("cconvnet.console", set()),
        ("cconvnet.cli", {"rich", "typer"}),
        ("cconvnet.runs.overview", {"numpy"}),
        ("cconvnet.ops", {"numpy"}),
        ("cconvnet.training.session", {"numpy", "PIL", "simplejpeg"}),
    ],
)
def test_nothing_heavy_is_imported_that_is_not_used(module: str, allowed: set[str]) -> None:
    assert imported(f"import {module}") & HEAVY <= allowed


def test_training_imports_no_pictures(tmp_path: Path) -> None:
    """Only the command draws, and only when training has ended."""
    code = f"""
import io
from pathlib import Path
from cconvnet.console import Silent
from cconvnet.training.options import Options
from cconvnet.training.session import train
train(Options(devices=["cpu:0"], steps=2, out=Path({str(tmp_path / "run")!r})), Silent(io.StringIO()))
"""
    assert not {"matplotlib", "rich", "typer", "torch", "tensorboard", "google"} & imported(code)


# ---- memory ----------------------------------------------------------------------------------------------


def trainer(out: Path, steps: int, **options: Any) -> tuple[Trainer, Options]:
    wanted = Options(devices=["cpu:0"], epochs=10_000, steps=steps, out=out, log_every=5, **options)
    return new_run(wanted, devices_of(["cpu:0"]), Bar(io.StringIO())), wanted


@pytest.mark.parametrize("leak", [None, "step", "epoch"])
def test_memory_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leak: str | None) -> None:
    """Nothing is kept of a step, nor of an epoch: neither objects nor their bytes.

    What grows once, such as one of Python's own tables, grows in one stretch of steps; a leak in each.
    """
    stretch = 66  # three epochs
    training, options = trainer(tmp_path / "run", 5 * stretch + 10, tensorboard=_tensorboard())
    # What would be written to a terminal is gone; here it would be kept.
    monkeypatch.setattr(training.reporter, "_write", lambda text: None)
    step, kept = training.steps.begin, []
    held: list[tuple[int, int]] = []

    def counted(*given: Any) -> None:
        done = training.progress.step
        if leak == "step" or (leak == "epoch" and done % 22 == 0):
            kept.append([bytearray(100) for _ in range(1 if leak == "step" else 22)])
        if done and done % stretch == 0:
            training.checkpoints.wait()
            gc.collect()
            held.append((tracemalloc.get_traced_memory()[0], len(gc.get_objects())))
        step(*given)

    monkeypatch.setattr(training.steps, "begin", counted)
    tracemalloc.start()
    try:
        with training.run:
            begin(training, options)
            training.train(options)
    finally:
        tracemalloc.stop()
    assert len(held) == 5
    growth = [
        min(after[index] - before[index] for before, after in itertools.pairwise(held)) for index in (0, 1)
    ]
    if leak is not None:
        assert growth[0] > 66 * 100
        return
    assert growth[0] < 50 * stretch
    assert growth[1] < stretch // 2


def _tensorboard() -> bool:
    return importlib.util.find_spec("tensorboard") is not None


@pytest.mark.long
def test_resident_memory_is_flat(overheads: ModuleType) -> None:
    command = [sys.executable, overheads.__file__, "--parts", "memory", "--steps", "2000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout


# ---- the measurement -------------------------------------------------------------------------------------


def test_the_line_through_memory(overheads: ModuleType) -> None:
    flat = overheads.line_through([(step, 10**8) for step in range(0, 100, 10)])
    assert (flat["slope_mb"], flat["growth_mb"]) == (0, 0)
    leak = overheads.line_through([(step, 10**8 + 5000 * step) for step in range(0, 100, 10)])
    assert leak["slope_mb"] == pytest.approx(5.0)
    assert leak["growth_mb"] == pytest.approx(0.45)


def test_turns_tell_watched_steps_from_others(overheads: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take 10 ticks, and watching takes 1 more of every second turn."""
    now = [0.0]
    monkeypatch.setattr(overheads.time, "perf_counter", lambda: now[0])
    turns = overheads._Turns(20)
    said = []

    def say() -> None:
        said.append(now[0])
        now[0] += 1

    watched = turns.watched(say)
    for step in range(overheads._WARM_STEPS + 400):
        turns.next(step)
        now[0] += 10
        watched()
    found = turns.result()
    assert found["step_seconds"] == 10
    assert found["ratio"] == pytest.approx(1.1)
    assert found["share"] == pytest.approx(1 / 11, rel=0.15)
    assert len(said) == 300


def test_all_parts_are_measured(
    overheads: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "found.json"
    code = overheads.main(["--steps", "300", "--processes", "1", "--json", str(file)])
    found = json.loads(file.read_text())
    assert list(found["parts"]) == list(overheads.TARGETS)
    assert found["net"] == "lenet"
    parts = found["parts"]
    assert 0 < parts["import"]["value"] < parts["import"]["train_seconds"]
    assert parts["start"]["value"] > parts["import"]["train_seconds"] / 10
    assert parts["watching"]["turns"] > 0
    assert 0 < parts["watching"]["share"] < 1
    assert parts["watching"]["curve_seconds"] > 0
    assert parts["memory"]["steps"] == 290
    assert parts["memory"]["first_mb"] > 10
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(overheads.TARGETS)
    missed = any(found["value"] > overheads.TARGETS[part] for part, found in parts.items())
    assert code == int(missed)
    assert missed == any("MISSED" in line for line in lines)


def test_a_missed_target_is_said(overheads: ModuleType) -> None:
    lines = overheads.report({"parts": {"start": {"value": 3.5}, "import": {"value": 0.1, "a": [1.0, 2.0]}}})
    assert "MISSED" in lines[0]
    assert lines[1].endswith("met (a 1 to 2)")


def test_what_is_refused(overheads: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--parts", "speed"], ["--steps", "0"], ["--processes", "0"]):
        with pytest.raises(SystemExit):
            overheads.main(arguments)
        assert "--parts of import, start, watching, memory" in capsys.readouterr().err


def test_the_end_of_the_first_step_ends_a_start(overheads: ModuleType) -> None:
    options = argparse.Namespace(net="lenet", device="cpu:0", data=None, steps=1)
    assert overheads.start_seconds(options) > 0
