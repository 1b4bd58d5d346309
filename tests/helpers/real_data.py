"""The folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real_data() -> Path:
    """Return the folder CCONVNET_TEST_DATA; skip the test if it is not set."""
    folder = os.environ.get("CCONVNET_TEST_DATA")
    if not folder:
        pytest.skip("CCONVNET_TEST_DATA is not set")
    return Path(folder)
