"""Training from start to end, and the promise that stopping, killing and breaking it costs nothing."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import fcntl
import io
import itertools
import json
import os
import platform
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.commands import Listener
from PIL import Image

from cconvnet import data, nets, runs
from cconvnet.console import Reporter
from cconvnet.data.color_noise import color_components
from cconvnet.data.workers import DecodePool
from cconvnet.devices import Device
from cconvnet.evaluate import Tally, evaluate_run, load_trained, predict
from cconvnet.formats import cuda_convnet_writer
from cconvnet.formats.netfiles import NetFiles
from cconvnet.layers import ConvLayer
from cconvnet.nets import alexnet, alexnet_2012
from cconvnet.nets.specs import LrStep, NetSpec
from cconvnet.network import Network
from cconvnet.runs import Run, RunError, checkpoint
from cconvnet.runs.checkpoint import COLORS, MEAN, CheckpointError, Folder
from cconvnet.system import machine
from cconvnet.system.outputs import side_file
from cconvnet.training.saver import Saver, Snapshot
from cconvnet.training.schedule import Rates, StepSchedule, on_plateau
from cconvnet.training.session import train
from cconvnet.training.settings import Options, Settings, parse_lr_plateau, parse_lr_scale, parse_lr_steps
from cconvnet.training.stopping import TrainingStopped
from cconvnet.training.trainer import Outcome, Trainer

# Small batches make many steps: 45 an epoch, and little work in each.
SETTINGS: dict[str, Any] = {
    "devices": ["cpu:0"],
    "batch": 32,
    "epochs": 2,
    "seed": 5,
    "lr": 0.05,
    "log_every": 4,
}
FLAGS = [
    "--device",
    "cpu:0",
    "--batch",
    "32",
    "--epochs",
    "2",
    "--seed",
    "5",
    "--lr",
    "0.05",
    "--log-every",
    "4",
]
STEPS = 90


def run_training(listener: Reporter | None = None, **changes: Any) -> Outcome:
    return train(Options(**{**SETTINGS, **changes}), listener or Listener())


def resume(path: Path, listener: Reporter | None = None, **changes: Any) -> Outcome:
    return train(
        Options(**{"devices": ["cpu:0"], "resume": path, "log_every": 4, **changes}), listener or Listener()
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    path = tmp_path_factory.mktemp("unbroken") / "run"
    run_training(out=path)
    return path


def log_without_times(run: Path) -> list[dict[str, Any]]:
    lines = runs.read_log(run)
    assert len(lines) == len((run / "log.jsonl").read_text().splitlines())
    times = ("images_per_second", "copy_seconds")
    # When checkpoints are written depends on how fast that is.
    return [
        {key: value for key, value in line.items() if key not in times}
        for line in lines
        if "checkpoint" not in line
    ]


def steps_in_log(run: Path) -> list[dict[str, Any]]:
    """The lines of windows of steps, not those of epochs and checkpoints."""
    return [line for line in runs.read_log(run) if "loss" in line]


def assert_same_run(run: Path, other: Path) -> None:
    """Two runs ended with bitwise the same weights, and with the same log but for its times."""
    _, one, _ = runs.find_checkpoint(run)
    _, two, _ = runs.find_checkpoint(other)
    assert one.step == two.step
    assert one.tensors.keys() == two.tensors.keys()
    for name, tensor in one.tensors.items():
        assert tensor.tobytes() == two.tensors[name].tobytes(), name
    assert log_without_times(run) == log_without_times(other)
    one_summary, two_summary = (
        {
            key: value
            for key, value in summary.items()
            if key not in ("seconds", "images_per_second", "copy_seconds")
        }
        for summary in (json.loads((path / "summary.json").read_text()) for path in (run, other))
    )
    assert one_summary == two_summary


def colored_pictures(root: Path, count: int, side: int) -> Path:
    """Coloured pictures of three classes: crops, mirror images and colour noise all change them."""
    draws = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = draws.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((side + 4, side)).save(folder / f"{number}.png")
    return root


# ---- a whole run -----------------------------------------------------------------------------------------


def test_training_learns(unbroken: Path) -> None:
    summary = json.loads((unbroken / "summary.json").read_text())
    assert summary["complete"] is True
    assert (summary["net"], summary["device"], summary["precision"]) == ("lenet", "cpu:0", "fp32")
    assert (summary["epochs"], summary["steps"], summary["batch"]) == (2, STEPS, 32)
    assert summary["test_error_top1"] < 0.1
    assert summary["test_error_top5"] < 0.02
    assert summary["train_error_top1"] < 0.2
    assert summary["images_per_second"] > 0
    assert (unbroken / summary["checkpoint"]).exists()
    assert (unbroken / summary["best"]["checkpoint"]).exists()


def test_the_log_tells_the_run(unbroken: Path) -> None:
    lines = log_without_times(unbroken)
    steps = [line for line in lines if "loss" in line]
    epochs = [line for line in lines if "test_loss" in line]
    assert [line["step"] for line in steps] == list(range(4, STEPS + 1, 4))
    assert [(line["step"], line["epoch"]) for line in epochs] == [(45, 1), (90, 2)]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(line["lr"] == 0.05 and "lr_other" not in line for line in steps)
    assert all(line["copied_bytes"] == 0 for line in steps)  # on one device


def test_the_configuration_is_resolved(unbroken: Path) -> None:
    config = json.loads((unbroken / "config.json").read_text())
    assert config["settings"]["lr"] == 0.05
    assert config["settings"]["seed"] == 5
    assert config["settings"]["train_images"] == 1442
    assert config["spec"]["name"] == "lenet"
    assert config["parameters"] == 131_080


def test_every_run_with_the_same_seed_is_the_same(unbroken: Path, tmp_path: Path) -> None:
    run_training(out=tmp_path / "again")
    assert_same_run(unbroken, tmp_path / "again")
    run_training(out=tmp_path / "other", seed=6)
    _, one, _ = runs.find_checkpoint(unbroken)
    _, two, _ = runs.find_checkpoint(tmp_path / "other")
    assert any((one.tensors[name] != two.tensors[name]).any() for name in one.tensors)


def test_the_test_error_is_that_of_the_weights(unbroken: Path) -> None:
    """The trainer's error, computed again from the checkpoint with nothing but NumPy and the source."""
    trained = load_trained(unbroken, devices=["cpu:0"], batch=50)
    source = data.open_source()
    tally = evaluate_run(trained, source)
    summary = json.loads((unbroken / "summary.json").read_text())
    assert tally.count == len(source.test)
    assert tally.error_top1 == summary["test_error_top1"]
    images, labels = source.test.read(np.arange(len(source.test)))
    wrong = 0
    for start in range(0, len(labels), 50):
        trained.network.load(images[start : start + 50], labels[start : start + 50])
        trained.network.forward(train=False)
        count = len(labels[start : start + 50])
        guesses = trained.network.outputs("cost")[:count].argmax(axis=1)
        wrong += int((guesses != labels[start : start + 50]).sum())
    assert wrong == round(tally.error_top1 * tally.count)


def test_the_mean_image_is_in_the_checkpoint(unbroken: Path) -> None:
    _, content, _ = runs.find_checkpoint(unbroken)
    images, _ = (source := data.open_source()).train.read(np.arange(len(source.train)))
    np.testing.assert_allclose(content.tensors[MEAN], images.mean(axis=0), atol=1e-4)


def test_predictions_are_probabilities_of_the_right_class(unbroken: Path, tmp_path: Path) -> None:
    from PIL import Image

    source = data.open_source()
    images, labels = source.test.read(np.arange(40))
    files = [tmp_path / f"{index}.png" for index in range(len(labels))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image[:, :, 0]).save(file)
    trained = load_trained(unbroken, devices=["cpu:0"], batch=16)
    probabilities = predict(trained, files)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.9
    trained.network.load(images[:16], labels[:16])
    trained.network.forward(train=False)
    # PNG keeps every pixel, so the network saw just what it sees in a test.
    assert probabilities[:16].astype(np.float32).tobytes() == trained.network.outputs("cost").tobytes()


def test_copies_of_training_steps_alone_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that says to copy 1,000 bytes in a training step's forward pass and in any test."""
    forward, copied = Network._run_forward, 0

    def counting(network: Network, train: bool) -> None:
        nonlocal copied
        copied += 1000 if train else 7
        forward(network, train)

    monkeypatch.setattr(Network, "_run_forward", counting)
    monkeypatch.setattr(Network, "copied_bytes", property(lambda network: copied))
    monkeypatch.setattr(Network, "copy_seconds", property(lambda network: copied / 1e6))

    def check(run: Path) -> None:
        lines = steps_in_log(run)
        assert [line["copied_bytes"] for line in lines] == [10_000] * 9
        np.testing.assert_allclose([line["copy_seconds"] for line in lines], 0.01)
        summary = json.loads((run / "summary.json").read_text())
        assert (summary["copied_bytes"], summary["copy_seconds"]) == (90_000, 0.09)

    run_training(out=tmp_path / "whole", log_every=10, checkpoint_every=7)
    check(tmp_path / "whole")
    run_training(out=tmp_path / "parts", log_every=10, steps=47)
    resume(tmp_path / "parts", log_every=10)
    check(tmp_path / "parts")

    # Killed in step 25, after a checkpoint in the middle of a window.
    def dying(network: Network, train: bool) -> None:
        if network._last == (True, 25):
            raise KeyboardInterrupt
        counting(network, train)

    monkeypatch.setattr(Network, "_run_forward", dying)
    with pytest.raises(KeyboardInterrupt):
        run_training(out=tmp_path / "killed", log_every=10, checkpoint_every=8)
    monkeypatch.setattr(Network, "_run_forward", counting)
    resume(tmp_path / "killed", log_every=10)
    check(tmp_path / "killed")


# ---- checkpoints -----------------------------------------------------------------------------------------


def saved_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list of the steps at which checkpoints will be written."""
    steps, save = [], Folder.save

    def noting(folder: Folder, content: checkpoint.Checkpoint, best_step: int | None = None) -> Path:
        steps.append(content.step)
        return save(folder, content, best_step)

    monkeypatch.setattr(Folder, "save", noting)
    return steps


def fake_tests(monkeypatch: pytest.MonkeyPatch, wrong: list[int]) -> None:
    """Tests find these numbers of wrong images, of 100."""
    numbers = iter(wrong)
    monkeypatch.setattr(
        "cconvnet.training.trainer.evaluate",
        lambda network, batches, stopped: Tally(100.0, next(numbers), 0, 100),
    )


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
    """By clocks of its own, so that a busy machine changes nothing: training's, and the writer's."""
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

    def test(network: Network, batches: Any, stopped: Any) -> Tally:
        nonlocal trained
        trained += epoch
        return Tally(100.0, next(numbers), 0, 100)

    monkeypatch.setattr(Folder, "save", slow_save)
    monkeypatch.setattr(Snapshot, "take", slow_take)
    monkeypatch.setattr(Saver, "begin", begin_and_wait)
    monkeypatch.setattr("cconvnet.training.trainer.evaluate", test)
    clock = SimpleNamespace(monotonic=lambda: trained, perf_counter=time.perf_counter)
    monkeypatch.setattr("cconvnet.training.trainer.time", clock)
    monkeypatch.setattr("cconvnet.training.saver.time", SimpleNamespace(perf_counter=lambda: written))
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
    """The ends of the second and third epoch find the writer busy and are left out; the fourth is the best
    one and waits."""
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
        lambda network, batches, stopped: Tally(100.0, next(numbers), 0, 100),
    )
    run_training(out=tmp_path / "run", epochs=4)
    assert steps == [0, 45, 180]


def test_an_epoch_that_was_not_saved_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is killed in its fourth epoch, two epochs after the last checkpoint."""
    monkeypatch.setattr("cconvnet.training.trainer._TRAINING_PER_STALL", 1e9)
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


# ---- stopping and going on -------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 44, 45, 46, 89])
def test_stop_and_resume(stop: int, unbroken: Path, tmp_path: Path) -> None:
    """Also at an epoch's last step, where training, test and checkpoint follow each other."""
    out = tmp_path / "run"
    assert run_training(out=out, steps=stop).summary["steps"] == stop
    assert not json.loads((out / "summary.json").read_text())["complete"]
    resume(out)
    assert_same_run(unbroken, out)


def test_stop_many_times(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=7)
    for steps in (20, 21, 50, 88):
        resume(out, steps=steps)
    resume(out)
    assert_same_run(unbroken, out)


def test_resume_from_an_earlier_checkpoint(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=60, checkpoint_every=10)
    first, last = Folder(out / "checkpoints").files()[-2:]
    assert (first.name, last.name) == ("step-00000050.safetensors", "step-00000060.safetensors")
    resume(first, steps=55)
    # What came after the checkpoint gone back to is of no use any more.
    assert Folder(out / "checkpoints").files()[-1].name == "step-00000055.safetensors"
    resume(out)
    assert_same_run(unbroken, out)


def killed_before_its_first_checkpoint(path: Path, patch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Resumes a run and kills it after some steps."""

    def killed(trainer: Trainer) -> bool:
        raise KeyboardInterrupt

    with patch.context() as until, pytest.raises(KeyboardInterrupt):
        until.setattr(Trainer, "_log_window", killed)
        resume(path, **changes)


def test_what_was_asked_for_once_outlives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, changes = tmp_path / "run", {"lr": 0.01, "epochs": 3}
    run_training(out=tmp_path / "whole", steps=20)
    resume(tmp_path / "whole", **changes)
    run_training(out=out, steps=20)
    killed_before_its_first_checkpoint(out, monkeypatch, **changes)
    resume(out)
    assert_same_run(tmp_path / "whole", out)


def test_a_course_that_was_left_is_not_gone_back_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    for path in (out, whole):
        run_training(out=path, steps=60, checkpoint_every=10)
    resume(Folder(whole / "checkpoints").file(50))
    killed_before_its_first_checkpoint(out / "checkpoints/step-00000050.safetensors", monkeypatch)
    assert Folder(out / "checkpoints").files()[-1].name == "step-00000050.safetensors"
    resume(out)
    assert_same_run(whole, out)


def test_a_finished_run_has_nothing_left(unbroken: Path) -> None:
    listener = Listener()
    resume(unbroken, listener)
    assert "nothing left to train: 90 of 90 steps are done" in listener.lines


def test_more_epochs_go_on(tmp_path: Path) -> None:
    run_training(out=tmp_path / "long", epochs=3)
    run_training(out=tmp_path / "run", epochs=1)
    resume(tmp_path / "run", epochs=3)
    assert_same_run(tmp_path / "long", tmp_path / "run")


def test_stopped_in_a_test_and_killed_after_it(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The epoch's line is in the log, but not in the checkpoint, and must not come twice."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:

        def interrupted(network: Network, batches: Any, stopped: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr("cconvnet.training.trainer.evaluate", interrupted)
        assert run_training(out=out).signal == signal.SIGTERM
    progress = runs.find_checkpoint(out)[1].progress
    assert (progress["step"], progress["epoch"], progress["step_in_epoch"]) == (45, 0, 45)
    with monkeypatch.context() as patch:

        def killed(folder: Folder, content: checkpoint.Checkpoint, best_step: int | None = None) -> Path:
            raise KeyboardInterrupt

        patch.setattr(Folder, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            resume(out)
    assert "test_loss" in runs.read_log(out)[-1]
    resume(out)
    assert_same_run(unbroken, out)


def test_a_test_after_the_checkpoint_is_saved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the end of the epoch would not be worth it."""
    monkeypatch.setattr("cconvnet.training.trainer._TRAINING_PER_STALL", 1e9)
    out = tmp_path / "run"
    fake_tests(monkeypatch, [50])
    run_training(out=out, epochs=1)

    def interrupted(network: Network, batches: Any, stopped: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("cconvnet.training.trainer.evaluate", interrupted)
    resume(out, epochs=2)
    assert runs.find_checkpoint(out)[1].progress["epoch"] == 1
    fake_tests(monkeypatch, [60])
    resume(out)
    progress = runs.find_checkpoint(out)[1].progress
    assert (progress["epoch"], progress["last_test"]["test_error_top1"]) == (2, 0.6)


def test_data_that_can_no_longer_be_read(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails at night: it is said what stands, and the run goes on once the disk is mended."""
    out, finish = tmp_path / "run", data.Loader._finish
    read = 0

    def failing(loader: data.Loader, *begun: Any) -> Any:
        nonlocal read
        read += 1
        if read == 20:
            raise data.DataError("/data/train/ant/7.jpg cannot be read: Input/output error")
        return finish(loader, *begun)

    monkeypatch.setattr(data.Loader, "_finish", failing)
    with pytest.raises(TrainingStopped, match=r"7\.jpg cannot be read: Input") as caught:
        run_training(out=out, checkpoint_every=5)
    assert str(caught.value).endswith(f"to go on from it: cconvnet train --resume {out}")
    monkeypatch.undo()
    resume(out)
    assert_same_run(out, unbroken)


def test_killed_before_the_first_checkpoint(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=3)
    for file in Folder(out / "checkpoints").files():
        file.unlink()
    listener = Listener()
    resume(out, listener)
    assert any("from the beginning" in line for line in listener.lines)
    assert_same_run(unbroken, out)


def test_killed_before_the_configuration(tmp_path: Path) -> None:
    with Run.create(tmp_path / "killed", {"settings": {}}):
        pass
    for file in (tmp_path / "killed").rglob("*.json"):
        file.rename(side_file(file))
    (tmp_path / "killed" / "checkpoints").rmdir()
    assert run_training(out=tmp_path / "killed", steps=1).summary["steps"] == 1


def test_auto_begins_and_then_goes_on(unbroken: Path, tmp_path: Path) -> None:
    """One command, as a batch system gives it again and again."""
    out, listener = tmp_path / "run", Listener()
    again = {"out": out, "resume": Path("auto"), "checkpoint_every": 10}
    run_training(listener, steps=33, **again)
    assert f"{out} holds no run yet: beginning it" in listener.lines
    newest = Folder(out / "checkpoints").files()[-1]
    newest.write_bytes(newest.read_bytes()[:-9])
    run_training(listener, **again)
    assert any(line.startswith("skipped: ") and newest.name in line for line in listener.lines)
    assert f"resuming {out} from step 30" in listener.lines
    assert_same_run(unbroken, out)
    run_training(listener, **again)
    assert "nothing left to train: 90 of 90 steps are done" in listener.lines


def test_auto_takes_a_network_from_files_each_time(tmp_path: Path) -> None:
    """The run's own network counts from the second time on."""
    files, out = (tmp_path / "layers.cfg", tmp_path / "layer-params.cfg"), tmp_path / "run"
    spec = nets.build("cifar-18pct", image_shape=(32, 32, 3), classes=3)
    cuda_convnet_writer.write(spec, *files, towers=1)
    pictures = str(colored_pictures(tmp_path / "pictures", 48, 32))
    settings = {"net": NetFiles(*files), "data": pictures, "size": 32, "lr": 0.001, "batch": 8}
    for steps in (2, 4):
        run_training(out=out, resume=Path("auto"), steps=steps, **settings)
    assert runs.find_checkpoint(out)[1].step == 4


def test_auto_takes_the_newest_run_that_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"runs/ holds no run to go on with; --resume RUN names one"):
        resume(Path("auto"))
    for name, settings in (("old", {"steps": 3}), ("new", {"steps": 5}), ("done", {"epochs": 1})):
        run_training(out=Path("runs") / name, **settings)
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "config.json").write_text("{")
    listener = Listener()
    resume(Path("auto"), listener)
    assert f"resuming {Path('runs/new')} from step 5" in listener.lines
    # Complete, until it was told to go on for longer and stopped on the way.
    resume(Path("runs/done"), epochs=2, steps=50)
    resume(Path("auto"), listener, steps=51)
    assert f"resuming {Path('runs/done')} from step 50" in listener.lines
    resume(Path("runs/done"))
    resume(Path("auto"), listener, steps=4)
    assert f"resuming {Path('runs/old')} from step 3" in listener.lines
    resume(Path("auto"))
    with pytest.raises(RunError, match="holds no run to go on with"):
        resume(Path("auto"))


def test_as_many_checkpoints_stay_as_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=30, checkpoint_every=5, keep=4)
    steps = [checkpoint.load(file).step for file in Folder(out / "checkpoints").files()]
    assert steps == [15, 20, 25, 30]
    with pytest.raises(ValueError, match="--keep must be at least 1, not 0"):
        resume(out, keep=0)


def test_a_damaged_checkpoint_is_skipped(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=30, checkpoint_every=10)
    newest = Folder(out / "checkpoints").files()[-1]
    damaged = bytearray(newest.read_bytes())
    damaged[-100] ^= 4
    newest.write_bytes(damaged)
    listener = Listener()
    resume(out, listener)
    assert any(line.startswith("skipped: ") and newest.name in line for line in listener.lines)
    assert any("from step 20" in line for line in listener.lines)
    assert_same_run(unbroken, out)


def test_a_named_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=30, checkpoint_every=10)
    before, newest = Folder(out / "checkpoints").files()[-2:]
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"damaged.*the one before it is sound") as caught:
        resume(newest)
    assert str(before) in str(caught.value)


def test_no_sound_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=1)
    for file in Folder(out / "checkpoints").files():
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no sound checkpoint.*damaged"):
        resume(out)


def test_a_torn_line_of_the_log_is_dropped(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=41)
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 44, "epoch": 0.97, "lo')
    resume(out)
    assert_same_run(unbroken, out)


def narrow(name: str, path: Path, devices: list[str]) -> Trainer:
    """A run of a network with all that is random, an AlexNet a sixteenth as wide, on the digits."""
    source = data.open_source(size=72)
    builder = {"alexnet": alexnet.build, "alexnet-2012": alexnet_2012.build}[name]
    spec = builder((72, 72, 1), 10, width=1 / 16)
    settings = Settings.chosen(Options(batch=4, epochs=1, seed=1, towers=len(devices)), spec, source)
    network = Network(spec, batch=4, devices=devices, seed=1)
    config = {"settings": dataclasses.asdict(settings), "spec": {}}
    return Trainer(Run.create(path, config), settings, network, source, Listener())


def narrow_steps(part: Trainer, last: int, options: Options) -> None:
    """Only the steps: testing would take longer than they do."""
    part.begin(options)
    with part._train_loader(options) as loader:
        part._train_epoch(loader, last, options)
    part._save()
    part.finish_saving()


def test_colour_noise_may_be_turned_on_and_off_by_hand(tmp_path: Path) -> None:
    out, listener = tmp_path / "run", Listener()
    run_training(out=out, steps=10)
    assert COLORS not in tensors_of(out)
    resume(out, listener, steps=20, color_noise=0.5)
    assert "colour noise: 0.5 from here on" in listener.lines
    components = color_components(data.open_source().train)
    assert tensors_of(out)[COLORS].tobytes() == components.tobytes()
    resume(out, steps=30)
    resume(out, listener, color_noise=0.0)
    assert "colour noise: 0 from here on" in listener.lines
    # Another course than without: the noise was there.
    run_training(out=tmp_path / "plain", steps=20)
    noisy, plain = (steps_in_log(path)[:5] for path in (out, tmp_path / "plain"))
    assert [a["loss"] == b["loss"] for a, b in zip(noisy, plain, strict=True)] == [True] * 2 + [False] * 3


@pytest.mark.parametrize("name", ["alexnet", "alexnet-2012"])
def test_dropout_crops_and_colour_noise_go_on_too(name: str, tmp_path: Path) -> None:
    def states(stops: tuple[int, ...], path: Path) -> dict[str, np.ndarray[Any, Any]]:
        content = None
        for stop in stops:
            part = narrow(name, path / f"run-{stop}", ["cpu:0"])
            with part.run, part.saver:
                if content is not None:
                    part.take_over(content, Path())
                narrow_steps(part, stop, Options())
            _, content, _ = runs.find_checkpoint(path / f"run-{stop}")
        assert content is not None
        return content.tensors

    whole = states((6,), tmp_path / "whole")
    parts = states((2, 6), tmp_path / "parts")
    for key, tensor in whole.items():
        assert tensor.tobytes() == parts[key].tobytes(), key


def test_towers_log_what_they_copy(tmp_path: Path) -> None:
    """The 2012 network on two devices, against what it says it copies in a step."""
    part = narrow("alexnet-2012", tmp_path / "run", ["cpu:0", "cpu:1"])
    with part.run, part.saver:
        narrow_steps(part, 6, Options(log_every=2))
    per_step = part.network.describe()["copied_bytes_per_step"]
    lines = steps_in_log(tmp_path / "run")
    assert [line["copied_bytes"] for line in lines] == [2 * per_step] * 3
    assert all(line["copy_seconds"] > 0 for line in lines)
    assert part.progress.copied_bytes == 6 * per_step > 0


# ---- rates -----------------------------------------------------------------------------------------------


def tensors_of(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    return runs.find_checkpoint(run)[1].tensors


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
    assert parse_lr_scale(None, None) is None
    assert parse_lr_scale("conv1=0.1, fc1=2", "conv2") == {"conv1": 0.1, "fc1": 2.0, "conv2": 0.0}
    for wrong in ("conv1", "conv1=", "=2", "conv1=-1", "conv1=nan", "", "conv1=1,"):
        with pytest.raises(ValueError, match="--lr-scale must be like"):
            parse_lr_scale(wrong, None)
    with pytest.raises(ValueError, match="--freeze must be layers"):
        parse_lr_scale(None, "conv1,")
    with pytest.raises(ValueError, match="--lr-scale and --freeze both name the layer conv1"):
        parse_lr_scale("conv1=1", "conv1")


def test_rates_are_products_of_all_that_changes_them() -> None:
    steps = (
        LrStep(2, 0.5),
        LrStep(3.5, 0.1, layers=("conv1",), of="bias"),
        LrStep(4, 0, layers=("conv1",), of="weight"),
    )
    Named = collections.namedtuple("Named", "layer of lr_curve", defaults=[None])
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
    """With a step beside it; the test errors are those of a list."""
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
        "cconvnet.training.trainer.evaluate", lambda network, batches, stopped: Tally(100.0, 50, 0, 100)
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


# ---- signals and kills -----------------------------------------------------------------------------------


# Small data is decoded once and kept; this decodes it whenever it is read, as large data is.
_STREAMING = """
import sys
from cconvnet import cli
from cconvnet.data import sources
sources.open_source.__kwdefaults__["cache_bytes"] = 0
sys.argv[0] = "cconvnet"
cli.main()
"""


# Runs the command while a timer's signal comes ten thousand times a second.
_SIGNALS = """
import signal, sys
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
from cconvnet import cli
sys.argv[0] = "cconvnet"
try:
    cli.main()
finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
"""


def start(*arguments: str, program: str | None = None) -> subprocess.Popen[str]:
    """The command, or a program that becomes it."""
    begin = ["-m", "cconvnet"] if program is None else ["-c", program]
    return subprocess.Popen(
        [sys.executable, *begin, "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "nothing happened for a minute"
        if process.poll() is not None:
            return
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 0), (signal.SIGHUP, 0)]
)
def test_signals_save_and_say_how_to_go_on(number: int, code: int, tmp_path: Path) -> None:
    out = tmp_path / "a run"  # a blank, which the command it prints must quote
    process = start(*FLAGS, "--epochs", "1000", "--out", str(out))
    wait_for(lambda: len(runs.read_log(out)) > 3, process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "")
    assert output.endswith(f"to go on: cconvnet train --resume '{out}'\n")
    step = json.loads((out / "summary.json").read_text())["steps"]
    assert step > 0
    resumed = start("--resume", str(out), "--steps", str(step + 10), "--device", "cpu:0", "--log-every", "4")
    _, errors = resumed.communicate(timeout=60)
    assert (resumed.returncode, errors) == (0, "")
    run_training(out=tmp_path / "whole", epochs=1000, steps=step + 10)
    assert_same_run(tmp_path / "whole", out)


def test_asking_again_and_again_changes_nothing(tmp_path: Path) -> None:
    """SIGTERM every few milliseconds, through saving and up to the end of the process."""
    out = tmp_path / "run"
    process = start(*FLAGS, "--epochs", "1000", "--out", str(out), "--checkpoint-every", "1")
    wait_for(lambda: len(runs.read_log(out)) > 9, process)
    asked = 0
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        asked += 1
        time.sleep(0.003)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "") and asked > 3
    assert "to go on: cconvnet train --resume" in output
    step = json.loads((out / "summary.json").read_text())["steps"]
    assert runs.find_checkpoint(out)[1].step == step


def test_nohup_is_heard(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ignoring = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from cconvnet import cli; cli.main()"
    )
    process = start(*FLAGS, "--steps", "40", "--out", str(out), "--log-every", "1", program=ignoring)
    wait_for(out.exists, process)
    while process.poll() is None:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.003)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert json.loads((out / "summary.json").read_text())["steps"] == 40


def test_a_closed_terminal_stops_and_saves(tmp_path: Path) -> None:
    """As when a connection breaks: the process loses its terminal, and writing to it fails from then on."""
    out = tmp_path / "run"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cconvnet", "train", *FLAGS, "--epochs", "1000", "--out", str(out)],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    wait_for(lambda: len(runs.read_log(out)) > 3, process)
    os.close(ours)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert json.loads((out / "state.json").read_text())["state"] == "stopped"
    step = json.loads((out / "summary.json").read_text())["steps"]
    assert runs.find_checkpoint(out)[1].step == step > 0


def _gone_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(
    "listener",
    [_gone_reader, lambda: os.open("/dev/full", os.O_WRONLY)],
    ids=["a reader that has gone", "a file on a full disk"],
)
def test_training_goes_on_where_nobody_listens(listener: Callable[[], int], tmp_path: Path) -> None:
    out, descriptor = tmp_path / "run", listener()
    command = [sys.executable, "-m", "cconvnet", "train", *FLAGS, "--steps", "8", "--out", str(out)]
    process = subprocess.run(command, stdout=descriptor, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(descriptor)
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads((out / "summary.json").read_text())["steps"] == 8


def test_training_without_standard_output(tmp_path: Path) -> None:
    command = f"{sys.executable} -m cconvnet train {' '.join(FLAGS)} --steps 8 --out {tmp_path}/run >&-"
    process = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 8


def test_signals_write_over_nothing(tmp_path: Path) -> None:
    """oneDNN's products keep the stack pointer in the heap, where no handler of ours may begin its stack."""
    process = start(*FLAGS, "--steps", "300", "--out", str(tmp_path / "run"), program=_SIGNALS)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    run_training(out=tmp_path / "whole", steps=300)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


# Stands for a mean image of many pictures.
_SLOW_BEGINNING = """
import sys, time
from cconvnet import cli
from cconvnet.training import trainer
gather = trainer.gather
def slow(*arguments, **more):
    print("gathering", flush=True)
    time.sleep(60)
trainer.gather = slow
sys.argv[0] = "cconvnet"
cli.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 0)])
def test_signals_before_the_first_step(number: int, code: int, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_BEGINNING, "train", *FLAGS, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "gathering\n":
        assert process.poll() is None
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, "")
    if number == signal.SIGTERM:
        assert output == f"stopped before the first step; to go on: cconvnet train --resume {out}\n"
    resume(out)
    assert_same_run(unbroken, out)


def test_stopped_while_a_checkpoint_is_written(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, save, stopped = tmp_path / "run", Folder.save, threading.Event()

    def interrupted(folder: Folder, content: checkpoint.Checkpoint, best_step: int | None = None) -> Path:
        if content.step == 20:
            os.kill(os.getpid(), signal.SIGTERM)
            stopped.wait(0.2)  # by then training has found out
        return save(folder, content, best_step)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "save", interrupted)
        outcome = run_training(out=out, checkpoint_every=20)
    assert outcome.signal == signal.SIGTERM
    steps = [checkpoint.load(file).step for file in Folder(out / "checkpoints").files()]
    assert steps == [20, outcome.summary["steps"]]
    assert not list(out.rglob(".*"))
    resume(out)
    assert_same_run(unbroken, out)


def _changed_at(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def _changed(file: Path, before: int) -> bool:
    return _changed_at(file) != before


@dataclasses.dataclass
class Kills:
    """How many processes were killed, and how many of them while they wrote a file."""

    all: int = 0
    writing: int = 0


def kill_until_done(flags: list[str], out: Path, times: int, seed: int) -> Kills:
    """Trains with one command given again and again, to processes of which `times` are killed at random."""
    chance, kills = random.Random(seed), Kills()
    while True:
        again = ["--out", str(out), "--resume", "auto", "--checkpoint-every", "1"]
        process = start(*flags, *again, program=_STREAMING)
        if kills.all < times:
            # From the moment the run's folder is touched, saving, logging and testing are all in reach.
            log = out / "log.jsonl"
            before = _changed_at(log)
            wait_for(partial(_changed, log, before), process)
            time.sleep(chance.uniform(0.0, 0.15))
            process.kill()
        _, errors = process.communicate(timeout=120)
        if process.returncode == 0:
            return kills
        assert process.returncode == -signal.SIGKILL, errors
        kills.all += 1
        kills.writing += bool(list(out.rglob(".*.partial")))


@dataclasses.dataclass
class Victim:
    """A training to be killed: its flags, and the same run that was left alone."""

    flags: list[str]
    whole: Path


@pytest.fixture(params=["digits", "pictures", "shards"], scope="module")
def victim(
    request: pytest.FixtureRequest, unbroken: Path, tmp_path_factory: pytest.TempPathFactory
) -> Victim:
    """Digits from memory; pictures that two processes decode, cropped and mirrored, with colour noise; and
    the same from shards of raw pixels."""
    if request.param == "digits":
        return Victim(FLAGS, unbroken)
    folder = tmp_path_factory.mktemp("victim")
    where = colored_pictures(folder / "pictures", count=96, side=36)
    if request.param == "shards":
        where = folder / "shards"
        command = ["data", "prepare", str(folder / "pictures"), str(where), "--size", "32"]
        subprocess.run([sys.executable, "-m", "cconvnet", *command, "--raw"], check=True, timeout=200)
    flags = ["--net", "cifar-13pct", "--data", str(where), "--size", "32", "--workers", "2"]
    flags += ["--batch", "16", "--epochs", "4", "--color-noise", "0.1", "--seed", "3", "--device", "cpu:0"]
    flags += ["--log-every", "2", "--lr", "0.001"]
    done = start(*flags, "--out", str(folder / "whole"), program=_STREAMING)
    _, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    return Victim(flags, folder / "whole")


def test_kills_lose_nothing(victim: Victim, tmp_path: Path) -> None:
    kills = kill_until_done(victim.flags, tmp_path / "run", times=5, seed=1)
    assert kills.all == 5
    assert_same_run(victim.whole, tmp_path / "run")


@pytest.mark.long
def test_two_hundred_kills_lose_nothing(victim: Victim, tmp_path: Path) -> None:
    """So many of each kind of training, 201 in all, in rounds each to the end."""
    kills = Kills()
    for seed, times in enumerate([14, 14, 13, 13, 13]):
        found = kill_until_done(victim.flags, tmp_path / f"run-{seed}", times=times, seed=seed)
        assert_same_run(victim.whole, tmp_path / f"run-{seed}")
        kills.all += found.all
        kills.writing += found.writing
    print(f"{kills.all} kills, {kills.writing} of them in the middle of a file")
    assert kills.all == 67
    assert kills.writing > 0  # or they never met what is hardest


# ---- what stops training ---------------------------------------------------------------------------------


def test_nan_is_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped) as caught, np.errstate(all="ignore"):
        run_training(out=tmp_path / "run", lr=1e30)
    text = str(caught.value)
    assert "the loss is nan at step" in text or "the loss is inf at step" in text
    assert "not finite: conv" in text
    assert "The last good checkpoint stands" in text
    for file in Folder(tmp_path / "run" / "checkpoints").files():
        assert all(np.isfinite(tensor).all() for tensor in checkpoint.load(file).tensors.values())


def test_detecting_anomalies_trains_the_same_and_finds_them_sooner(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient that is not a number comes up in step 30; without a look it is found in the next loss."""
    run_training(out=tmp_path / "same", detect_anomaly=True)
    assert_same_run(unbroken, tmp_path / "same")
    backward = ConvLayer.backward
    step = -1

    def planted(layer: ConvLayer, updates: Any = None) -> None:
        backward(layer, updates)
        if layer.name == "conv2" and step == 30:
            weight = layer.pieces[0]
            weight.gradient[2, 1, 0, 3] = np.nan
            if updates is not None:
                updates.apply(weight)

    begin = Network._begin

    def noting(network: Network, train: bool, number: int) -> None:
        nonlocal step
        step = number if train else -1
        begin(network, train, number)

    monkeypatch.setattr(Network, "_begin", noting)
    monkeypatch.setattr(ConvLayer, "backward", planted)
    with pytest.raises(TrainingStopped) as caught:
        run_training(out=tmp_path / "late")
    text = str(caught.value)
    assert "the loss is nan at step 31 (epoch 1); first not finite: conv2, forward pass, conv2.weight" in text
    assert "An earlier step made it: with --detect-anomaly it would be found there." in text
    with pytest.raises(TrainingStopped) as caught:
        resume(tmp_path / "late", detect_anomaly=True)
    text = str(caught.value)
    assert "stopped at step 30 (epoch 1); first not finite: conv2, backward pass, the gradient of " in text
    assert "conv2.weight: 1 of 25,000 values, the first nan at [2, 1, 0, 3]" in text
    assert "The last good checkpoint stands" in text
    monkeypatch.setattr(ConvLayer, "backward", backward)
    resume(tmp_path / "late")
    assert_same_run(unbroken, tmp_path / "late")


def test_weights_that_broke_in_the_last_step_are_found_by_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = Network.train_step

    def breaking(network: Network, step: int, *arguments: Any) -> None:
        train_step(network, step, *arguments)
        if step == 44:
            network.parameters["fc1.bias"].pieces[0].value[7] = np.nan

    monkeypatch.setattr(Network, "train_step", breaking)
    with pytest.raises(TrainingStopped, match=r"the test's loss is nan after step 45 .*fc1\.bias"):
        run_training(out=tmp_path / "run")
    assert all("NaN" not in line for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get = Snapshot.__getitem__

    def poisoned(snapshot: Snapshot, name: str) -> np.ndarray[Any, Any]:
        tensor = get(snapshot, name)
        if name == "fc1.weight" and (tmp_path / "run/checkpoints/step-00000000.safetensors").exists():
            tensor[3, 4] = np.inf
        return tensor

    monkeypatch.setattr(Snapshot, "__getitem__", poisoned)
    with pytest.raises(TrainingStopped, match=r"fc1\.weight holds values that are not finite after step 45"):
        run_training(out=tmp_path / "run")
    assert [file.name for file in (tmp_path / "run" / "checkpoints").iterdir()] == [
        "step-00000000.safetensors"
    ]


def test_full_disk_stops_and_says_what_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    write = os.write

    def fail(descriptor: int, piece: bytes) -> int:
        if Folder(out / "checkpoints").file(20).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, piece)

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(TrainingStopped) as caught:
        run_training(out=out, checkpoint_every=10)
    monkeypatch.undo()
    text = str(caught.value)
    assert "cannot write" in text
    assert "step-00000030.safetensors: No space left on device" in text
    assert f"The last good checkpoint stands: {Folder(out / 'checkpoints').file(20)}" in text
    assert f"cconvnet train --resume {out}" in text
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 13, 21])
def test_a_failing_disk_costs_nothing_that_was_saved(
    call: str, number: int, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From some call on the disk fails, whatever file that is about."""
    out, do, calls = tmp_path / "run", getattr(os, call), itertools.count(1)

    def fail(*arguments: Any) -> Any:
        if next(calls) >= number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return do(*arguments)

    monkeypatch.setattr(os, call, fail)
    with pytest.raises((TrainingStopped, OSError), match="Input/output error") as caught:
        run_training(out=out, checkpoint_every=10)
    assert str(out) in str(caught.value)
    monkeypatch.undo()
    assert not list(out.rglob(".*"))
    run_training(out=out, resume=Path("auto"))
    assert_same_run(unbroken, out)


def stopped_by_the_disk(out: Path, words: str, **changes: Any) -> str:
    with pytest.raises(TrainingStopped, match=words) as caught:
        run_training(out=out, checkpoint_every=10, **changes)
    assert not list(out.rglob(".*"))
    return str(caught.value)


def test_a_log_that_cannot_be_written(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rewind = tmp_path / "run", Run.rewind_log

    def full(run: Run, *arguments: Any) -> int:
        dropped = rewind(run, *arguments)
        run._log.close()
        run._log = Path("/dev/full").open("a")  # noqa: SIM115
        return dropped

    with monkeypatch.context() as patch:
        patch.setattr(Run, "rewind_log", full)
        text = stopped_by_the_disk(out, "cannot write /dev/full: No space left on device")
    assert "The last good checkpoint stands" in text
    resume(out)
    assert_same_run(unbroken, out)


def test_a_summary_that_cannot_be_written(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=10)
    (out / "summary.json").unlink()
    (out / "summary.json").mkdir()
    process = start("--resume", str(out), "--device", "cpu:0", "--log-every", "4")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(f"error: cannot write {out / 'summary.json'}: Is a directory. The last good")
    assert "Traceback" not in errors
    (out / "summary.json").rmdir()
    resume(out)
    assert_same_run(unbroken, out)


@pytest.fixture
def written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training waits for each checkpoint, so that a test knows what is there."""
    begin = Saver.begin

    def begin_and_wait(saver: Saver, *arguments: Any) -> None:
        begin(saver, *arguments)
        saver.settle()

    monkeypatch.setattr(Saver, "begin", begin_and_wait)


def at_step(number: int, do: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Something happens before a step."""
    train_step = Network.train_step

    def stepping(network: Network, step: int, *arguments: Any) -> None:
        if step == number:
            do()
        train_step(network, step, *arguments)

    monkeypatch.setattr(Network, "train_step", stepping)


@pytest.mark.usefixtures("written_at_once")
@pytest.mark.parametrize(("failing", "steps"), [(0, 1), (20, 21), (90, 90)])
def test_a_disk_that_fails_stops_training_at_the_next_step(
    failing: int, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or at the end, where there is none."""
    save, train_step, done = Folder.save, Network.train_step, []

    def fail(folder: Folder, content: checkpoint.Checkpoint, best_step: int | None = None) -> Path:
        if content.step == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "a file")
        return save(folder, content, best_step)

    def noting(network: Network, step: int, *arguments: Any) -> None:
        train_step(network, step, *arguments)
        done.append(step)

    monkeypatch.setattr(Folder, "save", fail)
    monkeypatch.setattr(Network, "train_step", noting)
    with pytest.raises(TrainingStopped, match="cannot write a file: Input/output error"):
        run_training(out=tmp_path / "run", checkpoint_every=20)
    assert done == list(range(steps))
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.usefixtures("written_at_once")
def test_a_folder_that_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    at_step(35, partial(shutil.rmtree, out), monkeypatch)
    text = stopped_by_the_disk(out, r"cannot write .*step-00000040\.safetensors: No such file or directory")
    assert text.endswith(f"The run's folder {out} is gone")
    assert not out.exists()


@pytest.mark.usefixtures("written_at_once")
@pytest.mark.parametrize("small_disk", ["20m"], indirect=True)
def test_a_folder_that_becomes_read_only(
    small_disk: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = small_disk / "run"
    folder = out / "checkpoints"

    def protect() -> None:
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True, timeout=200)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True, timeout=200)

    at_step(35, protect, monkeypatch)
    try:
        text = stopped_by_the_disk(out, r"step-00000040\.safetensors: Read-only file system")
        assert f"The last good checkpoint stands: {folder / 'step-00000030.safetensors'}" in text
        assert [checkpoint.load(file).step for file in Folder(folder).files()] == [20, 30]
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=200)
    monkeypatch.undo()
    resume(out)
    assert_same_run(unbroken, out)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=200)
    process = start(*FLAGS, "--out", str(small_disk / "other"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == f"error: {small_disk / 'other'}: Read-only file system\n"


def test_a_worker_that_dies_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its death is said, with what stands; the resumed run ends like one in which nobody died."""
    settings = {"data": str(colored_pictures(tmp_path / "data", 96, 36)), "size": 32, "net": "cifar-13pct"}
    settings |= {"batch": 8, "epochs": 2, "workers": 2, "checkpoint_every": 3, "lr": 0.001}
    # Small data is decoded once and kept; now it is decoded whenever it is read, as large data is.
    monkeypatch.setitem(data.open_source.__kwdefaults__, "cache_bytes", 0)
    run_training(out=tmp_path / "whole", **settings)
    pools: list[DecodePool] = []
    make = DecodePool.__init__

    def noting(pool: DecodePool, *arguments: Any) -> None:
        make(pool, *arguments)
        pools.append(pool)

    def kill() -> None:
        for pool in pools:
            for pid in pool.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(DecodePool, "__init__", noting)
        at_step(8, kill, patch)
        with pytest.raises(TrainingStopped) as caught:
            run_training(out=tmp_path / "run", **settings)
    assert re.search(r"decoding worker \d .*was killed by SIGKILL", str(caught.value))
    standing = Folder(tmp_path / "run" / "checkpoints").files()[-1]
    assert f"The last good checkpoint stands: {standing}; to go on from it: cconvnet" in str(caught.value)
    resume(tmp_path / "run", workers=2)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


# Room for two checkpoints of lenet, not for three.
@pytest.mark.parametrize("small_disk", ["3m"], indirect=True)
def test_a_truly_full_disk(small_disk: Path, unbroken: Path) -> None:
    out = small_disk / "run"
    process = start(*FLAGS, "--out", str(out), "--checkpoint-every", "10")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("error: cannot write ")
    assert "No space left on device (1.1 MB needed, " in errors
    assert "Traceback" not in errors
    kept = Folder(out / "checkpoints").files()
    assert [checkpoint.load(file).step for file in kept] == [0, 10]
    assert not list(out.rglob(".*"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True, timeout=200)
    resume(out)
    assert_same_run(unbroken, out)


# ---- the run's folder ------------------------------------------------------------------------------------


def test_a_run_is_not_written_over(unbroken: Path) -> None:
    with pytest.raises(RunError, match=f"holds a run already; continue it with --resume {unbroken}"):
        run_training(out=unbroken)


def test_runs_that_begin_in_the_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "cconvnet.runs.folder.time", SimpleNamespace(strftime=lambda form: "now", time=time.time)
    )
    assert [str(runs.new_folder("lenet", "digits")) for _ in range(3)] == [
        "runs/lenet-digits-now",
        "runs/lenet-digits-now-2",
        "runs/lenet-digits-now-3",
    ]
    assert run_training(steps=1).path == Path("runs/lenet-digits-now-4")


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="is not empty"):
        run_training(out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_processes_cannot_train_one_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=1)
    with Run.open(out), pytest.raises(RunError, match="another process is training in"):
        resume(out)
    resume(out, steps=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 16}, "--batch 16 differs from the run's, 32"),
        ({"seed": 6}, "--seed 6 differs from the run's, 5"),
        ({"size": 16}, "--size 16 differs from the run's, None"),
        ({"net": "cifar-quick"}, "is of another network"),
        ({"net": "lenett"}, "did you mean 'lenet'"),
        ({"out": Path("elsewhere")}, "leave out --out elsewhere"),
    ],
)
def test_a_resumed_run_keeps_its_settings(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=1)
    before = (out / "config.json").read_bytes()
    with pytest.raises(ValueError, match=words):
        resume(out, **change)
    assert (out / "config.json").read_bytes() == before
    resume(out, steps=2)  # nothing is left locked


def test_a_run_says_with_what_it_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it was begun, and from which step on with what else; what a resume undoes is forgotten."""
    out, describe = tmp_path / "run", machine.describe

    def go_on(numpy: str, **options: Any) -> dict[str, str]:
        def described(device: Device, clocks: bool) -> dict[str, Any]:
            found = describe(device, clocks)
            return {**found, "commit": "abc", "versions": {**found["versions"], "numpy": numpy}}

        monkeypatch.setattr(machine, "describe", described)
        begun = out.exists()
        resume(keep=9, **options) if begun else run_training(out=out, **options)
        return runs.surroundings(runs.read_config(out))

    found = go_on("1.0", steps=10)
    assert (found["commit"], found["version of numpy"]) == ("abc", "1.0")
    assert found["version of python"] == platform.python_version()
    assert "oneDNN" in found["module"]
    assert found["host"] == platform.node()
    command = runs.read_config(out)["command"]
    monkeypatch.setattr(sys, "argv", ["cconvnet", "train", "--resume", "run"])
    assert go_on("1.0", path=out, steps=20) == found
    assert go_on("2.0", path=out, steps=30)["version of numpy"] == "1.0, from step 20 on 2.0"
    assert go_on("2.0", path=out, steps=31)["version of numpy"] == "1.0, from step 20 on 2.0"
    changed = go_on("1.0", path=out, steps=32)
    assert changed["version of numpy"] == "1.0, from step 20 on 2.0, from step 31 on 1.0"
    assert (
        go_on("3.0", path=Folder(out / "checkpoints").file(10), steps=15)["version of numpy"]
        == "1.0, from step 10 on 3.0"
    )
    assert changed | {"version of numpy": "1.0"} == found
    assert runs.read_config(out)["command"] == command


def test_the_first_tensor_of_another_network_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_training(out=out, steps=1)
    with pytest.raises(CheckpointError, match=r"conv1\.weight is 20x5x5x1 there and 32x5x5x1 here"):
        resume(out, net="cifar-quick")


def test_other_data_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for name in "01":
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "a.png")
    out = tmp_path / "run"
    run_training(out=out, steps=1)
    with pytest.raises(RunError, match=r"is not what .* was trained on: classes 0, 1 here, 0, 1, 2"):
        resume(out, data=str(tmp_path / "pictures"))


def test_the_recipes_batch_is_lowered_to_the_data(tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for name in ("dark", "light"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for index in range(5):
                Image.new("RGB", (12, 12), (index * 9 + (200 if name == "light" else 0),) * 3).save(
                    folder / f"{index}.png"
                )
    listener = Listener()
    outcome = run_training(
        listener, data=str(tmp_path / "pictures"), out=tmp_path / "run", batch=None, epochs=20
    )
    assert "batch: 10, all training images, instead of lenet's 64" in listener.lines
    assert outcome.summary["test_error_top1"] == 0.0
    with pytest.raises(ValueError, match=r"--batch 11 is larger than the 10 training images"):
        run_training(data=str(tmp_path / "pictures"), out=tmp_path / "run2", batch=11)
    assert not (tmp_path / "run2").exists()


# ---- several devices -------------------------------------------------------------------------------------


@pytest.fixture
def small_alexnet(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(image_shape: tuple[int, int, int], classes: int) -> NetSpec:
        return alexnet_2012.build(image_shape, classes, width=1 / 16)

    monkeypatch.setitem(nets._BUILDERS, "alexnet-2012", build)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return colored_pictures(tmp_path / "pictures", count=48, side=76)


def two_tower_run(path: Path, data: Path, **values: Any) -> Outcome:
    given: dict[str, Any] = {"net": "alexnet-2012", "size": 76, "batch": 16, "seed": 3}
    given |= {"data": str(data), "out": path}
    if "resume" in values:
        given = {}
    options = Options(**{**given, "log_every": 2, "workers": 0, **values})
    return train(options, Reporter(io.StringIO()))


def weights_at(path: Path, step: int) -> dict[str, Any]:
    return checkpoint.load(Folder(path / "checkpoints").file(step)).tensors


@pytest.mark.usefixtures("small_alexnet")
def test_a_run_on_two_devices_goes_on_bitwise_on_one(tmp_path: Path, pictures: Path) -> None:
    pair = ["cpu:0", "cpu:1"]
    whole = two_tower_run(tmp_path / "whole", pictures, devices=pair, steps=8)
    two_tower_run(tmp_path / "part", pictures, devices=pair, steps=3)
    rest = two_tower_run(tmp_path / "part", pictures, resume=tmp_path / "part", devices=["cpu:0"], steps=8)
    right, found = weights_at(whole.path, 8), weights_at(rest.path, 8)
    assert right.keys() == found.keys() and "conv3.weight" in found
    for name, tensor in right.items():
        assert tensor.tobytes() == found[name].tobytes(), name
    assert whole.summary["device"] == "cpu:0,cpu:1" and rest.summary["device"] == "cpu:0"


@pytest.mark.usefixtures("small_alexnet")
def test_a_run_on_one_device_goes_on_on_two(tmp_path: Path, pictures: Path) -> None:
    two_tower_run(tmp_path / "run", pictures, devices=["cpu:0"], steps=2)
    output = io.StringIO()
    options = Options(resume=tmp_path / "run", devices=["cpu:0", "cpu:1"], steps=4, workers=0)
    outcome = train(options, Reporter(output))
    assert "towers: 2 from here on, it was 1: rounding differs" in output.getvalue()
    assert outcome.summary["steps"] == 4 and outcome.summary["copied_bytes"] > 0


@pytest.mark.usefixtures("small_alexnet")
def test_the_log_counts_what_the_description_lists(tmp_path: Path, pictures: Path) -> None:
    outcome = two_tower_run(tmp_path / "run", pictures, devices=["cpu:0", "cpu:1"], steps=6)
    spec = nets.build("alexnet-2012", image_shape=(76, 76, 3), classes=3)
    description = Network(spec, batch=16, devices=["cpu:0", "cpu:1"]).describe()
    per_step = description["copied_bytes_per_step"]
    assert per_step == 2 * sum(copy["bytes"] for copy in description["copies"]) > 0
    lines = [json.loads(line) for line in (outcome.path / "log.jsonl").read_text().splitlines()]
    windows = [line for line in lines if "copied_bytes" in line]
    assert [line["copied_bytes"] for line in windows] == [2 * per_step] * 3
    assert all(line["copy_seconds"] > 0 for line in windows)
    assert outcome.summary["copied_bytes"] == 6 * per_step


@pytest.mark.usefixtures("small_alexnet")
def test_other_towers_than_the_runs_are_refused(tmp_path: Path, pictures: Path) -> None:
    two_tower_run(tmp_path / "run", pictures, devices=["cpu:0"], steps=1, towers=2)
    with pytest.raises(RunError, match="--towers 4 differs from the run's, 2"):
        two_tower_run(tmp_path / "run", pictures, resume=tmp_path / "run", towers=4)
