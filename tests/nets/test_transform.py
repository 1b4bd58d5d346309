"""Networks made from others, and shapes worked out without running a network."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import cconvnet as cc
from cconvnet import nets
from cconvnet.nets import (
    RELU,
    ContrastNormSpec,
    ConvSpec,
    DropoutSpec,
    FcSpec,
    Init,
    InputSpec,
    LayerSpec,
    LocalSpec,
    LrnSpec,
    LrStep,
    MaxSpec,
    NetSpec,
    NeuronSpec,
    PoolSpec,
    SoftmaxCostSpec,
    SumSpec,
    TrainRecipe,
    alexnet,
    chain,
    gaussian,
)
from cconvnet.nets.shapes import output_shape, parameters, shapes
from cconvnet.nets.transform import scaled, towers
from cconvnet.network import Network
from cconvnet.network.gradcheck import small_spec


def small(*layers: LayerSpec, **changes: Any) -> NetSpec:
    """A network of 9x9 images with these layers, an FC layer unless the last is one, and the cost."""
    last = () if layers and isinstance(layers[-1], FcSpec) else (FcSpec(name="last", outputs=3),)
    values = {
        "name": "small",
        "layers": chain(*layers, *last, SoftmaxCostSpec(name="cost")),
        "input": InputSpec(9, 9, 4),
        "stored": (9, 9),
        "classes": 3,
        "recipe": TrainRecipe(batch=2, epochs=1, lr=0.01),
    }
    return NetSpec(**{**values, **changes})


def layer(spec: NetSpec, name: str) -> Any:
    return next(layer for layer in spec.layers if layer.name == name)


# ---- shapes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nets.NAMES)
def test_shapes_and_parameters_are_those_of_the_network_that_runs(name: str) -> None:
    spec = small_spec(name)
    described = Network(spec, batch=1, devices="cpu:0").describe()
    found, learned = shapes(spec), parameters(spec)
    for row in described["layers"]:
        assert math.prod(found[row["name"]]) == math.prod(row["output_shape"][1:])
        assert learned.get(row["name"], 0) == row["parameters"]


def test_parameters_of_alexnet() -> None:
    assert sum(parameters(nets.build("alexnet")).values()) == 60_965_224


def test_parameters_of_layers_without_shared_weights_or_biases() -> None:
    spec = small(
        ConvSpec(name="c", filters=6, window=3, groups=2, shared_bias=False),
        LocalSpec(name="l", filters=2, window=3, stride=2),
        FcSpec(name="last", outputs=3, bias=None),
    )
    assert shapes(spec)["c"] == (7, 7, 6) and shapes(spec)["l"] == (3, 3, 2)
    assert parameters(spec) == {
        "c": 6 * 3 * 3 * 2 + 7 * 7 * 6,
        "l": 3 * 3 * (2 * 3 * 3 * 6 + 2),
        "last": 3 * 3 * 3 * 2,
    }


def test_shapes_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="layer c: its window is larger than the padded image"):
        shapes(small(ConvSpec(name="c", filters=1, window=10)))
    with pytest.raises(ValueError, match="layer s: its inputs must give one shape, not 7x7x1, 9x9x4"):
        shapes(
            small(
                ConvSpec(name="c", filters=1, window=3),
                SumSpec(name="s", inputs=("c", "data")),
            )
        )
    with pytest.raises(ValueError, match="layer p: no layer before it is called 'q'"):
        shapes(small(PoolSpec(name="p", inputs=("q",))))


def test_pooling_that_begins_inside_the_image() -> None:
    pool = PoolSpec(name="p", window=3, stride=2, padding=-1, rounding="ceil")
    assert output_shape(pool, [(9, 9, 1)]) == (3, 3, 1)
    assert output_shape(dataclasses.replace(pool, outputs=4), [(9, 9, 1)]) == (4, 4, 1)


# ---- towers --------------------------------------------------------------------------------------------

SPLIT: dict[str, Any] = {"split": True}
SPLIT_CONV = ConvSpec(name="c", filters=4, window=3, **SPLIT)


def test_towers_of_all_layers() -> None:
    spec = small(
        ConvSpec(name="one", filters=8, window=3, neuron=RELU, init=gaussian(0.1), **SPLIT),
        LrnSpec(name="norm", groups=4, **SPLIT),
        PoolSpec(name="pool", **SPLIT),
        LocalSpec(name="own", filters=8, window=1, groups=4, **SPLIT),
        ConvSpec(name="all", filters=4, window=1, **SPLIT),
        DropoutSpec(name="drop", **SPLIT),
        ContrastNormSpec(name="contrast", **SPLIT),
        LrnSpec(name="same", region="same_map", **SPLIT),
        NeuronSpec(name="neuron", **SPLIT),
        SumSpec(name="sum", inputs=("neuron", "same"), **SPLIT),
        MaxSpec(name="max", inputs=("sum", "drop"), **SPLIT),
        FcSpec(name="hidden", outputs=6, init=gaussian(0.2), **SPLIT),
        FcSpec(name="last", outputs=3, init=gaussian(0.3)),
        recipe=TrainRecipe(batch=2, epochs=1, lr=0.01, steps=(LrStep(1, 0.1, ("one", "last")), LrStep(2, 0))),
    )
    got = towers(spec, 2)
    assert [layer.name for layer in got.layers] == [
        *[f"{layer.name}{tower}" for layer in spec.layers[:-2] for tower in "ab"],
        "last",
        "cost",
    ]
    assert not any(layer.split for layer in got.layers)
    assert {layer.name[-1]: layer.device for layer in got.layers[:-2]} == {"a": 0, "b": 1}
    first = layer(got, "oneb")
    assert first == ConvSpec(
        name="oneb", inputs=("data",), filters=4, window=3, neuron=RELU, init=gaussian(0.1), device=1
    )
    assert (layer(got, "normb").inputs, layer(got, "normb").groups) == (("oneb",), 2)
    own = layer(got, "owna")
    assert (own.inputs, own.filters, own.groups) == (("poola",), 4, 2)
    both = layer(got, "alla")
    assert (both.inputs, both.filters, both.per_input) == (("owna", "ownb"), 2, ())
    assert layer(got, "sumb").inputs == ("neuronb", "sameb")
    hidden, last = layer(got, "hiddenb"), layer(got, "last")
    assert (hidden.inputs, hidden.outputs) == (("maxa", "maxb"), 3)
    assert (last.inputs, last.outputs, last.device) == (("hiddena", "hiddenb"), 3, None)
    assert got.recipe.steps == (LrStep(1, 0.1, ("onea", "oneb", "last")), LrStep(2, 0))
    assert sum(parameters(got).values()) == sum(parameters(spec).values())


def test_a_single_tower_is_the_whole_network() -> None:
    spec = nets.build("alexnet")
    one = towers(spec, 1)
    assert not any(layer.split for layer in one.layers)
    assert [layer.name for layer in one.layers] == [layer.name for layer in spec.layers]
    assert shapes(one) == shapes(spec)


def test_networks_without_split_layers_have_no_towers() -> None:
    spec = nets.build("cifar-quick")
    assert towers(spec, 2) is spec


def test_weights_are_drawn_as_for_the_whole() -> None:
    """An FC layer that reads two towers has two matrices, and half the fan-in for each."""
    spec = small(ConvSpec(name="c", filters=4, window=3, **SPLIT), FcSpec(name="last", outputs=3))
    last = layer(towers(spec, 2), "last")
    assert last.per_input == ()
    assert last.init == gaussian(math.sqrt(2 / (7 * 7 * 4)))
    # Towers that read whole images have as many weights for each output as before.
    assert layer(towers(spec, 2), "ca").init == Init("he")


def test_inputs_keep_their_own_values() -> None:
    spec = small(
        ConvSpec(name="a", filters=4, window=3, padding=1, **SPLIT),
        ConvSpec(
            name="c",
            inputs=("data", "a"),
            filters=4,
            window=3,
            padding=1,
            init=gaussian(0.1),
            per_input=({"lr_scale": 0.5}, {"init": gaussian(0.2), "window": (1, 1), "padding": (0, 0)}),
            **SPLIT,
        ),
        FcSpec(name="last", outputs=3, init=gaussian(0.1)),
    )
    c = layer(towers(spec, 2), "cb")
    own = {"init": gaussian(0.2), "window": (1, 1), "padding": (0, 0)}
    assert c.inputs == ("data", "aa", "ab")
    assert c.per_input == ({"lr_scale": 0.5}, own, own)
    groups = dataclasses.replace(layer(spec, "c"), inputs=("a", "a"), groups=2)
    c = layer(towers(dataclasses.replace(spec, layers=(spec.layers[0], groups, *spec.layers[2:])), 2), "cb")
    assert (c.inputs, c.groups, c.filters) == (("ab", "ab"), 1, 2)
    assert [c.for_input(index).groups for index in range(2)] == [1, 1]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([ConvSpec(name="c", filters=3, window=3, **SPLIT)], "layer c: its 3 channels cannot be shared by"),
        ([ConvSpec(name="c", filters=4, window=3, groups=2, **SPLIT)], "layer c: is split, so its inputs"),
        (
            [
                ConvSpec(name="a", filters=6, window=3, **SPLIT),
                ConvSpec(name="c", filters=6, window=3, groups=3, **SPLIT),
            ],
            "layer c: its groups must be 1 or a multiple of 2",
        ),
        ([PoolSpec(name="p", **SPLIT)], "layer p: is split, so its inputs must be"),
        ([SPLIT_CONV, PoolSpec(name="p")], "layer p: reads layers that"),
        (
            [SPLIT_CONV, ConvSpec(name="d", filters=4, window=1, groups=2)],
            "layer d: has groups and reads towers",
        ),
        (
            [SPLIT_CONV, LrnSpec(name="n", **SPLIT)],
            "layer n: its groups must be a multiple of 2, or windows would reach into another tower, not 1",
        ),
        (
            [SPLIT_CONV, FcSpec(name="last", outputs=3, norm_limit=1.0)],
            "layer last: norm_limit holds for all weights of an output",
        ),
        (
            [SPLIT_CONV, ConvSpec(name="ca", filters=4, window=3)],
            "layer ca: a tower of another layer would have the same name",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_split(layers: list[LayerSpec], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        towers(small(*layers), 2)


def test_a_cost_cannot_be_split() -> None:
    spec = small()
    cost = dataclasses.replace(spec.layers[-1], split=True)
    fc = dataclasses.replace(layer(spec, "last"), outputs=4, split=True)
    with pytest.raises(ValueError, match="layer cost: a softmax_cost cannot be split"):
        towers(dataclasses.replace(spec, layers=(fc, cost)), 2)
    for count in (0, 27):
        with pytest.raises(ValueError, match=f"count must be from 1 to 26, not {count}"):
            towers(spec, count)


@pytest.mark.parametrize("name", ["alexnet", "alexnet-2012"])
def test_towers_compute_what_the_whole_computes(name: str) -> None:
    """With the same weights, cut into each tower's part, the probabilities are the same."""
    spec = scaled(nets.build(name), 1 / 16, (76, 76), 10)
    whole = Network(spec, batch=2, devices="cpu:0")
    apart = Network(towers(spec, 2), batch=2, devices=["cpu:0", "cpu:1"])
    drawn = np.random.default_rng(0)
    for parameter in whole.parameters.values():
        shape = parameter.shape
        scale = 1.0 if len(shape) == 1 else math.sqrt(2 / math.prod(shape[1:]))
        parameter.fill("value", scale * drawn.standard_normal(shape, np.float32))
    for name, parameter in apart.parameters.items():
        layer_name, kind, *index = name.split(".")
        split = f"{layer_name[:-1]}.{kind}" in whole.parameters
        value = whole.parameters[f"{layer_name[:-1] if split else layer_name}.{kind}"].host("value")
        if split:
            value = np.split(value, 2)[layer_name[-1] == "b"]  # the tower's outputs
        if index:  # what it reads of each tower: the last axis, which in FC runs over (H, W, C)
            source = shapes(spec)[layer(spec, layer_name.rstrip("ab") if split else layer_name).inputs[0]]
            channels = value.reshape(len(value), -1, source[2])
            value = np.split(channels, 2, axis=2)[int(index[0])]
        parameter.fill("value", value.reshape(parameter.shape))
    images = drawn.integers(0, 256, (2, 76, 76, 3), np.uint8)
    for network in (whole, apart):
        network.load(images, np.array([3, 7]))
        network.forward(train=False)
    one, two = (network.outputs("cost") for network in (whole, apart))
    assert one.std() > 1e-3  # they say something
    assert np.allclose(one, two, rtol=1e-4, atol=1e-7)


# ---- another size --------------------------------------------------------------------------------------


def test_the_same_network_scaled_by_nothing() -> None:
    for name in nets.NAMES:
        assert scaled(nets.build(name)) == nets.build(name)


def test_alexnet_scaled() -> None:
    spec = scaled(nets.build("alexnet"), 1 / 8, (76, 76), 10)
    assert spec.input == InputSpec(66, 66, 3) and spec.stored == (76, 76) and spec.classes == 10
    counts = {
        layer.name: getattr(layer, "filters", 0) or getattr(layer, "outputs", 0) for layer in spec.layers
    }
    assert [counts[f"conv{i}"] for i in range(1, 6)] == [12, 32, 48, 48, 32]
    assert [counts[f"fc{i}"] for i in (6, 7, 8)] == [512, 512, 10]
    assert spec == alexnet.build(image_shape=(76, 76, 3), classes=10, width=1 / 8)


def test_groups_stay_equal_and_nothing_vanishes() -> None:
    spec = small(
        ConvSpec(name="a", filters=12, window=3),
        LrnSpec(name="n", groups=3),
        ConvSpec(name="c", filters=12, window=3, groups=2),
    )
    for width, count in ((0.001, 6), (0.5, 6), (0.7, 6), (1.3, 18), (1.0, 12)):
        got = scaled(spec, width)
        assert [layer(got, name).filters for name in "ac"] == [count, count]
        assert layer(got, "last").outputs == 3


def test_depthwise_layers_keep_a_filter_for_each_channel() -> None:
    x = cc.image(8, 8, 3)
    x = cc.concat(x.conv(3, 3, groups=3), x.conv(4, 3), x.conv(5, 3)).conv(12, 3, groups=12)
    net = x.conv(4, 3).mean().conv(4, 1, groups=4).softmax()
    for width, (filters, joined) in {0.1: (1, 5), 0.5: (2, 7), 1.5: (8, 17)}.items():
        got = scaled(net, width, classes=9)
        convolutions = [layer for layer in got.layers if isinstance(layer, ConvSpec)]
        assert [own.groups for own in convolutions] == [3, 1, 1, joined, 1, 9]
        assert [own.filters for own in convolutions][2:] == [filters, joined, 9, 9]
        Network(got, batch=1, devices="cpu:0")


def test_the_classes_are_those_of_the_last_layers_with_weights() -> None:
    spec = small(
        FcSpec(name="one", inputs=("data",), outputs=3),
        FcSpec(name="two", inputs=("data",), outputs=3),
        SumSpec(name="sum", inputs=("one", "two")),
        NeuronSpec(name="neuron"),
    )
    spec = dataclasses.replace(
        spec, layers=(*spec.layers[:4], SoftmaxCostSpec(name="cost", inputs=("neuron",)))
    )
    got = scaled(spec, 2.0, classes=5)
    assert (layer(got, "one").outputs, layer(got, "two").outputs, got.classes) == (5, 5, 5)


def test_layers_before_costs_keep_their_targets_and_have_the_classes() -> None:
    x = cc.image(8, 8, 3).conv(8, 3).relu()
    net = x.fc(4, name="box").l2(heads=[x.fc(6, name="aux").head(), x.fc(4, name="other").l2_head()])
    got = scaled(net, 0.5, classes=9)
    assert {name: shape[2] for name, shape in shapes(got).items()} == {
        **{"data": 3, "conv1": 4, "box": 4, "cost": 4, "aux": 9, "cost1": 9, "other": 4, "l2_cost1": 4}
    }
    assert (net.classes, got.classes) == (6, 9)
    Network(got, batch=1, devices="cpu:0")


def test_scaled_refuses_what_makes_no_sense() -> None:
    for width, text in (
        (0, "above 0"),
        (-1, "above 0"),
        (math.nan, "above 0"),
        (math.inf, "a finite number"),
    ):
        with pytest.raises(ValueError, match=f"width must be {text}, not {width}"):
            scaled(nets.build("lenet"), width)
    with pytest.raises(ValueError, match="image must leave something to crop, not 1x1"):
        scaled(nets.build("alexnet"), 1, (1, 1))
