"""A run that several files of tests compare theirs with."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.training import run_training


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    path = tmp_path_factory.mktemp("unbroken") / "run"
    run_training(out=path)
    return path
