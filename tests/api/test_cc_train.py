"""``cconvnet.train``: the command's run from a program, on arrays or paths, and errors in Python's words."""

from __future__ import annotations

import inspect
import json
import pydoc
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.training import assert_same_run, log_without_times
from PIL import Image

import cconvnet as cc
from cconvnet import plots, runs
from cconvnet.api import TrainingKeywords
from cconvnet.api.conversion import ARGUMENTS, in_python, options_of
from cconvnet.data import DataError
from cconvnet.data.datasets import digits
from cconvnet.nets import LrStep
from cconvnet.runs import RunError
from cconvnet.runs.log_table import log_table
from cconvnet.runs.tensorboard import scalars
from cconvnet.training.options import DESCRIPTIONS, Options

ROOT = Path(__file__).resolve().parents[2]
X, Y = digits.load()
DRAW = plots.into_run
SHORT: dict[str, Any] = {"epochs": 1, "batch": 32, "seed": 5, "devices": "cpu:0", "quiet": True}


def assert_same_bits(run: Path, other: Path) -> None:
    """Check that two runs have bit-identical weights and the same log, on data of different names."""
    one, two = (runs.find_checkpoint(path)[1] for path in (run, other))
    assert one.step == two.step > 0 and len(one.tensors) > 8
    for name, tensor in one.tensors.items():
        assert tensor.tobytes() == two.tensors[name].tobytes(), name
    assert log_without_times(run) == log_without_times(other)


@pytest.fixture(scope="module")
def command_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command on the embedded digits."""
    path = tmp_path_factory.mktemp("command") / "run"
    flags = ["--epochs", "1", "--batch", "32", "--seed", "5", "--device", "cpu:0", "--quiet"]
    command = [sys.executable, "-m", "cconvnet", "train", *flags, "--out", str(path)]
    subprocess.run(command, check=True, timeout=100)
    return path


# ---- the same bits --------------------------------------------------------------------------------------


def test_a_run_of_python_is_that_of_the_command(command_run: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as drawn:
        drawn.setattr("cconvnet.plots.into_run", DRAW)
        run = cc.train(out=tmp_path / "run", **SHORT)
    assert run.path == tmp_path / "run"
    assert_same_run(run.path, command_run)
    assert {file.name for file in run.path.iterdir()} == {file.name for file in command_run.iterdir()}


def test_arrays_give_the_bits_of_the_same_images_elsewhere(command_run: Path, tmp_path: Path) -> None:
    """The digits' own split is every fifth image of a class, which is the split of arrays too."""
    run = cc.train("lenet", (X, Y), out=tmp_path / "run", **SHORT)
    assert_same_bits(run.path, command_run)
    assert (run.path / "arrays.npz").is_file()


def test_arrays_give_the_bits_of_a_folder_of_pictures(tmp_path: Path) -> None:
    """In the order of a folder: classes sorted by name, and their files by name; pictures are RGB."""
    x, y = np.repeat(X[:300], 3, axis=3), Y[:300]
    order = np.argsort(y, kind="stable")
    train, test = order[np.arange(300) % 6 > 0], order[np.arange(300) % 6 == 0]
    for split, numbers in (("train", train), ("test", test)):
        for number in numbers.tolist():
            folder = tmp_path / "pictures" / split / str(y[number])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x[number]).save(folder / f"{number:04}.png")
    arrays = cc.train("lenet", ((x[train], y[train]), (x[test], y[test])), out=tmp_path / "a", **SHORT)
    folder_run = cc.train("lenet", tmp_path / "pictures", out=tmp_path / "b", **SHORT)
    assert_same_bits(arrays.path, folder_run.path)
    # And those of a file of arrays, which is the same data by its fingerprints.
    np.savez(tmp_path / "mine.npz", x=x[train], y=y[train], x_test=x[test], y_test=y[test])
    file_run = cc.train("lenet", tmp_path / "mine.npz", out=tmp_path / "c", **SHORT)
    assert_same_bits(arrays.path, file_run.path)
    assert file_run.settings["pictures"] == arrays.settings["pictures"] != folder_run.settings["pictures"]
    assert (
        file_run.settings["data"] == str(tmp_path / "mine.npz")
        and not (file_run.path / "arrays.npz").exists()
    )


# ---- resuming -------------------------------------------------------------------------------------------


def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    whole = cc.train("lenet", (X, Y), out=tmp_path / "whole", **{**SHORT, "epochs": 2})
    run = cc.train("lenet", (X, Y), out=tmp_path / "run", steps=20, **{**SHORT, "epochs": 2})
    assert not run.complete and run.summary["steps"] == 20
    assert run.train(devices="cpu:0", quiet=True) is run
    assert run.complete
    assert_same_run(run.path, whole.path)
    again = cc.train(resume=str(run.path), epochs=3, devices="cpu:0", quiet=True)
    assert again.overview.epochs == 3


def test_heads_are_logged_resumed_and_left_out_of_tests(tmp_path: Path) -> None:
    x = cc.image(28, 28, 1).conv(4, 5, 2).relu().maxpool(2)
    net = x.conv(8, 3).relu().mean().fc(10).softmax("heads", heads=[x.mean().fc(10).head(0.3, name="aux")])
    more = {**SHORT, "batch": 20, "epochs": 2, "log_every": 4}
    whole = cc.train(net, (X[:300], Y[:300]), out=tmp_path / "whole", **more)
    run = cc.train(net, (X[:300], Y[:300]), out=tmp_path / "run", steps=14, **more)  # within a window
    assert_same_run(run.train(devices="cpu:0", log_every=4, quiet=True).path, whole.path)
    columns, rows = log_table(whole.path, "steps")
    assert columns[-1] == "loss.aux" and all(row[-1] != row[columns.index("loss")] > 0 for row in rows)
    last = [line for line in runs.read_log(whole.path) if "loss" in line][-1]
    assert scalars(last)["loss/aux"] == rows[-1][-1]
    assert run.evaluate(quiet=True).images == 55 and len(run.predict(X[:5])) == 5


def test_running_statistics_are_resumed_and_folded(tmp_path: Path) -> None:
    x = cc.image(28, 28, 1).conv(8, 5, 2, bias=None).bn().relu().maxpool(2)
    x = (x + x.conv(8, 3, pad=1, bias=None).bn()).relu()
    net = x.mean().fc(10).softmax("normalised")
    more = {**SHORT, "batch": 20, "epochs": 2, "lr": 0.1}
    whole = cc.train(net, (X[:300], Y[:300]), out=tmp_path / "whole", **more)
    run = cc.train(net, (X[:300], Y[:300]), out=tmp_path / "run", steps=14, **more)
    assert_same_run(run.train(devices="cpu:0", quiet=True).path, whole.path)
    plain, folded = (run.evaluate(folded=own, quiet=True) for own in (False, True))
    assert folded.loss != plain.loss == pytest.approx(folded.loss, rel=1e-4)
    assert run.predict(X[:1]).probabilities == pytest.approx(
        run.predict(X[:1], folded=True).probabilities, abs=1e-4
    )


@pytest.mark.parametrize("command", [False, True])
def test_a_run_without_its_arrays_needs_them_again(command: bool, tmp_path: Path) -> None:
    run = cc.train("lenet", (X, Y), test=0.2, test_seed=7, keep_data=False, out=tmp_path / "run", **SHORT)
    assert not (run.path / "arrays.npz").exists()
    assert (
        run.evaluate(quiet=True).images
        == len(cc.load(run.path).evaluate((X, Y), quiet=True).answers.labels) // 5
    )
    missing = r"was trained on arrays that it does not keep; give them again: in Python data=\(x, y\)"
    with pytest.raises(DataError, match=missing):
        cc.load(run.path).evaluate(quiet=True)
    if command:
        args = ["train", "--resume", str(run.path), "--epochs", "2", "--device", "cpu:0"]
        done = subprocess.run(
            [sys.executable, "-m", "cconvnet", *args],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 2 and "as --data an .npz file" in done.stderr
        return
    with pytest.raises(DataError, match=missing):
        cc.train(resume=run.path, epochs=2, devices="cpu:0", quiet=True)
    for other in ({"test": 0.2}, {"test": 0.2, "test_seed": 8}, {"test": 0.1, "test_seed": 7}):
        with pytest.raises(RunError, match=r"the arrays are not those that .* was trained on|images .* here"):
            cc.train(data=(X, Y), resume=run.path, epochs=2, devices="cpu:0", quiet=True, **other)
    with pytest.raises(RunError, match="the arrays are not those"):
        changed = X.copy()
        changed[0, 0, 0] ^= 1
        cc.train(
            data=(changed, Y), test=0.2, test_seed=7, resume=run.path, epochs=2, quiet=True, devices="cpu:0"
        )
    same: dict[str, Any] = {"test": 0.2, "test_seed": 7, "devices": "cpu:0", "quiet": True}
    assert cc.load(run.path).train((X, Y), epochs=1, **same).complete
    assert not (run.path / "arrays.npz").exists()
    resumed = cc.train(data=(X, Y), resume=run, epochs=2, keep_data=True, **same)
    assert resumed.complete and (run.path / "arrays.npz").is_file()
    assert run.train(epochs=3, devices="cpu:0", quiet=True).complete


def test_large_arrays_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cconvnet.training.preparation.MAX_KEPT_BYTES", X.nbytes - 1)
    assert not (cc.train("lenet", (X, Y), out=tmp_path / "a", **SHORT).path / "arrays.npz").exists()
    monkeypatch.setattr("cconvnet.training.preparation.MAX_KEPT_BYTES", X.nbytes)
    assert (cc.train("lenet", (X, Y), out=tmp_path / "b", **SHORT).path / "arrays.npz").exists()


def test_a_run_is_repeated_by_its_folder(tmp_path: Path) -> None:
    run = cc.train("lenet", (X, Y), out=tmp_path / "run", lr_steps=[1], **SHORT)
    again = cc.train(config=run.path, out=tmp_path / "again", quiet=True)
    assert_same_bits(again.path, run.path)
    other = cc.train(config=run.path / "run.toml", out=tmp_path / "other", seed=6, steps=1, quiet=True)
    assert other.settings["seed"] == 6 and other.settings["lr_steps"] == run.settings["lr_steps"]
    with pytest.raises(ValueError, match=r"^config .*none"):
        cc.train(config=tmp_path / "none.toml")


# ---- keywords -------------------------------------------------------------------------------------------


def test_the_keywords_are_the_options() -> None:
    command = [sys.executable, str(ROOT / "tools" / "training_keywords.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted([*ARGUMENTS, *typing.get_type_hints(TrainingKeywords)]) == sorted(DESCRIPTIONS)


def test_help_lists_every_keyword_with_its_type_and_meaning() -> None:
    text = pydoc.plain(pydoc.render_doc(cc.train))
    parameters = inspect.signature(cc.train).parameters
    for name, option in DESCRIPTIONS.items():
        assert name in parameters and str(parameters[name].annotation) != "typing.Any"
        assert f"{name}: " in text
        if name not in ARGUMENTS:
            assert parameters[name].default == getattr(Options, name)
            assert in_python(option.help).split()[0] in text
    assert "--" not in text.replace("-- ", "")


def test_values_may_be_what_a_program_has_or_what_the_command_takes() -> None:
    options = options_of(
        {
            "out": "somewhere",
            "devices": ("cpu:0", "cpu:1"),
            "lr_steps": [3, 5.5],
            "freeze": ["conv1"],
            "epochs": np.int64(3),
            "lr": np.float32(0.5),
            "batch": None,
            "log_every": None,
        }
    )
    assert options.out == Path("somewhere") and options.devices == ["cpu:0", "cpu:1"]
    assert options.lr_steps == (LrStep(3, 0.1), LrStep(5.5, 0.1)) and options.freeze == ("conv1",)
    assert (type(options.epochs), type(options.lr), options.batch) == (int, float, None)
    assert options.log_every == Options().log_every
    texts = options_of(
        {"devices": "cpu:0,cpu:1", "lr_steps": "3,5.5", "freeze": "conv1", "lr_plateau": "none"}
    )
    assert (texts.devices, texts.lr_steps, texts.freeze) == (
        options.devices,
        options.lr_steps,
        options.freeze,
    )
    assert texts.lr_plateau == 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"epoch": 3}, "a keyword of train.. must be one of .*; did you mean 'epochs'"),
        ({"epochs": 0}, "^epochs must be at least 1, not 0"),
        ({"epochs": "3"}, "^epochs must be an integer, not '3'"),
        ({"batch": 5000}, "^batch 5,000 is larger than the 1,442 training images"),
        ({"lr_steps": "5,3"}, "^lr_steps must be rising epochs"),
        ({"tensorboard": "no"}, "^tensorboard must be True or False, not 'no'"),
        ({"net": "lenett"}, "lenet"),
        ({"data": 3}, "data must be a path, .x, y. or .*, not int"),
        ({"data": "digits", "test": 0.1}, "test goes with data=.x, y., which 'digits' is not"),
        ({"data": "no such folder"}, "there is no .*/no such folder"),
        ({"resume": "no such run"}, "no such run"),
    ],
)
def test_errors_name_keywords(given: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=text) as caught:
        cc.train(**{"out": tmp_path / "run", "devices": "cpu:0", "quiet": True, **given})
    assert "--" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_command_in_a_text_keeps_its_flags() -> None:
    assert in_python("--batch 3 and --device x") == "batch 3 and devices x"
    assert in_python("resume it with --resume my runs/a, or choose another --out") == (
        "resume it with resume='my runs/a', or choose another out"
    )
    assert (
        in_python("--views is of another command, --no-mirror too")
        == "views is of another command, no_mirror too"
    )
    assert in_python("try cconvnet train --batch 3") == "try cconvnet train --batch 3"


def test_quiet_is_quiet_and_otherwise_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cc.train(out=tmp_path / "quiet", **SHORT)
    assert capsys.readouterr() == ("", "")
    cc.train(out=tmp_path / "run", **{**SHORT, "quiet": False, "steps": 3})
    text = capsys.readouterr().out
    assert f"files: {tmp_path / 'run'}" in text
    assert f"stopped after step 3; to resume: cc.train(resume='{tmp_path / 'run'}')" in text


def test_a_run_begun_by_the_command_is_loaded(command_run: Path) -> None:
    run = cc.load(command_run)
    assert json.loads((command_run / "summary.json").read_text()) == run.summary
    assert runs.read_config(command_run)["settings"] == run.settings
