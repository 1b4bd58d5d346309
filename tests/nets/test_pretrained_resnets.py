"""ResNets for CIFAR-10 with their trainer's weights, on the JPEGs of the folder CCONVNET_TEST_DATA."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.torch_resnets import legacy_state, state_of

from cconvnet import nets
from cconvnet.data import Loader, open_source
from cconvnet.data.splits import Split, StoredSplit
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
    """Return a network with its trainer's weights, whose last layer has another name in the file."""
    theirs = legacy_state(real / "pretrained" / FILES[name][0])
    theirs = {key.replace("linear.", "fc."): value for key, value in theirs.items()}
    network = Network(nets.build(name), batch=500, devices="cpu:0", precision=precision, needs="forward")
    network.load_state(state_of(network.state_shapes(), theirs))
    return network


def error(network: Network, tests: Split) -> float:
    """Return the test error in percent."""
    wrong = 0
    with Loader(tests, network.batch, shuffle=False, drop_last=False) as loader:
        for batch in loader.epoch(0):
            network.load(batch.images, batch.labels)
            network.forward(train=False)
            wrong += int((~network.result().correct).sum())
    return 100 * wrong / len(tests)


@pytest.mark.parametrize("name", ["resnet20", *LONG])
@pytest.mark.parametrize(("products", "most"), [("fp32", 0.05), ("bf16", 0.3)])
def test_errors_are_pytorchs_folded_and_not(
    real: Path, tests: Split, name: str, products: str, most: float
) -> None:
    network = with_weights(real, name, products)
    for own in (network, network.folded()):
        assert error(own, tests) == pytest.approx(FILES[name][1], abs=most)
