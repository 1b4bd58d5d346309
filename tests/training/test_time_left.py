"""The time left and the speed of epochs, by a clock that only the test advances."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.training import resume, run_training, steps_in_log

from cconvnet import runs
from cconvnet.console import Reporter
from cconvnet.evaluate import Tally
from cconvnet.runs import checkpoint
from cconvnet.runs.checkpoint import Checkpoint
from cconvnet.training import saver, time_left, trainer
from cconvnet.training.saver import Checkpointer
from cconvnet.training.step import Steps
from cconvnet.training.time_left import Pace

STEP, TEST_BATCH, SAVING = 2.0, 3.0, 7.0  # seconds
BATCHES = 45  # of 32 images, in an epoch
TEST = 12 * TEST_BATCH  # of 355 images


class Watcher(Reporter):
    """Record the time and the time left at each report."""

    def __init__(self, now: list[float]) -> None:
        super().__init__(sys.stdout)
        self.now = now
        self.seen: list[tuple[str, float, float | None]] = []
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def step(
        self, done: int, what: str, values: object = "", left: Callable[[], float | None] | None = None
    ) -> None:
        if left is not None:  # not the reading of the data before training
            self.seen.append((what, self.now[0], left()))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; steps, batches of tests and checkpoints advance it."""
    seconds = [1000.0]
    monkeypatch.setattr(time_left, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    # The thread that writes checkpoints has its own time, which is short.
    clock = SimpleNamespace(perf_counter=time.perf_counter, monotonic=lambda: seconds[0])
    monkeypatch.setattr(saver, "time", clock)

    def advancing(kind: type, name: str, by: float) -> None:
        before = getattr(kind, name)

        def call(self: Any, *arguments: Any) -> Any:
            seconds[0] += by
            return before(self, *arguments)

        monkeypatch.setattr(kind, name, call)

    def evaluate(network: Any, batches: Iterator[Any], stopped: Callable[[], bool], world: Any) -> Tally:
        for _ in batches:
            seconds[0] += TEST_BATCH
        return Tally(100.0, 10, 0, 100)

    advancing(Steps, "begin", STEP)
    advancing(Checkpointer, "save", SAVING)
    monkeypatch.setattr(trainer, "evaluate", evaluate)
    return seconds


def test_the_time_left_is_the_time_that_it_takes(now: list[float], tmp_path: Path) -> None:
    watcher = Watcher(now)
    # A checkpoint before the first step, four within an epoch of 45, and one at its end.
    run_training(watcher, out=tmp_path / "run", epochs=3, checkpoint_every=9)
    end = now[0]
    assert end == 1000 + SAVING + 3 * (BATCHES * STEP + 5 * SAVING + TEST)
    first = next(n for n, (what, _, _) in enumerate(watcher.seen) if what == "epoch 2/3")
    assert len(watcher.seen) - first > 2 * BATCHES
    for what, at, left in watcher.seen[first:]:
        assert left is not None
        # Checkpoints are spread over the steps between which they come.
        assert left == pytest.approx(end - at, abs=2 * SAVING), what
    tests = [(at, left) for what, at, left in watcher.seen if what.startswith("epoch 3/3, testing")]
    assert len(tests) == 12
    for at, left in tests:
        assert left == pytest.approx(end - at - SAVING, abs=SAVING + 0.1)
    lefts = [left for _, left in tests]
    assert lefts == sorted(lefts, reverse=True) and lefts[0] - lefts[-1] > TEST / 2  # type: ignore[operator]


def test_a_first_test_is_estimated_from_its_own_batches(now: list[float], tmp_path: Path) -> None:
    watcher = Watcher(now)
    run_training(watcher, out=tmp_path / "run", epochs=1)
    tests = [(at, left) for what, at, left in watcher.seen if "testing" in what]
    for at, left in tests[1:]:
        assert left == pytest.approx(now[0] - at - SAVING, abs=2 * TEST_BATCH)


def test_a_resumed_run_knows_the_time_of_its_last_test(now: list[float], tmp_path: Path) -> None:
    run_training(out=tmp_path / "run", epochs=1)
    watcher = Watcher(now)
    resume(tmp_path / "run", watcher, epochs=2)
    _, at, left = watcher.seen[3]
    assert left == pytest.approx((BATCHES - 4) * STEP + TEST, abs=0.2)
    assert now[0] - at == pytest.approx(left + SAVING, abs=0.2)


def test_the_speed_of_an_epoch_is_its_own(
    now: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower(self: Any, *arguments: Any) -> None:
        if self._progress.epoch == 1:
            now[0] += 3 * STEP
        begin(self, *arguments)

    begin = Steps.begin
    monkeypatch.setattr(Steps, "begin", slower)
    watcher = Watcher(now)
    run_training(watcher, out=tmp_path / "run", epochs=3, log_every=5)
    log = runs.read_log(tmp_path / "run")
    epochs = [line for line in log if "test_loss" in line]
    assert [line["images_per_second"] for line in epochs] == [32 / STEP, 32 / (4 * STEP), 32 / STEP]
    assert [line["test_seconds"] for line in epochs] == [TEST] * 3
    shown = [line.rsplit(", ", 1)[1] for line in watcher.lines if line.startswith("epoch")]
    assert shown == ["16 images/s", "4 images/s", "16 images/s"]
    windows = [line["images_per_second"] for line in steps_in_log(tmp_path / "run")]
    assert windows == [16.0] * 9 + [4.0] * 9 + [16.0] * 9
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["images_per_second"] == pytest.approx(3 * BATCHES * 32 / summary["seconds"], abs=0.1)
    assert summary["seconds"] == 6 * BATCHES * STEP


@pytest.mark.parametrize("recorded", [True, False])
def test_an_epoch_that_was_stopped_counts_both_parts(
    recorded: bool, now: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints of earlier versions do not contain an epoch's time."""
    run_training(out=tmp_path / "run", epochs=2, steps=11)
    if not recorded:
        path, content, _ = runs.find_checkpoint(tmp_path / "run")
        progress = dict(content.progress)
        for name in ("epoch_images", "epoch_seconds", "test_seconds"):
            del progress[name]
        checkpoint.save(path, Checkpoint(content.tensors, content.spec, content.settings, progress))
    begin = Steps.begin

    def slower(self: Any, *arguments: Any) -> None:
        now[0] += STEP
        begin(self, *arguments)

    monkeypatch.setattr(Steps, "begin", slower)
    resume(tmp_path / "run")
    first, second = [line for line in runs.read_log(tmp_path / "run") if "test_loss" in line]
    seconds = 11 * STEP + 34 * 2 * STEP if recorded else BATCHES * 2 * STEP
    assert first["images_per_second"] == pytest.approx(BATCHES * 32 / seconds, abs=0.05)
    assert second["images_per_second"] == 8.0


def test_pauses_count_for_the_steps_between_them() -> None:
    pace = Pace(0)
    for step in range(100):
        pace.count_step(0.1)
        if step % 10 == 9:
            pace.count_pause(0.5)
    assert pace.step_seconds == pytest.approx(0.1)  # the speed that is shown is that of steps
    assert pace.left(50, 0) == pytest.approx(50 * 0.1 + 5 * 0.5)
    pace.writing_seconds = 2.0
    assert pace.left(50, 0) == pytest.approx(50 * 0.1 + 5 * 0.5 + 2)


def test_a_test_that_takes_longer_than_before_is_not_done_before_its_end() -> None:
    pace = Pace(1)
    pace.count_step(1.0)
    pace.count_epoch_end(10.0)
    for share, passed in ((0.0, 0.0), (0.25, 5.0), (0.5, 10.0), (0.75, 15.0)):
        pace.count_test(passed, share)
        expected = 10.0 if not share else 20.0
        assert pace.left(0, 1) == pytest.approx(expected - passed)
    pace.count_epoch_end(20.0)
    assert pace.left(0, 1) == pytest.approx(15.0)
