"""Layers that move or mix channels and pixels without weights: concat, select, blur, nailbed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cconvnet import bfloat16
from cconvnet.devices import Device
from cconvnet.nets import (
    RELU,
    BlurSpec,
    ConcatSpec,
    ConvSpec,
    FcSpec,
    InputSpec,
    LayerSpec,
    NetSpec,
    PoolSpec,
    SelectSpec,
    SoftmaxCostSpec,
    TrainRecipe,
    chain,
    compare,
    place,
    spec_from_dict,
    spec_to_dict,
)
from cconvnet.network import Network
from cconvnet.network.gradcheck import gradcheck

CONV: dict[str, Any] = {"window": (3, 3), "padding": (1, 1), "neuron": RELU}


def net_of(*layers: LayerSpec) -> NetSpec:
    ends = (FcSpec(name="last", outputs=4), SoftmaxCostSpec(name="cost"))
    recipe = TrainRecipe(batch=4, epochs=1, lr=0.1)
    return NetSpec("moved", chain(*layers, *ends), InputSpec(9, 8, 3, scale=1 / 64), (9, 8), 4, recipe)


ALL = net_of(
    ConvSpec(name="trunk", filters=4, **CONV),
    BlurSpec(name="blurred", stdev=1.5, size=5),
    PoolSpec(name="nails", pool="avg", window=(1, 1), stride=(3, 2), padding=(-1, 0), outputs=(3, 4)),
    ConvSpec(name="left", filters=3, **CONV),
    SelectSpec(name="dealt", inputs=("nails",), channels=(2, 0, 3, 3, 1, 2)),
    ConcatSpec(name="both", inputs=("dealt", "left", "nails")),
    FcSpec(name="one", outputs=5, neuron=RELU),
    FcSpec(name="two", inputs=("both",), outputs=2),
    ConcatSpec(name="flat", inputs=("one", "two", "one")),
)


def batch(n: int, seed: int = 0) -> dict[str, Any]:
    draws = np.random.default_rng(seed)
    return {"images": draws.integers(0, 256, (n, 9, 8, 3), np.uint8), "labels": draws.integers(0, 4, n)}


def outputs(network: Network) -> dict[str, np.ndarray[Any, Any]]:
    """Return the output of each layer, in float64."""
    found = {}
    for layer in network.layers:
        values = layer.device.host(layer.activation(layer.name))
        found[layer.name] = (bfloat16.unpack(values) if values.dtype == np.uint16 else values).astype(float)
    return found


def test_each_layer_is_its_formula(device: Device, precision: str) -> None:
    network = Network(ALL, batch=2, devices=device, seed=3, precision=precision, fuse=False)
    network.load(**batch(2))
    network.forward(train=False)
    got = outputs(network)
    line = np.exp(-((np.arange(5) - 2.0) ** 2) / (2 * 1.5**2))
    line /= line.sum()
    padded = np.pad(got["trunk"], ((0, 0), (2, 2), (2, 2), (0, 0)))
    rows = sum(weight * padded[:, i : i + 9] for i, weight in enumerate(line))
    blurred = sum(weight * rows[:, :, i : i + 8] for i, weight in enumerate(line))
    bound = {"fp32": 1e-6, "fp32x3": 1e-6, "tf32": 2e-3, "bf16": 2e-2}[precision]
    assert np.abs(got["blurred"] - blurred).max() <= bound * np.abs(blurred).max()
    # What only moves is the same to the bit; a tensor core rounds what it multiplies by 1.
    assert (got["nails"] == got["blurred"][:, 1::3, ::2]).all()
    dealt = got["nails"][..., [2, 0, 3, 3, 1, 2]]
    rounding = {"fp32x3": 2.0**-22, "tf32": 2.0**-10}.get(precision, 0.0)
    assert np.abs(got["dealt"] - dealt).max() <= rounding * np.abs(dealt).max()
    assert (got["both"] == np.concatenate([got["dealt"], got["left"], got["nails"]], 3)).all()
    assert (got["flat"] == np.concatenate([got["one"], got["two"], got["one"]], 1)).all()
    assert np.abs(got["trunk"]).max() > 0 and np.abs(got["flat"]).max() > 0


@pytest.mark.parametrize("devices", [["cpu:0"], ["emulator:0"], ["cpu:0", "cpu:1"]])
def test_gradients(devices: list[str]) -> None:
    report = gradcheck(place(ALL, {"left": 1, "two": 1}) if len(devices) > 1 else ALL, devices)
    assert report.ok, report.failures


def test_what_only_moves_trains_as_if_it_were_not_there(device: Device) -> None:
    """A concat of the parts of a select is the tensor itself."""
    plain = net_of(ConvSpec(name="trunk", filters=4, **CONV))
    apart = net_of(
        ConvSpec(name="trunk", filters=4, **CONV),
        SelectSpec(name="some", inputs=("trunk",), channels=(0, 1)),
        SelectSpec(name="rest", inputs=("trunk",), channels=(2, 3)),
        ConcatSpec(name="whole", inputs=("some", "rest")),
    )
    states = []
    for spec in (plain, apart):
        network = Network(spec, batch=4, devices=device, seed=1)
        for step in range(4):
            network.load(**batch(4, step))
            network.train_step(step, 0.05, 0.9)
        states.append(network.state())
    for name, tensor in states[0].items():
        assert tensor.tobytes() == states[1][name].tobytes(), name


def test_what_does_not_fit_is_refused() -> None:
    for layer, text in (
        (ConcatSpec(name="x", inputs=("trunk",)), "inputs must be at least two, not 1"),
        (ConcatSpec(name="x", inputs=("trunk", "data", "small")), "inputs must have one height and width"),
        (SelectSpec(name="x", inputs=("trunk",), channels=(0, 4)), "channels must be below 4, as many as"),
        (BlurSpec(name="x", inputs=("trunk",), stdev=1, size=9), "size must be at most the image's side, 8"),
    ):
        small = PoolSpec(name="small", inputs=("trunk",))
        with pytest.raises(ValueError, match=text):
            Network(net_of(ConvSpec(name="trunk", filters=4, **CONV), small, layer), batch=1, devices="cpu:0")
    for make, text in (
        (lambda: SelectSpec(name="x", channels=()), "layer x: channels must not be empty"),
        (lambda: SelectSpec(name="x", channels=(-1,)), "layer x: channels must be at least 0, not -1"),
        (lambda: BlurSpec(name="x", stdev=1, size=4), "layer x: size must be odd, not 4"),
        (lambda: BlurSpec(name="x", stdev=0, size=3), "layer x: stdev must be above 0, not 0"),
        (lambda: BlurSpec(name="x", stdev=float("nan"), size=3), "stdev must be a finite number"),
    ):
        with pytest.raises(ValueError, match=text):
            make()


def test_specs_go_to_json_and_back_and_are_compared() -> None:
    assert spec_from_dict(spec_to_dict(ALL)) == ALL
    assert compare(ALL, ALL) == []
