"""Networks with weights of other programs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cconvnet.formats.layer_names import namings
from cconvnet.formats.layouts import parts
from cconvnet.formats.weights import Weights, fit
from cconvnet.nets import NetSpec
from cconvnet.network import Network

Array = np.ndarray[Any, Any]


def network_with(weights: Weights, spec: NetSpec, **options: Any) -> Network:
    """Return a network with these weights, all of which it must have."""
    fitted = fit(weights, spec)
    network = Network(fitted.spec, **options)
    assert set(fitted.tensors) == set(network.parameters)
    for name, value in fitted.tensors.items():
        network.parameters[name].fill("value", value)
    return network


def weights_of_model(model: Any) -> Weights:
    """Return the weights of a module of PyTorch, as a file of them would have them."""
    state = {name: one.detach().numpy() for name, one in model.state_dict().items()}
    return Weights(Path("model"), {name: one for name, one in state.items() if one.dtype == np.float32})


def drawn(spec: NetSpec) -> dict[str, Array]:
    """Return random parameters by their names here, as small as He's."""
    tensors = {}
    for number, part in enumerate(parts(spec)):
        draws = np.random.default_rng(number)
        if len(part.shape) > 1:
            read = part.shape[-3:] if len(part.shape) > 2 else part.shape[1:]
            value = draws.normal(0, (2 / np.prod(read)) ** 0.5, part.shape)
        else:
            low, high = {"running_var": (0.5, 2.0), "weight": (0.5, 1.5)}.get(part.of, (-0.2, 0.2))
            value = draws.uniform(low, high, part.shape)
        tensors[part.name] = value.astype(np.float32)
    return tensors


def as_theirs(spec: NetSpec, tensors: dict[str, Array]) -> dict[str, Array]:
    """Return some of a network's parameters, or their gradients, by PyTorch's names and in its layouts."""
    names = namings(spec)[0].names
    return {
        f"{names[part.layer]}.{part.of}": part.to_there(tensors[part.name])
        for part in parts(spec)
        if part.name in tensors
    }


def torchvision_models() -> Any:
    """Return torchvision.models; skip the test without it.

    Its compiled operators, which no model here needs, may be of another build.
    """
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.library, "register_fake", lambda *given, **named: lambda function: function)
        return importlib.import_module("torchvision.models")
