"""Errors of whole networks' gradients against float64, beside those of PyTorch in float32.

The networks are landmarks of reduced width, without dropout, whose masks would differ. Where PyTorch is not
at hand, its errors are those recorded in helpers/float32_errors.json.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.gradient_errors import assert_errors, errors, medians
from helpers.small_networks import batch_of, gradients

from cconvnet.devices import get_device
from cconvnet.nets import BatchNormSpec, DropoutSpec, Init, NetSpec, gaussian
from cconvnet.network import Network
from cconvnet.network.gradcheck import small_spec

Array = np.ndarray[Any, Any]

RECORDED = Path(__file__).parents[1] / "helpers" / "float32_errors.json"
NAMES = [
    *("vgg16", "googlenet", "nin", "zfnet", "overfeat-fast", "squeezenet-1.0"),
    *("resnet18", "vgg16-bn", "fcn8s"),
]
BATCH, SEEDS = 6, range(4, 7)


@pytest.fixture(autouse=True)
def plain_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let products be plain sums, as PyTorch's are: Winograd's algorithm rounds more."""
    monkeypatch.setenv("CCONVNET_STRICT", "1")


def landmark(name: str) -> NetSpec:
    """Return a network of reduced width without dropout and without limits, which PyTorch does not have."""
    # Fewer pixels with labels, of which fewer are where rounding decides a pooling's maximum.
    spec = small_spec(name, 1 / 8, 64) if name.startswith("fcn") else small_spec(name)
    layers = []
    for layer in spec.layers:
        if isinstance(layer, DropoutSpec):
            layer = dataclasses.replace(layer, enabled=False)
        elif isinstance(layer, BatchNormSpec):
            layer = dataclasses.replace(layer, gamma=1.0)  # with 0 nothing before it learns
        elif getattr(layer, "init", None) == gaussian(0):
            layer = dataclasses.replace(layer, init=Init())  # likewise
        elif getattr(layer, "norm_limit", 0):
            layer = dataclasses.replace(layer, norm_limit=0.0)  # type: ignore[call-arg]
        layers.append(layer)
    return dataclasses.replace(spec, layers=tuple(layers))


def network_of(spec: NetSpec, device: str, seed: int) -> Network:
    """Return a network that has computed the gradients of a batch."""
    network = Network(spec, batch=BATCH, devices=get_device(device), seed=3)
    batch = batch_of(spec, BATCH, seed)
    network.load(batch["images"], batch["labels"])
    network.forward(train=True)
    network.backward()
    return network


@pytest.mark.parametrize("name", NAMES)
def test_errors_beside_recorded_ones(name: str) -> None:
    spec = landmark(name)
    found = []
    for seed in SEEDS:
        ours, exact = (gradients(network_of(spec, device, seed)) for device in ("cpu:0", "reference:0"))
        found.append(errors(ours, exact))
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[name]
    ours = medians(found)
    assert_errors(ours, recorded)
    assert np.median([ours[name] / recorded[name] for name in ours]) <= 1.5


@pytest.mark.parametrize("name", NAMES)
def test_errors_beside_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    from cconvnet.bench.peers import pytorch_net

    spec = landmark(name)

    def by_torch(network: Network, labels: Any, dtype: Any) -> dict[str, Array]:
        images = torch.from_numpy(network.outputs("data").transpose(0, 3, 1, 2).copy())
        # The layout of ours: with channels apart, PyTorch sums the products of 3x3 windows in another order.
        layout = torch.channels_last
        twin = pytorch_net.Net(spec, network.state()).to(dtype, memory_format=layout).train()
        for pool in twin.pools:
            pool.every_tie = True
        losses = [
            torch.nn.functional.cross_entropy(own, labels, ignore_index=255)
            for own in twin(images.to(dtype, memory_format=layout))
        ]
        sum(cost.coeff * loss for cost, loss in zip(twin.costs, losses, strict=True)).backward()
        found = {}
        for parameter, own in twin.learned.items():
            values = own.tensor.grad.numpy().reshape([own.view[axis] for axis in own.axes])
            found[parameter] = values.transpose(np.argsort(own.axes)).reshape(own.ours)
        return found

    found = []
    for seed in SEEDS:
        network = network_of(spec, "cpu:0", seed)
        labels = torch.from_numpy(batch_of(spec, BATCH, seed)["labels"])
        exact, theirs = (by_torch(network, labels, dtype) for dtype in (torch.float64, torch.float32))
        found.append((errors(gradients(network), exact), errors(theirs, exact)))
    ours, theirs = (medians(side) for side in zip(*found, strict=True))
    assert_errors(ours, theirs)
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[name]
    assert 0.5 < np.median([theirs[parameter] / recorded[parameter] for parameter in theirs]) < 2
