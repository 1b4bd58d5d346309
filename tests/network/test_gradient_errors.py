"""Errors of whole networks' gradients against float64, beside those of PyTorch in float32.

The networks are landmarks of reduced width, without dropout, whose masks would differ. Where PyTorch is not
at hand, its errors are those recorded in helpers/float32_errors.json.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import batch_of, gradients

from cconvnet.devices import get_device
from cconvnet.nets import DropoutSpec, NetSpec
from cconvnet.network import Network
from cconvnet.network.gradcheck import small_spec

Array = np.ndarray[Any, Any]
Errors = dict[str, float]

RECORDED = Path(__file__).parents[1] / "helpers" / "float32_errors.json"
NAMES = ["vgg16", "googlenet", "nin", "zfnet", "overfeat-fast", "squeezenet-1.0"]
BATCH = 6
MOST = 2.0  # times the error of PyTorch in float32


@pytest.fixture(autouse=True)
def plain_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let products be plain sums, as PyTorch's are: Winograd's algorithm rounds more."""
    monkeypatch.setenv("CCONVNET_STRICT", "1")


def landmark(name: str) -> NetSpec:
    """Return a network of reduced width without dropout and without limits, which PyTorch does not have."""
    spec = small_spec(name)
    layers = []
    for layer in spec.layers:
        if isinstance(layer, DropoutSpec):
            layer = dataclasses.replace(layer, enabled=False)
        elif getattr(layer, "norm_limit", 0):
            layer = dataclasses.replace(layer, norm_limit=0.0)  # type: ignore[call-arg]
        layers.append(layer)
    return dataclasses.replace(spec, layers=tuple(layers))


def network_of(spec: NetSpec, device: str) -> Network:
    """Return a network that has computed the gradients of a batch."""
    network = Network(spec, batch=BATCH, devices=get_device(device), seed=3)
    batch = batch_of(spec, BATCH, seed=4)
    network.load(batch["images"], batch["labels"])
    network.forward(train=True)
    network.backward()
    return network


def errors(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> Errors:
    """Return the error of each gradient, relative to its norm."""
    assert found.keys() == wanted.keys()
    return {
        name: float(np.linalg.norm(found[name] - value) / np.linalg.norm(value))
        for name, value in wanted.items()
    }


def assert_errors(ours: Errors, theirs: Errors) -> None:
    """Assert that no gradient's error is more than MOST times PyTorch's.

    A short gradient may be right by chance: none is compared with less than the median of the network.
    """
    assert ours.keys() == theirs.keys()
    usual = float(np.median(list(theirs.values())))
    for name, own in ours.items():
        assert own <= MOST * max(theirs[name], usual), f"{name}: {own:.2e} beside {theirs[name]:.2e}"
    assert np.median([ours[name] / theirs[name] for name in ours]) <= 1.5


@pytest.mark.parametrize("name", NAMES)
def test_errors_beside_recorded_ones(name: str) -> None:
    spec = landmark(name)
    wanted = gradients(network_of(spec, "reference:0"))
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert_errors(errors(gradients(network_of(spec, "cpu:0")), wanted), recorded[name])


@pytest.mark.parametrize("name", NAMES)
def test_errors_beside_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    from cconvnet.bench.peers import pytorch_net

    spec = landmark(name)
    network = network_of(spec, "cpu:0")
    images = torch.from_numpy(network.outputs("data").transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(batch_of(spec, BATCH, seed=4)["labels"])

    def by_torch(dtype: Any) -> dict[str, Array]:
        twin = pytorch_net.Net(spec, network.state()).to(dtype).train()
        for pool in twin.pools:
            pool.every_tie = True
        losses = [torch.nn.functional.cross_entropy(own, labels) for own in twin(images.to(dtype))]
        sum(cost.coeff * loss for cost, loss in zip(twin.costs, losses, strict=True)).backward()
        found = {}
        for parameter, own in twin.learned.items():
            values = own.tensor.grad.numpy().reshape([own.view[axis] for axis in own.axes])
            found[parameter] = values.transpose(np.argsort(own.axes)).reshape(own.ours)
        return found

    wanted = by_torch(torch.float64)
    theirs = errors(by_torch(torch.float32), wanted)
    assert_errors(errors(gradients(network), wanted), theirs)
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[name]
    assert 0.5 < np.median([theirs[parameter] / recorded[parameter] for parameter in theirs]) < 2
