"""Fixtures of several tests of commands: a trained run and a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.commands import succeed
from PIL import Image


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs."""
    path = tmp_path_factory.mktemp("cli") / "run"
    succeed("train", "--device", "cpu:0", "--epochs", 2, "--lr", 0.05, "--out", path)
    return path


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    """A picture of an 0."""
    from cconvnet.data.datasets import digits

    file = tmp_path / "zero.png"
    Image.fromarray(digits.load()[0][0, :, :, 0]).save(file)
    return file
