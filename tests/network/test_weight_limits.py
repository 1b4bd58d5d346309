"""Contrast and norm limits of a layer's weights: kept after every update, on every path, by every device."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from cconvnet.devices import Device
from cconvnet.nets import (
    ConvSpec,
    FcSpec,
    InputSpec,
    LayerSpec,
    LocalSpec,
    NetSpec,
    PoolSpec,
    SoftmaxCostSpec,
    SumSpec,
    TrainRecipe,
    chain,
    spec_from_dict,
    spec_to_dict,
    spec_values,
)
from cconvnet.nets.transform import towers
from cconvnet.network import Network

STEPS = 20


def conv(name: str, **values: Any) -> ConvSpec:
    return ConvSpec(name=name, **{"filters": 6, "window": (3, 3), "padding": (1, 1)} | values)


def net_of(*layers: LayerSpec, image: int = 8) -> NetSpec:
    ends = FcSpec(name="last", outputs=3), SoftmaxCostSpec(name="cost")
    whole = InputSpec(image, image, 3, scale=1 / 64)
    return NetSpec("test", chain(*layers, *ends), whole, (image, image), 3, TrainRecipe(4, 1, 0.1))


# Filters that are held small, held large, held both ways in groups, and let be; a stride that reads blocks.
LIMITED = net_of(
    conv("small", contrast_limits=(0.0, 0.5), stride=(2, 2)),
    conv("large", contrast_limits=(2.0, 4.0), groups=2, filters=4),
    conv(
        "two",
        inputs=("large", "small"),
        per_input=({"contrast_limits": (1.0, 1.1)}, {"norm_limit": 0.7}),
    ),
    conv("both", contrast_limits=(0.9, 1.5), norm_limit=0.8),
    conv("frozen", contrast_limits=(7.0, 8.0), lr_scale=0.0),
)
CONTRASTS = {
    "small.weight": (0.0, 0.5),
    "large.weight": (2.0, 4.0),
    "two.weight.0": (1.0, 1.1),
}


def train(network: Network, path: str) -> dict[str, Any]:
    draws = np.random.default_rng(5)
    n, shape = network.batch, network.spec.stored_shape
    for step in range(STEPS):
        network.load(images=draws.integers(0, 256, (n, *shape), np.uint8), labels=draws.integers(0, 3, n))
        if path == "step":
            network.train_step(step, 0.002, 0.9)
        else:
            network.forward(train=True, step=step)
            network.backward()
            network.update(0.002, 0.9)
    return network.state()


def contrast(weights: Any) -> Any:
    rows = np.asarray(weights, np.float64).reshape(len(weights), -1)
    return np.linalg.norm(rows - rows.mean(axis=1, keepdims=True), axis=1)


@pytest.mark.parametrize("path", ["step", "update"])
def test_limits_hold_in_training(device: Device, path: str) -> None:
    network = Network(LIMITED, batch=4, devices=device)
    first = network.state()
    state = train(network, path)
    for name, (low, high) in CONTRASTS.items():
        found = contrast(state[name])
        assert (low * (1 - 1e-6) <= found).all() and (found <= high * (1 + 1e-6)).all(), name
        before = contrast(first[name])
        assert (before < low).any() or (before > high).any(), name
    # The norm limit has the last word.
    norms = np.linalg.norm(np.float64(state["both.weight"].reshape(6, -1)), axis=1)
    assert (norms <= 0.8 * (1 + 1e-6)).all() and (norms > 0.8 * (1 - 1e-6)).all()
    assert (
        np.linalg.norm(np.float64(state["two.weight.1"].reshape(6, -1)), axis=1) <= 0.7 * (1 + 1e-6)
    ).all()
    assert state["frozen.weight"].tobytes() == first["frozen.weight"].tobytes()
    wanted = train(Network(LIMITED, batch=4, devices="reference:0"), path)
    for name, value in wanted.items():
        scale = float(np.abs(value).max()) or 1.0
        np.testing.assert_allclose(state[name], value, rtol=1e-3, atol=1e-4 * scale, err_msg=name)


def test_limits_survive_json() -> None:
    again = spec_from_dict(json.loads(json.dumps(spec_to_dict(LIMITED))))
    assert again == LIMITED
    assert again.layers[1].contrast_limits == (2.0, 4.0)  # type: ignore[attr-defined]
    assert again.layers[2].per_input[0] == {"contrast_limits": (1.0, 1.1)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("per_input", [False, True])
@pytest.mark.parametrize(
    "limits",
    [(1.0,), (1.0, 2.0, 3.0), 2.0, (2.0, 1.0), (-1.0, 1.0), (0.0, 0.0), (0.0, np.inf), (np.nan, 1.0)],
)
def test_wrong_limits_are_refused(limits: Any, per_input: bool) -> None:
    given: Any = {"contrast_limits": limits}
    with pytest.raises(ValueError, match="layer c: contrast_limits"):
        conv("c", inputs=("data",), per_input=(given,)) if per_input else conv("c", **given)


@pytest.mark.parametrize("per_input", [False, True])
@pytest.mark.parametrize("kind", [FcSpec, LocalSpec])
def test_contrast_limits_are_a_convolutions(kind: Any, per_input: bool) -> None:
    values: Any = {"outputs": 3} if kind is FcSpec else {"filters": 2, "window": 3}
    given: Any = {"contrast_limits": (0.0, 1.0)}
    kept = {"inputs": ("data",), "per_input": (given,)} if per_input else given
    with pytest.raises(ValueError, match="layer x: contrast_limits are for convolutions, not for a"):
        kind(name="x", **values, **kept)


def test_a_norm_over_several_devices_is_refused() -> None:
    spec = net_of(
        conv("c", split=True),
        conv("d", split=True, contrast_limits=(0.0, 1.0)),
        PoolSpec(name="p", split=True),
    )
    layers = tuple(
        dataclasses.replace(layer, split=True) if layer.name == "last" else layer for layer in spec.layers
    )
    spec = dataclasses.replace(spec, layers=layers)
    with pytest.raises(ValueError, match="contrast_limits cannot be kept where an input is split"):
        Network(spec, batch=4, devices=["cpu:0", "cpu:1"])


def test_a_norm_over_towers_is_refused() -> None:
    spec = net_of(
        conv("c", split=True), conv("d", contrast_limits=(0.0, 1.0)), SumSpec(name="s", inputs=("d", "d"))
    )
    with pytest.raises(ValueError, match="layer d: contrast_limits holds for all weights of an output"):
        towers(spec, 2)


def test_the_summary_names_contrast_limits() -> None:
    assert spec_values(LIMITED.layers[1])["contrast_limits"] == "2, 4"
