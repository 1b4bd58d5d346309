"""Training on real pictures: the CIFAR-10 JPEGs and the photographs of the folder CCONVNET_TEST_DATA."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.real_data import real_data

from cconvnet.runs import checkpoint
from cconvnet.runs.checkpoint import Folder


def unpacked(name: str, target: Path) -> Path:
    """The pictures of an archive of the test data, in `target`."""
    with tarfile.open(real_data() / name) as archive:
        archive.extractall(target, filter="data")
    return target


def train(*arguments: object) -> dict[str, Any]:
    """Runs `cconvnet train` and gives its summary back."""
    out = Path(str(arguments[arguments.index("--out") + 1]))
    command = [sys.executable, "-m", "cconvnet", "train", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=200)
    return json.loads((out / "summary.json").read_text())  # type: ignore[no-any-return]


def test_cifar_quick_learns(tmp_path: Path) -> None:
    # 300 steps bring the error from chance, 90%, to about 50%.
    pictures = unpacked("cifar10-jpeg.tar.xz", tmp_path / "cifar10")
    summary = train(
        *("--net", "cifar-quick", "--data", pictures, "--device", "cpu:0"),
        *("--steps", 300, "--seed", 1, "--out", tmp_path / "run"),
    )
    assert summary["test_error_top1"] <= 0.6


@pytest.mark.long
def test_alexnet_learns_photographs_by_heart(tmp_path: Path) -> None:
    # Full size, crops, mirror images, colour noise and dropout included.
    photographs = unpacked("imagenet-100-photos.tar", tmp_path / "photos")
    summary = train(
        *("--net", "alexnet", "--data", photographs, "--device", "cpu:0"),
        *("--batch", 20, "--epochs", 140, "--lr-steps", 25, "--seed", 1, "--out", tmp_path / "run"),
    )
    # The folder has no test pictures, so this is the error on the training pictures' centres.
    assert summary["test_error_top1"] < 0.05


@pytest.mark.long
def test_the_original_alexnet_moves_from_two_devices_to_one(tmp_path: Path) -> None:
    """Trained on two devices, killed, taken up again on one, it ends with the weights of an unbroken run."""
    photographs = unpacked("imagenet-100-photos.tar", tmp_path / "photos")
    options = ("--net", "alexnet-2012", "--data", photographs, "--batch", 20, "--seed", 2, "--epochs", 3)
    options = (*options, "--checkpoint-every", 4, "--device", "cpu:0,cpu:1")
    whole = train(*options, "--out", tmp_path / "whole")
    broken = tmp_path / "broken"
    command = [sys.executable, "-m", "cconvnet", "train", *map(str, options), "--out", str(broken)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (
        checkpoints := [f for f in Folder(broken / "checkpoints").files() if f.stem > "step-00000004"]
    ):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=200)
    assert checkpoints[-1].stem < "step-00000015"
    rest = train("--resume", broken, "--device", "cpu:0", "--out", broken)
    assert (whole["device"], rest["device"]) == ("cpu:0,cpu:1", "cpu:0")
    assert whole["test_loss"] == rest["test_loss"] and whole["copied_bytes"] > rest["copied_bytes"] > 0
    right, found = (
        checkpoint.load(run / "checkpoints" / "step-00000015.safetensors").tensors
        for run in (tmp_path / "whole", broken)
    )
    assert right.keys() == found.keys()
    for name, tensor in right.items():
        assert tensor.tobytes() == found[name].tobytes(), name
