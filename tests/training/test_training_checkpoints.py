"""Checkpoints of a training: the steps after which they are saved, while training goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.training import assert_same_run, fake_tests, log_without_times, resume, run_training

from cconvnet import runs
from cconvnet.evaluate import Tally
from cconvnet.network import Network
from cconvnet.runs import checkpoint
from cconvnet.runs.checkpoint import Folder
from cconvnet.training.saver import Saver, Snapshot


def saved_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the steps after which checkpoints are written."""
    steps, save = [], Folder.save

    def noting(folder: Folder, content: checkpoint.Checkpoint, best_step: int | None = None) -> Path:
        steps.append(content.step)
        return save(folder, content, best_step)

    monkeypatch.setattr(Folder, "save", noting)
    return steps


@pytest.mark.parametrize(
    ("stall", "writing", "epoch", "expected"),
    [
        (0.0, 0.0, 0.0, [0, 45, 90, 135, 180, 225, 270]),  # a small network, saved after every epoch
        (1.0, 0.0, 1.0, [0, 45, 90, 270]),  # the first, the second, which is better, and the last
        (1.0, 0.0, 4.0, [0, 45, 90, 225, 270]),  # the fifth, 12 s after the second
        (0.0, 3.0, 2.0, [0, 45, 90, 225, 270]),  # the fifth, 6 s after the second: the disk rested for 3 s
    ],
)
def test_ends_of_epochs_are_saved_where_that_is_worth_it(
    stall: float,
    writing: float,
    epoch: float,
    expected: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training and the writer have fake clocks here, so that a busy machine changes nothing."""
    steps, trained, written = saved_steps(monkeypatch), 0.0, 0.0
    save, take, begin = Folder.save, Snapshot.take, Saver.begin
    numbers = iter([50, 40, 45, 45, 40, 41])

    def slow_save(folder: Folder, content: checkpoint.Checkpoint, best_step: int | None = None) -> Path:
        nonlocal written
        written += writing
        return save(folder, content, best_step)

    def slow_take(snapshot: Snapshot) -> Callable[[], None]:
        nonlocal trained
        trained += stall
        return take(snapshot)

    def begin_and_wait(saver: Saver, *arguments: Any) -> None:
        begin(saver, *arguments)
        saver.settle()

    def test(network: Network, batches: Any, stopped: Any, world: Any) -> Tally:
        nonlocal trained
        trained += epoch
        return Tally(100.0, next(numbers), 0, 100)

    monkeypatch.setattr(Folder, "save", slow_save)
    monkeypatch.setattr(Snapshot, "take", slow_take)
    monkeypatch.setattr(Saver, "begin", begin_and_wait)
    monkeypatch.setattr("cconvnet.training.trainer.evaluate", test)
    clocks = SimpleNamespace(monotonic=lambda: trained, perf_counter=lambda: written)
    monkeypatch.setattr("cconvnet.training.saver.time", clocks)
    outcome = run_training(out=tmp_path / "run", epochs=6)
    assert steps == expected
    assert outcome.summary["best"]["epoch"] == 2
    kept = {file.name for file in Folder(tmp_path / "run" / "checkpoints").files()}
    for name in (outcome.summary["checkpoint"], outcome.summary["best"]["checkpoint"]):
        assert Path(name).name in kept
    lines = [line for line in runs.read_log(tmp_path / "run") if "checkpoint" in line]
    assert [(line["step"], line["epoch"]) for line in lines] == [(step, step / 45) for step in expected]
    for line in lines:
        assert line["checkpoint"] == f"step-{line['step']:08d}.safetensors"
        assert (line["stall_seconds"], line["write_seconds"]) == (stall, writing)
        assert line["bytes"] > 1_000_000
        assert not {"loss", "test_loss"} & line.keys()


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs 2 and 3 end while the writer is busy and are not saved; epoch 4, the best, waits for it."""
    steps: list[int] = []
    numbers, go_on, writing = iter([40, 50, 50, 30]), threading.Event(), threading.Lock()
    save, begin, collect = Folder.save, Saver.begin, Saver.collect

    def slow(folder: Folder, content: checkpoint.Checkpoint, best_step: int | None = None) -> Path:
        assert writing.acquire(blocking=False), "two writers"
        if content.step == 45:
            assert go_on.wait(60), "nobody waits for the writer"
        path = save(folder, content, best_step)
        writing.release()
        return path

    def noting(saver: Saver, content: checkpoint.Checkpoint, best_step: int | None) -> None:
        steps.append(content.step)
        begin(saver, content, best_step)

    def collecting(saver: Saver) -> Any:
        if steps[-1:] == [45]:
            assert saver.busy
            go_on.set()
        return collect(saver)

    monkeypatch.setattr(Folder, "save", slow)
    monkeypatch.setattr(Saver, "begin", noting)
    monkeypatch.setattr(Saver, "collect", collecting)
    monkeypatch.setattr(
        "cconvnet.training.trainer.evaluate",
        lambda network, batches, stopped, world: Tally(100.0, next(numbers), 0, 100),
    )
    run_training(out=tmp_path / "run", epochs=4)
    assert steps == [0, 45, 180]


def test_an_epoch_that_was_not_saved_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is killed in its fourth epoch, two epochs after the last checkpoint."""
    monkeypatch.setattr("cconvnet.training.saver._TRAINING_PER_STALL", 1e9)
    fake_tests(monkeypatch, [50, 60, 60, 60])
    run_training(out=tmp_path / "whole", epochs=4)
    fake_tests(monkeypatch, [50, 60, 60, 60])
    step = Network.train_step

    def dying(network: Network, *arguments: Any) -> None:
        if len(log_without_times(tmp_path / "run")) >= 3 * 12:
            raise KeyboardInterrupt  # as little is saved as at a kill
        step(network, *arguments)

    monkeypatch.setattr(Network, "train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        run_training(out=tmp_path / "run", epochs=4)
    monkeypatch.setattr(Network, "train_step", step)
    assert [file.name for file in Folder(tmp_path / "run" / "checkpoints").files()] == [
        "step-00000000.safetensors",
        "step-00000045.safetensors",
    ]
    fake_tests(monkeypatch, [60, 60, 60])
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
