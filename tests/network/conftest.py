"""Networks that several files of tests use."""

from __future__ import annotations

import pytest

from cconvnet import nets
from cconvnet.network import Network


@pytest.fixture(scope="module")
def full_alexnet() -> Network:
    return Network(nets.build("alexnet"), batch=1, devices="cpu:0")
