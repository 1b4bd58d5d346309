"""Training on real pictures: the CIFAR-10 JPEGs and the photographs of the folder CCONVNET_TEST_DATA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest


def unpacked(name: str, target: Path) -> Path:
    """The pictures of an archive of the test data, in `target`."""
    folder = os.environ.get("CCONVNET_TEST_DATA")
    if not folder:
        pytest.skip("CCONVNET_TEST_DATA is not set")
    with tarfile.open(Path(folder, name)) as archive:
        archive.extractall(target, filter="data")
    return target


def train(*arguments: object) -> dict[str, float]:
    """Runs `cconvnet train` and gives its summary back."""
    out = Path(str(arguments[arguments.index("--out") + 1]))
    command = [sys.executable, "-m", "cconvnet", "train", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
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
