"""The graph of a network: what makes no sense is refused; first weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from helpers.small_networks import BRANCHES, conv, net_of

from cconvnet.devices import Device
from cconvnet.nets import (
    FcSpec,
    LayerSpec,
    NetSpec,
    SoftmaxCostSpec,
    SumSpec,
)
from cconvnet.network import Network


def dense(*layers: LayerSpec) -> NetSpec:
    return dataclasses.replace(BRANCHES, layers=layers)


COST = SoftmaxCostSpec(name="cost", inputs=("fc",))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([FcSpec(name="fc", outputs=4), COST], "layer fc: inputs must not be empty"),
        ([FcSpec(name="fc", outputs=4, inputs=("dato",)), COST], "layer fc: an input.*did you mean 'data'"),
        (
            [
                FcSpec(name="fc", outputs=4, inputs=("data",)),
                SoftmaxCostSpec(name="cost", inputs=("fc", "data")),
            ],
            "layer cost: inputs must be one layer, not 2",
        ),
        (
            [
                conv("c", inputs=("data",)),
                conv("d", inputs=("c", "data"), per_input=({}, {"stride": 2})),
                COST,
            ],
            r"layer d: inputs must give outputs of one shape, not \[7, 6, 4\] from c, \[4, 3, 4\] from data",
        ),
        ([FcSpec(name="fc", outputs=5, inputs=("data",)), COST], "each of the 4 classes, not 5"),
        ([], "exactly one cost of a network must not be train_only, test has 0$"),
        (
            [FcSpec(name="fc", outputs=4, inputs=("data",)), dataclasses.replace(COST, train_only=True)],
            "exactly one cost of a network must not be train_only, test has 0$",
        ),
        (
            [FcSpec(name="fc", outputs=4, inputs=("data",)), COST, dataclasses.replace(COST, name="other")],
            "exactly one cost of a network must not be train_only, test has 2: cost, other",
        ),
        (
            [
                FcSpec(name="fc", outputs=4, inputs=("data",)),
                FcSpec(name="aux", outputs=3, inputs=("fc",)),
                SoftmaxCostSpec(name="head", inputs=("aux",), train_only=True),
                COST,
            ],
            "layer head: its input must have one value for each of the 4 classes, not 3",
        ),
        (
            [FcSpec(name="fc", outputs=4, inputs=("data",)), FcSpec(name="x", outputs=1, inputs=("data",))],
            "layer fc: no layer reads it",
        ),
        (
            [
                FcSpec(name="fc", outputs=4, inputs=("data",)),
                FcSpec(name="x", outputs=1, inputs=("fc",)),
                COST,
            ],
            "layer x: no layer reads it",
        ),
        (
            [
                FcSpec(name="fc", outputs=4, inputs=("data",)),
                FcSpec(name="fc", outputs=4, inputs=("fc",)),
                COST,
            ],
            "layer fc: two layers have this name",
        ),
        (
            [FcSpec(name="a", outputs=3, inputs=("data",)), SumSpec(name="fc", inputs=("a", "data")), COST],
            "layer fc: inputs must have one shape",
        ),
        (
            [conv("c", 4, groups=3, inputs=("data",)), FcSpec(name="fc", outputs=4, inputs=("c",)), COST],
            r"layer c: groups \(3\) must divide c \(2\)",
        ),
    ],
)
def test_a_graph_that_makes_no_sense_is_refused(layers: list[LayerSpec], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network(dense(*layers), batch=2, devices="cpu:0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"seed": -1}, "seed must be"),
        ({"precision": "fp8"}, "precision must be one of fp32, fp32x3, tf32, bf16, not 'fp8'"),
        ({"devices": []}, "devices must not be empty"),
        ({"towers": 0}, "towers must be at least as many as the 1 devices, not 0"),
        ({"devices": "gpu:0"}, "device must be"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network(BRANCHES, **{"batch": 2, "devices": "cpu:0", **arguments})


def test_first_weights_depend_on_name_and_seed_alone(device: Device) -> None:
    alone = Network(net_of(conv("b")), batch=2, devices="cpu:0").state()
    between = net_of(conv("a"), conv("c", 2), conv("b", inputs=("data",), device=0))
    # Nothing reads a and c but their likes: join them, so that the graph is whole.
    layers = [*between.layers[:3], SumSpec(name="ab", inputs=("a", "b")), *between.layers[3:]]
    layers = [
        dataclasses.replace(layer, inputs=("ab",)) if layer.name == "last" else layer
        for layer in layers
        if layer.name != "c"
    ]
    joined = Network(dataclasses.replace(between, layers=tuple(layers)), batch=3, devices=device).state()
    assert alone["b.weight"].tobytes() == joined["b.weight"].tobytes()
    assert alone["b.weight"].tobytes() != joined["a.weight"].tobytes()
    other = Network(net_of(conv("b")), batch=2, devices="cpu:0", seed=1).state()
    assert alone["b.weight"].tobytes() != other["b.weight"].tobytes()
