"""ResNets for CIFAR-10 with their trainer's weights, on the JPEGs of the folder CCONVNET_TEST_DATA."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.trained import network_with

import cconvnet as cc
from cconvnet import nets
from cconvnet.data import Loader, open_source
from cconvnet.data.splits import Split, StoredSplit
from cconvnet.formats.weights import read_weights
from cconvnet.network import Network

Array = np.ndarray[Any, Any]

# Files, and test errors in percent, which PyTorch's run of the same weights has too.
FILES = {
    "resnet20": ("resnet20-12fca82f.th", 18.97),
    "resnet32": ("resnet32-d509ac18.th", 17.44),
    "resnet44": ("resnet44-014dd654.th", 17.33),
    "resnet56": ("resnet56-4bfd9763.th", 16.80),
}
LONG = [pytest.param(name, marks=pytest.mark.long) for name in list(FILES)[1:]]


@pytest.fixture(scope="module")
def tests(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Split:
    """The 10,000 test images, decoded."""
    folder = tmp_path_factory.mktemp("cifar")
    with tarfile.open(real / "cifar10-jpeg.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    split = open_source(str(folder), size=32).test
    return split.into_memory() if isinstance(split, StoredSplit) else split


def with_weights(real: Path, name: str, precision: str) -> Network:
    """Return a network with its trainer's weights, of that file."""
    weights = read_weights(real / "pretrained" / FILES[name][0])
    options = {"batch": 500, "devices": "cpu:0", "precision": precision, "needs": "forward"}
    return network_with(weights, nets.build(name), **options)


def error(network: Network, tests: Split) -> float:
    """Return the test error in percent."""
    wrong = 0
    with Loader(tests, network.batch, shuffle=False, drop_last=False) as loader:
        for batch in loader.epoch(0):
            network.load(batch.images, batch.labels)
            network.forward(train=False)
            wrong += int((~network.result().correct).sum())
    return 100 * wrong / len(tests)


def test_an_imported_run_has_the_same_errors(real: Path, tests: Split, tmp_path: Path) -> None:
    """Made without data, the run takes the names of classes from the first data that it meets."""
    file = real / "pretrained" / FILES["resnet20"][0]
    run = cc.load(file, net="resnet20", out=tmp_path / "run")
    pixels, labels = tests.read(np.arange(0, len(tests), 10))
    found = run.evaluate((pixels, labels), batch=500, devices="cpu:0", quiet=True)
    assert found.images == 1000 and found.error_top1 == pytest.approx(0.1897, abs=0.03)
    network = with_weights(real, "resnet20", "fp32")
    wrong = 0
    for start in (0, 500):
        network.load(pixels[start : start + 500], labels[start : start + 500])
        network.forward(train=False)
        wrong += int((~network.result().correct).sum())
    assert round(1000 * found.error_top1) == wrong


@pytest.mark.parametrize("name", ["resnet20", *LONG])
@pytest.mark.parametrize(("products", "most"), [("fp32", 0.05), ("bf16", 0.3)])
def test_errors_are_pytorchs_folded_and_not(
    real: Path, tests: Split, name: str, products: str, most: float
) -> None:
    network = with_weights(real, name, products)
    for own in (network, network.folded()):
        assert error(own, tests) == pytest.approx(FILES[name][1], abs=most)
