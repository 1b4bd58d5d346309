"""Files of options: read, checked, and written by each run so that it can be repeated."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Listener, refuse, succeed
from helpers.training import assert_same_run, colored_pictures, run_training

from cconvnet import nets, runs
from cconvnet.nets import Distortion, LrStep, RateCurve
from cconvnet.training.option_files import NAME, read, values_of
from cconvnet.training.options import AUTO, DESCRIPTIONS, Options
from cconvnet.training.session import train


def written(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "options.toml"
    file.write_text(text)
    return file


def test_values_are_those_of_the_options(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        net = "mine.py"
        data = "pictures"
        layer-def = "/elsewhere/layers.cfg"
        device = ["cpu:0", "cpu:1"]
        place = { conv2 = 1, fc1 = "cpu:0" }
        lr = 1
        lr-steps = [2, { epoch = 3, factor = 0.5, layers = ["conv1"] }]
        lr_schedule = "cosine:0.5"
        lr-scale = { conv1 = 0.25 }
        lr-plateau = 3
        freeze = "conv2,fc1"
        mirror = false
        random-crop = true
        resume = "auto"
        """,
    )
    assert read(file) == {
        "net": str(tmp_path / "mine.py"),
        "data": str(tmp_path / "pictures"),
        "layer_def": Path("/elsewhere/layers.cfg"),
        "devices": ["cpu:0", "cpu:1"],
        "place": {"conv2": 1, "fc1": "cpu:0"},
        "lr": 1.0,
        "lr_steps": (LrStep(2, 0.1), LrStep(3, 0.5, ("conv1",))),
        "lr_schedule": RateCurve("cosine", 2.0),
        "lr_scale": {"conv1": 0.25},
        "lr_plateau": 3,
        "freeze": ("conv2", "fc1"),
        "mirror": False,
        "random_crop": True,
        "resume": AUTO,
    }
    assert values_of({"data": "digits", "net": "lenet"}, tmp_path) == {"data": "digits", "net": "lenet"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("momentun = 0.5", "an option must be one of .*, not 'momentun'; did you mean 'momentum'"),
        ("batch = 0", "--batch must be at least 1, not 0"),
        ("batch = 2.5", "--batch must be an integer, not 2.5"),
        ('lr = "fast"', "--lr must be a number, not 'fast'"),
        ("mirror = 1", "--mirror must be true or false, not 1"),
        ("out = 3", "--out must be a text, not 3"),
        ("lr-scale = { conv1 = -1 }", "--lr-scale must be like"),
        ('lr-schedule = { kind = "cosine", end = 3 }', "--lr-schedule: a key must be one of .*not 'end'"),
        ("lr-schedule = { factor = 3.0 }", "--lr-schedule: the key 'kind' is missing"),
        ('lr-schedule = { kind = "exp" }', "--lr-schedule: factor must be a number"),
        ("lr-steps = [{ epoch = -1, factor = 2 }]", "--lr-steps: epoch must be finite and not negative"),
        ("lr = ", "is not TOML: Invalid value"),
    ],
)
def test_what_makes_no_sense_is_named_with_its_file(text: str, error: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ValueError, match=f"options.toml.*{error}"):
        read(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "--config nowhere.toml: No such file" in refuse("train", "--config", "nowhere.toml")
    with pytest.raises(ValueError, match=r"run.toml: No such file"):
        read(tmp_path)


EVERYTHING: dict[str, Any] = {
    **{"lr_schedule": RateCurve("poly", None, power=2.0), "lr_steps": (LrStep(1, 0.5, ("conv1",)),)},
    **{"warmup": 0.5, "momentum": 0.8, "weight_decay": 0.01, "pad": 2, "mirror": True, "towers": 1},
    "distort": Distortion(rotation=10, scaling=5, translation=5, alpha=3, sigma=2),
    **{"nesterov": True, "label_smoothing": 0.1, "accumulate": 2},
    **{"lr_scale": {"conv1": 0.5}, "freeze": ("conv2",), "place": {"fc2": "cpu:1"}, "epochs": 1},
}


@pytest.mark.parametrize("changes", [{}, EVERYTHING])
def test_a_run_is_repeated_from_its_file(changes: dict[str, Any], tmp_path: Path) -> None:
    run_training(out=tmp_path / "run", **changes)
    train(Options(**read(tmp_path / "run") | {"out": tmp_path / "again"}), Listener())
    assert_same_run(tmp_path / "run", tmp_path / "again")
    one, two = (runs.read_config(tmp_path / name) for name in ("run", "again"))
    assert (one["settings"], one["spec"]) == (two["settings"], two["spec"])
    assert (tmp_path / "run" / NAME).read_text() == (tmp_path / "again" / NAME).read_text()
    tables = tomllib.loads((tmp_path / "run" / NAME).read_text())
    names = [option.name.removeprefix("--") for option in DESCRIPTIONS.values()]
    assert list(tables) == [name for name in names if name in tables]
    assert tables["seed"] == 5 and "out" not in tables


def test_a_run_of_one_s_own_network_and_pictures_is_repeated(tmp_path: Path) -> None:
    """Its file names its own configuration, which has the network even where the user's file has changed."""
    pictures = colored_pictures(tmp_path / "pictures", 60, 12)
    x = nets.image(12, 12, 3)
    own = x.conv(4, 3).relu().fc(3).softmax(name="own", recipe=nets.TrainRecipe(batch=8, epochs=1, lr=0.01))
    options = {"data": str(pictures), "size": 12, "devices": ["cpu:0"], "pad": 2}
    train(Options(net=own, out=tmp_path / "run", **options), Listener())
    assert read(tmp_path / "run")["net"] == str(tmp_path / "run" / "config.json")
    train(Options(**read(tmp_path / "run") | {"out": tmp_path / "again"}), Listener())
    assert_same_run(tmp_path / "run", tmp_path / "again")


def test_names_with_odd_characters_are_written_as_toml(tmp_path: Path) -> None:
    from cconvnet.training.option_files import _toml

    for value in ('a "b" \\ c\x7f\n\té😀', ["x", 1, 2.5e-20, 1e22, True], {"conv 1": 0.5, "fc.2": 1e-5}, {}):
        assert tomllib.loads(f"key = {_toml(value)}") == {"key": value}


def test_the_command_line_comes_before_the_file(tmp_path: Path) -> None:
    run = tmp_path / "run"
    file = written(
        tmp_path,
        """
        epochs = 1
        batch = 300
        log-every = 7
        lr-steps = [1]
        out = "run"
        device = "cpu:0"
        mirror = true
        """,
    )
    own = ("--log-every", 20, "--seed", 3, "--lr-schedule", "linear", "--no-mirror")
    succeed("train", "--config", file, *own)
    settings = runs.read_config(run)["settings"]
    assert (settings["batch"], settings["seed"], settings["mirror"]) == (300, 3, False)
    assert settings["lr_steps"] == []
    tables = tomllib.loads((run / NAME).read_text())
    assert "log-every" not in tables and tables["lr-schedule"] == "linear"
    # A run's folder may be given itself; a run needs a folder of its own.
    succeed("train", "--config", run, "--out", tmp_path / "again")
    one, two = (runs.find_checkpoint(path)[1].tensors for path in (run, tmp_path / "again"))
    assert all(np.array_equal(one[name], two[name]) for name in one)
