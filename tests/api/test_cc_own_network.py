"""A network of one's own, in a notebook's ten lines: on arrays, on a folder, and on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cconvnet as cc
from cconvnet import runs
from cconvnet.data.datasets import digits
from cconvnet.runs import CheckpointError, RunError

X, Y = digits.load()
# The digits as 32x32 pictures in colour, in the order in which a folder lists them.
ORDER = np.argsort(Y, kind="stable")[::4]
LARGE = np.repeat(X.repeat(4, axis=1).repeat(4, axis=2), 3, axis=3)[ORDER]
LABELS = Y[ORDER]
IS_TEST = np.arange(len(LABELS)) % 6 == 0
DATA = ((LARGE[~IS_TEST], LABELS[~IS_TEST]), (LARGE[IS_TEST], LABELS[IS_TEST]))

NET = """
import cconvnet as cc

x = cc.image(32, 32, 3).conv(8, 5, pad=2).relu().maxpool(3, 2)
x = x.conv(16, 5, pad=2).relu().maxpool(3, 2)
x = (x + x.conv(16, 3, pad=1)).relu()
net = x.mean().dropout(0.1).fc(10).softmax(name="mine")
"""
OPTIONS: dict[str, Any] = {"epochs": 2, "lr": 0.05, "batch": 16, "devices": "cpu:0", "quiet": True}


def weights(path: Path) -> dict[str, bytes]:
    _, checkpoint, _ = runs.find_checkpoint(path)
    assert checkpoint.step == 46
    return {name: tensor.tobytes() for name, tensor in checkpoint.tensors.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    for number, (image, label) in enumerate(zip(LARGE, LABELS, strict=True)):
        place = root / ("test" if IS_TEST[number] else "train") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:04}.png", compress_level=1)
    return root


@pytest.fixture(scope="module")
def net() -> cc.NetSpec:
    names: dict[str, Any] = {}
    exec(NET, names)  # noqa: S102 - the cell of a notebook
    spec = names["net"]
    assert isinstance(spec, cc.NetSpec)
    return spec


@pytest.fixture(scope="module")
def run(net: cc.NetSpec, tmp_path_factory: pytest.TempPathFactory) -> cc.Run:
    return cc.train(net, DATA, out=tmp_path_factory.mktemp("own") / "arrays", **OPTIONS)


def test_it_learns_and_everything_of_a_run_works(run: cc.Run) -> None:
    assert run.summary["net"] == "mine"
    assert run.log.epochs["train_loss"][1] < run.log.epochs["train_loss"][0]
    assert run.evaluate(quiet=True).error_top1 == run.summary["test_error_top1"]
    assert run.predict(LARGE[0]).probability >= 0.1  # type: ignore[union-attr]
    assert run.network(devices="cpu:0").spec.name == "mine"


@pytest.mark.long
def test_a_notebooks_ten_lines_learn_the_digits(tmp_path: Path) -> None:
    large = np.repeat(X.repeat(4, axis=1).repeat(4, axis=2), 3, axis=3)
    x = cc.image(32, 32, 3).conv(32, 5, pad=2).relu().maxpool(3, 2)
    x = x.conv(64, 5, pad=2).relu().maxpool(3, 2)
    x = (x + x.conv(64, 3, pad=1)).relu()
    net = x.mean().dropout(0.5).fc(10).softmax(name="mine")
    assert str(net.table())
    run = cc.train(net, (large, Y), epochs=10, lr=0.05, devices="cpu:0", quiet=True, out=tmp_path / "run")
    assert run.evaluate(quiet=True).error_top1 < 0.2


def test_a_folder_gives_the_same_bits(run: cc.Run, net: cc.NetSpec, folder: Path, tmp_path: Path) -> None:
    other = cc.train(net, folder, out=tmp_path / "run", **OPTIONS)
    assert weights(other.path) == weights(run.path)


def test_the_command_gives_the_same_bits(run: cc.Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "my_net.py").write_text(NET)
    flags = ["--epochs", "2", "--lr", "0.05", "--batch", "16", "--device", "cpu:0", "--quiet"]
    out = tmp_path / "run"
    command = [sys.executable, "-m", "cconvnet", "train", "--net", "my_net.py", "--data", str(folder)]
    subprocess.run([*command, "--out", str(out), *flags], cwd=tmp_path, check=True, timeout=100)
    assert weights(out) == weights(run.path)
    # The run needs the network's file no more.
    (tmp_path / "my_net.py").unlink()
    assert cc.train(resume=out, steps=50, epochs=3, devices="cpu:0", quiet=True).summary["steps"] == 50


def test_a_file_is_a_network_in_python_too(run: cc.Run, net: cc.NetSpec, tmp_path: Path) -> None:
    (tmp_path / "my_net.py").write_text(NET)
    (tmp_path / "net.json").write_text(json.dumps(runs.read_config(run.path)["spec"]))
    for name in ("my_net.py", "net.json"):
        short = cc.train(tmp_path / name, DATA, out=tmp_path / Path(name).stem, steps=1, **OPTIONS)
        assert runs.read_config(short.path)["spec"] == runs.read_config(run.path)["spec"]


def test_data_of_another_size_is_resized_and_of_other_classes_is_refused(
    net: cc.NetSpec, tmp_path: Path
) -> None:
    small = cc.train(net, (np.repeat(X, 3, axis=3), Y), out=tmp_path / "a", steps=1, **OPTIONS)
    assert small.settings["image_shape"] == [32, 32, 3] and small.settings["size"] == 32
    with pytest.raises(
        ValueError, match="mine is for images of 32x32x3 and 10 classes, but the data has 32x32x1"
    ):
        cc.train(net, (X, Y), out=tmp_path / "b", **OPTIONS)
    with pytest.raises(ValueError, match="and 10 classes, but the data has 32x32x3 and 3"):
        cc.train(net, (LARGE, LABELS % 3), out=tmp_path / "b", **OPTIONS)
    assert not (tmp_path / "b").exists()


def test_a_run_is_resumed_with_its_own_network_only(net: cc.NetSpec, tmp_path: Path) -> None:
    run = cc.train(net, DATA, out=tmp_path / "run", steps=2, **OPTIONS)
    again = cc.train(net, resume=run, steps=3, devices="cpu:0", quiet=True)
    assert again.summary["steps"] == 3
    other = cc.image(32, 32, 3).conv(8, 3).relu().mean().fc(10).softmax(name="mine")
    with pytest.raises((CheckpointError, RunError)):
        cc.train(other, resume=run, steps=4, devices="cpu:0", quiet=True)
    renamed = cc.image(32, 32, 3).conv(8, 5, pad=2, name="a").relu().mean().fc(10).softmax(name="lenet")
    with pytest.raises((CheckpointError, RunError)):
        cc.train(renamed, resume=run, steps=4, devices="cpu:0", quiet=True)
