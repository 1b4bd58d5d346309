"""A whole training: its errors, its log and its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.training import STEPS, assert_same_run, log_without_times, resume, run_training, steps_in_log

from cconvnet import data, runs
from cconvnet.evaluate import evaluate_run, load_trained, predict
from cconvnet.network import Network
from cconvnet.network.step import Runner
from cconvnet.runs.checkpoint import MEAN


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
    """The trainer's error is computed again from the checkpoint, with only NumPy and the source."""
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
    """The network reports 1,000 copied bytes for a training step's forward pass and 7 for one of a test."""
    forward, copied = Runner.forward, 0

    def counting(runner: Runner, train: bool) -> None:
        nonlocal copied
        copied += 1000 if train else 7
        forward(runner, train)

    monkeypatch.setattr(Runner, "forward", counting)
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
    def dying(runner: Runner, train: bool) -> None:
        if (runner.training, runner.step) == (True, 25):
            raise KeyboardInterrupt
        counting(runner, train)

    monkeypatch.setattr(Runner, "forward", dying)
    with pytest.raises(KeyboardInterrupt):
        run_training(out=tmp_path / "killed", log_every=10, checkpoint_every=8)
    monkeypatch.setattr(Runner, "forward", counting)
    resume(tmp_path / "killed", log_every=10)
    check(tmp_path / "killed")
