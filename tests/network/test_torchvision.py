"""torchvision's ResNets with random weights and statistics: answers, gradients and new running statistics.

Errors are against float64, and at most twice those of PyTorch in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.gradient_errors import Errors, assert_errors, errors, medians
from helpers.trained import as_theirs, network_with, torchvision_models, weights_of_model

from cconvnet.nets import resnet
from cconvnet.network import Network

torch = pytest.importorskip("torch")

Array = np.ndarray[Any, Any]
SIDE, BATCH = 32, 8


@pytest.fixture(scope="module")
def models() -> Any:
    return torchvision_models()


def randomised(model: Any) -> Any:
    """Give the normalisations random vectors and statistics."""
    draws = torch.Generator().manual_seed(7)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 2.0),
            ):
                tensor.data.uniform_(low, high, generator=draws)
    return model


def by_torch(model: Any, x: Any, labels: Any, dtype: Any, train: bool) -> dict[str, Array]:
    """Return logits and, of a training step, every gradient and the new running statistics."""
    # The layout of ours: with channels apart, PyTorch sums the products of 3x3 windows in another order.
    layout = torch.channels_last
    model = model.to(dtype, memory_format=layout).train(train)
    model.zero_grad()
    logits = model(x.to(dtype, memory_format=layout))
    found = {"logits": logits.detach().numpy()}
    if train:
        torch.nn.functional.cross_entropy(logits, labels).backward()
        found |= {name: own.grad.numpy() for name, own in model.named_parameters()}
        found |= {name: own.numpy() for name, own in model.named_buffers() if "running" in name}
    return {name: np.array(value, np.float64) for name, value in found.items()}


def by_ours(network: Network, train: bool) -> dict[str, Array]:
    """Return the same of a network, by torchvision's names."""
    network.forward(train=train)
    logits = {"logits": network.outputs("fc")}
    if not train:
        return logits
    network.backward()
    found = {name: own.host("gradient") for name, own in network.parameters.items() if own.learns}
    network.update(0.0, 0.0)
    found |= {name: own.host() for name, own in network.parameters.items() if not own.learns}
    return logits | as_theirs(network.spec, found)


def both_errors(models: Any, depth: int, train: bool, seed: int) -> tuple[Errors, Errors]:
    """Return the errors of ours and of PyTorch's float32 for one network and one batch."""
    torch.manual_seed(seed)
    model = randomised(getattr(models, f"resnet{depth}")(weights=None))
    stored = SIDE * 8 // 7 + 1
    spec = resnet.build((stored, stored, 3), depth=depth)
    network = network_with(weights_of_model(model), spec, batch=BATCH, devices="cpu:0")
    first = {name: own.clone() for name, own in model.state_dict().items()}
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, 1000, BATCH)
    network.load(draws.integers(0, 256, (BATCH, *spec.stored_shape), np.uint8), labels)
    ours = by_ours(network, train)
    x = torch.from_numpy(network.outputs("data").transpose(0, 3, 1, 2).copy())
    wanted = by_torch(model, x, torch.from_numpy(labels), torch.float64, train)
    model.load_state_dict(first)
    single = by_torch(model, x, torch.from_numpy(labels), torch.float32, train)
    return errors(ours, wanted), errors(single, wanted)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("depth", [18, 50])
def test_errors_are_at_most_twice_pytorchs(
    models: Any, depth: int, train: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCONVNET_STRICT", "1")  # plain sums, as PyTorch's are
    found = [both_errors(models, depth, train, seed) for seed in range(5)]
    assert_errors(*(medians(side) for side in zip(*found, strict=True)))
