"""Options of a training's recipe: warm-up, schedule, momentum, weight decay, mirror images, padded crops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Listener
from helpers.training import assert_same_run, resume, run_training, steps_in_log, tensors_of

from cconvnet import runs
from cconvnet.nets import CONSTANT, Distortion
from cconvnet.runs import checkpoint
from cconvnet.runs.checkpoint import Folder
from cconvnet.runs.reading import settings_of
from cconvnet.training.option_files import read
from cconvnet.training.option_values import parse_lr_schedule
from cconvnet.training.options import Options
from cconvnet.training.session import train
from cconvnet.training.settings import Settings

COSINE = parse_lr_schedule("cosine:0.01")
# 45 steps are an epoch: the warm-up ends after 68 of 90.
RECIPE: dict[str, Any] = {
    **{"lr_schedule": COSINE, "warmup": 1.5, "warmup_from": 0.25, "momentum": 0.8, "weight_decay": 0.01},
    **{"mirror": True, "pad": 2, "distort": Distortion(rotation=10, alpha=2, sigma=1)},
    **{"nesterov": True, "label_smoothing": 0.1},
}


def first_tensors(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    return checkpoint.load(Folder(run / "checkpoints").file(0)).tensors


def test_a_run_goes_on_within_warm_up_and_curve(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_training(out=whole, **RECIPE)
    run_training(out=parts, steps=31, **RECIPE)
    resume(parts, steps=75)
    resume(parts)
    assert_same_run(whole, parts)
    # Lines are written after steps 4, 8, ...; their rate is that of the last step.
    epochs = np.arange(3, 90, 4) / 45
    warm = 0.25 + 0.75 * epochs / 1.5
    cosine = 0.01 + 0.99 * (1 + np.cos(np.pi * (epochs - 1.5) / 0.5)) / 2
    expected = 0.05 * np.where(epochs < 1.5, warm, cosine)
    np.testing.assert_allclose([line["lr"] for line in steps_in_log(whole)], expected, rtol=1e-9)
    config = runs.read_config(whole)
    assert config["settings"]["crop"] and config["spec"]["recipe"]["pad"] == 2


def test_a_recipe_may_be_changed_by_hand(tmp_path: Path) -> None:
    out, listener = tmp_path / "run", Listener()
    run_training(out=out, steps=10)
    resume(out, listener, steps=20, **RECIPE)
    assert [line for line in listener.lines if "from here on" in line] == [
        "lr: 0.0180556 from here on, it was 0.05",
        "lr schedule: cosine to 1/100 from here on, it was constant",
        "warm-up: 1.5 from here on, it was 0",
        "warm-up from: 0.25 from here on, it was 0.1",
        "momentum: 0.8 from here on, it was 0.9",
        "Nesterov's momentum: on from here on, it was off",
        "weight decay: 0.01 from here on, it was the network's own",
        "label smoothing: 0.1 from here on, it was the network's own",
        "random crops: on from here on, it was off",
        "padding of random crops: 2 from here on, it was 0",
        "mirror images: on from here on, it was off",
        "distortion: rotation 10, scaling 0, translation 0, alpha 2, sigma 1 from here on, it was none",
    ]
    # What is not asked for anew stays.
    resume(out, listener, steps=25, momentum=0.5)
    settings = Settings.from_dict(runs.find_checkpoint(out)[1].settings)
    assert (settings.momentum, settings.weight_decay, settings.pad) == (0.5, 0.01, 2)
    assert settings.distort == RECIPE["distort"]
    spec = runs.find_checkpoint(out)[1].spec
    assert {layer["weight_decay"] for layer in spec["layers"] if "weight_decay" in layer} == {0.01}


def test_settings_of_an_older_version_are_read(tmp_path: Path) -> None:
    run_training(out=tmp_path / "run", steps=1)
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    now = Settings.from_dict(settings)
    later = ("lr_schedule", "warmup", "warmup_from", "weight_decay", "label_smoothing", "nesterov")
    for name in (*later, "pad", "distort", "random_resized_crop", "area", "accumulate"):
        del settings[name]
    assert Settings.from_dict(settings) == now
    assert settings_of({"settings": settings}) == runs.read_config(tmp_path / "run")["settings"]
    assert (now.lr_schedule, now.warmup, now.weight_decay, now.pad) == (CONSTANT, 0.0, None, 0)


def test_a_run_with_random_resized_crops_goes_on_within_an_epoch(tmp_path: Path) -> None:
    whole, parts, again = (tmp_path / name for name in ("whole", "parts", "again"))
    recipe: dict[str, Any] = {"area": (0.25, 1.0), "mirror": True, "steps": 60}
    run_training(out=whole, **recipe)
    run_training(out=parts, **recipe | {"steps": 31})
    resume(parts, steps=60)
    assert_same_run(whole, parts)
    settings = runs.read_config(whole)["settings"]
    assert (settings["random_resized_crop"], settings["area"]) == (True, [0.25, 1.0])
    assert not settings["crop"]
    train(Options(**read(whole) | {"out": again, "steps": 60}), Listener())  # its run.toml
    assert_same_run(whole, again)


def test_weight_decay_and_momentum_are_those_of_the_updates(tmp_path: Path) -> None:
    """The velocity after a step from rest is -lr (g + decay w); after two, momentum times it more."""
    steps = {"lr_scale": {"fc2": 1.0}, "lr": 0.1}
    for name, recipe in (("none", {"weight_decay": 0.0}), ("some", {"weight_decay": 0.5})):
        run_training(out=tmp_path / name, steps=1, momentum=0.0, **steps, **recipe)
    none, some, w = (
        tensors_of(tmp_path / "none"),
        tensors_of(tmp_path / "some"),
        first_tensors(tmp_path / "some"),
    )
    for name in ("conv1.weight", "fc2.weight"):
        pulled = some[f"{name}.velocity"] - none[f"{name}.velocity"]
        np.testing.assert_allclose(pulled, -0.1 * 0.5 * w[name], atol=1e-6, err_msg=name)
    assert (some["conv1.bias.velocity"] == none["conv1.bias.velocity"]).all()

    # With a rate of nearly 0 from the second step on, the velocity only fades.
    resume(tmp_path / "none", steps=2, momentum=0.25, lr=1e-20)
    np.testing.assert_allclose(
        tensors_of(tmp_path / "none")["fc2.weight.velocity"],
        0.25 * none["fc2.weight.velocity"],
        rtol=1e-6,
        atol=1e-18,
    )


def test_padding_as_large_as_the_crop_is_refused_before_there_is_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--pad 8 must be below the side of the network's input, 8"):
        run_training(out=tmp_path / "run", pad=8)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"mirror": True},
        {"pad": 1},
        {"warmup": 0.5},
        {"nesterov": True},
        {"label_smoothing": 0.2},
        {"random_resized_crop": True},
    ],
)
def test_each_option_changes_the_course(changes: dict[str, Any], tmp_path: Path) -> None:
    run_training(out=tmp_path / "plain", steps=3)
    run_training(out=tmp_path / "changed", steps=3, **changes)
    plain, changed = tensors_of(tmp_path / "plain"), tensors_of(tmp_path / "changed")
    assert (plain["conv1.weight"] != changed["conv1.weight"]).any()
    settings = runs.read_config(tmp_path / "changed")["settings"]
    assert settings.items() >= changes.items()
