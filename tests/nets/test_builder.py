"""The builder: values with shapes, names, activation functions as parts of products, and errors."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cconvnet as cc
from cconvnet import nets
from cconvnet.nets import (
    LAYER_TYPES,
    RELU,
    BatchNormSpec,
    BlurSpec,
    ConcatSpec,
    ContrastNormSpec,
    ConvSpec,
    DeconvSpec,
    DropoutSpec,
    FcSpec,
    Init,
    InputSpec,
    L2CostSpec,
    LayerSpec,
    LocalSpec,
    LrnSpec,
    MaxSpec,
    NetSpec,
    Neuron,
    NeuronSpec,
    PoolSpec,
    RateCurve,
    RbfSpec,
    SelectSpec,
    SoftmaxCostSpec,
    SumSpec,
    TrainRecipe,
    UnpoolSpec,
    Value,
    WeightedSpec,
    chain,
    gaussian,
    spec_from_dict,
    spec_to_dict,
)
from cconvnet.nets.arguments import Place, Weights
from cconvnet.nets.transform import without_heads
from cconvnet.network import Network


def names(net: NetSpec) -> list[str]:
    return [layer.name for layer in net.layers]


def layer(net: NetSpec, name: str) -> Any:
    (found,) = (layer for layer in net.layers if layer.name == name)
    return found


# ---- what it makes ---------------------------------------------------------------------------------------


def test_a_chain_is_what_one_would_write_by_hand() -> None:
    net = cc.image(32, 32, 3).conv(32, 5, pad=2).relu().maxpool(3, 2).fc(64).relu().fc(10).softmax("mine")
    assert net == NetSpec(
        "mine",
        chain(
            ConvSpec(name="conv1", filters=32, window=(5, 5), padding=(2, 2), neuron=RELU),
            PoolSpec(name="pool1", window=(3, 3), stride=(2, 2)),
            FcSpec(name="fc1", outputs=64, neuron=RELU),
            FcSpec(name="fc2", outputs=10),
            SoftmaxCostSpec(name="cost"),
        ),
        InputSpec(32, 32, 3, scale=1 / 255),
        (32, 32),
        10,
        TrainRecipe(batch=64, epochs=10, lr=0.02),
    )


CURVE = RateCurve("exp", 10)
RATES: dict[str, Any] = {
    **{"bias": 0.1, "lr_scale": 0.2, "bias_lr_scale": 0.3, "lr_curve": CURVE, "bias_lr_curve": CURVE},
    **{"weight_decay": 0.4, "bias_weight_decay": 0.5, "momentum": 0.6, "bias_momentum": 0.7, "norm_limit": 8},
}
PLACE: dict[str, Any] = {"name": "it", "device": 1, "split": True}
FILTERS: dict[str, Any] = {"groups": 2, "rounding": "ceil"}
# A transposed convolution has neither a limit of norms nor parts on several devices.
DECONV = {key: value for key, value in {**RATES, **PLACE}.items() if key not in ("norm_limit", "split")}
IMAGE = cc.image(9, 8, 4)
# For each type of layer the call that sets every field to a value that is not the default, and the spec.
EVERYTHING: list[tuple[Callable[[Value], Value], LayerSpec]] = [
    (
        lambda x: x.conv(
            6,
            (3, 2),
            (2, 1),
            ((1, 0), 2),
            shared_bias=False,
            dilation=(1, 2),
            neuron="tanh",
            init=0.5,
            contrast_limits=(1, 2),
            also=x,
            per_input=({}, {"init": gaussian(2)}),
            **FILTERS,
            **RATES,
            **PLACE,
        ),
        ConvSpec(
            inputs=("data", "data"),
            filters=6,
            window=(3, 2),
            stride=(2, 1),
            padding=((1, 0), 2),
            shared_bias=False,
            dilation=(1, 2),
            neuron=Neuron("tanh", 1, 1),
            init=gaussian(0.5),
            contrast_limits=(1, 2),
            per_input=({}, {"init": gaussian(2)}),
            **FILTERS,
            **RATES,
            **PLACE,
        ),
    ),
    (
        lambda x: x.deconv(6, 3, 2, 1, size=(18, 16), groups=2, init=0.5, neuron="relu", **DECONV),
        DeconvSpec(
            filters=6,
            window=(3, 3),
            stride=(2, 2),
            padding=(1, 1),
            outputs=(18, 16),
            groups=2,
            init=gaussian(0.5),
            neuron=RELU,
            **DECONV,
        ),
    ),
    (
        lambda x: x.local(6, 3, 2, 1, neuron=Neuron("brelu", 6), **FILTERS, **RATES, **PLACE),
        LocalSpec(
            filters=6,
            window=(3, 3),
            stride=(2, 2),
            padding=(1, 1),
            neuron=Neuron("brelu", 6),
            **FILTERS,
            **RATES,
            **PLACE,
        ),
    ),
    (
        lambda x: x.fc(6, neuron=RELU, init=Init("he"), **{**RATES, "bias": None}, **PLACE),
        FcSpec(outputs=6, neuron=RELU, **{**RATES, "bias": None}, **PLACE),
    ),
    (lambda x: x.tanh(1.7, 0.6, **PLACE), NeuronSpec(neuron=Neuron("tanh", 1.7, 0.6), **PLACE)),
    (
        lambda x: x.avgpool(
            4, (1, 2), ((1, 0), 2), rounding="ceil", outputs=(5, 4), count_padding=True, **PLACE
        ),
        PoolSpec(
            pool="avg",
            window=(4, 4),
            stride=(1, 2),
            padding=((1, 0), 2),
            rounding="ceil",
            outputs=(5, 4),
            count_padding=True,
            **PLACE,
        ),
    ),
    (
        lambda x: (
            pool := x.maxpool(4, (1, 2), ((1, 0), 2), rounding="ceil", outputs=(5, 4), name="pool")
        ).unpool(pool, **PLACE),
        UnpoolSpec(
            inputs=("pool", "data"),
            window=(4, 4),
            stride=(1, 2),
            padding=((1, 0), 2),
            rounding="ceil",
            outputs=(5, 4),
            **PLACE,
        ),
    ),
    (
        lambda x: x.lrn(3, 0.1, 0.5, 2.0, groups=2, region="same_map", **PLACE),
        LrnSpec(size=3, alpha=0.1, beta=0.5, k=2.0, groups=2, region="same_map", **PLACE),
    ),
    (
        lambda x: x.contrast_norm(3, 0.1, 0.5, 2.0, **PLACE),
        ContrastNormSpec(size=3, alpha=0.1, beta=0.5, k=2.0, **PLACE),
    ),
    (
        lambda x: x.bn(
            1e-3,
            0.2,
            0.5,
            lr_scale=2,
            bias_lr_scale=3,
            weight_decay=0.1,
            bias_weight_decay=0.2,
            **PLACE,
        ),
        BatchNormSpec(
            eps=1e-3,
            momentum=0.2,
            gamma=0.5,
            lr_scale=2,
            bias_lr_scale=3,
            weight_decay=0.1,
            bias_weight_decay=0.2,
            **PLACE,
        ),
    ),
    (
        lambda x: x.dropout(0.25, inverted=True, enabled=False, **PLACE),
        DropoutSpec(keep=0.75, inverted=True, enabled=False, **PLACE),
    ),
    (
        lambda x: cc.add(x, x, coeffs=(1, -1), **PLACE),
        SumSpec(inputs=("data", "data"), coeffs=(1, -1), **PLACE),
    ),
    (lambda x: cc.maximum(x, x, **PLACE), MaxSpec(inputs=("data", "data"), **PLACE)),
    (lambda x: cc.concat(x, x, **PLACE), ConcatSpec(inputs=("data", "data"), **PLACE)),
    (lambda x: x.select([3, None, 0], **PLACE), SelectSpec(channels=(3, None, 0), **PLACE)),
    (lambda x: x.blur(3, 1.5, **PLACE), BlurSpec(size=3, stdev=1.5, **PLACE)),
    (lambda x: x.rbf(["+-" * 144, "-+" * 144], **PLACE), RbfSpec(codes=("+-" * 144, "-+" * 144), **PLACE)),
]


@pytest.mark.parametrize(("call", "spec"), EVERYTHING, ids=lambda one: getattr(one, "type", ""))
def test_all_that_a_spec_can_say_can_be_said(call: Callable[[Value], Value], spec: LayerSpec) -> None:
    net = call(IMAGE).fc(2, name="last").softmax()
    expected = spec if spec.inputs else dataclasses.replace(spec, inputs=("data",))
    assert layer(net, "it") == expected
    told = {field.name for field in dataclasses.fields(spec)}
    default = [
        field.name
        for field in dataclasses.fields(spec)
        if field.default is not dataclasses.MISSING and getattr(expected, field.name) == field.default
    ]
    # Only of convolutions; and a value for each input where there is only one is none.
    allowed = {"contrast_limits", "per_input"} if isinstance(spec, WeightedSpec) else set()
    assert set(default) <= allowed | ({"norm_limit", "split"} if isinstance(spec, DeconvSpec) else set())
    assert told


def test_the_list_above_is_complete() -> None:
    there = {type(spec) for _, spec in EVERYTHING}
    assert there == set(LAYER_TYPES.values()) - {SoftmaxCostSpec, L2CostSpec}
    fields = {field.name for field in dataclasses.fields(WeightedSpec)} - {"inputs"}
    assert set(Weights.__annotations__) == fields | {"also"}
    assert set(Place.__annotations__) == {field.name for field in dataclasses.fields(LayerSpec)} - {"inputs"}


def test_the_end_can_say_what_its_spec_can() -> None:
    recipe = TrainRecipe(batch=2, epochs=3, lr=4)
    x = cc.image(4, 3, 1, stored=(6, 5), scale=1.0, center_mean=True).fc(2)
    pixels: dict[str, Any] = {"per_pixel": True, "ignore": 255, "smoothing": 0.1}
    net = x.softmax("n", recipe, cost="loss", coeff=0.5, probs="p", device=1, **pixels)
    given: dict[str, Any] = {"inputs": ("fc1",), "coeff": 0.5, "device": 1}
    assert net.layers[-1] == SoftmaxCostSpec(name="loss", softmax="p", **pixels, **given)
    assert x.l2("n", recipe, cost="loss", coeff=0.5, device=1).layers[-1] == L2CostSpec(name="loss", **given)
    wanted = SoftmaxCostSpec(name="c", **pixels, train_only=True, **given)
    head = x.head(0.5, **pixels, name="c", device=1)
    assert x.l2(heads=[head]).costs[0] == wanted
    wanted_l2 = L2CostSpec(name="l2_cost1", train_only=True, **given)
    assert x.softmax(heads=[x.l2_head(0.5, device=1)]).costs[0] == wanted_l2
    assert (net.input, net.stored, net.recipe) == (InputSpec(4, 3, 1, 1.0, True), (6, 5), recipe)
    assert x.softmax().recipe.crop  # where images are larger than the input, unless a recipe says otherwise


def test_heads_are_costs_in_training_only_with_names_of_their_own() -> None:
    x = cc.image(8, 8).conv(4, 3).relu()
    first = x.mean().fc(5).head(0.3)
    x = x.conv(4, 3).relu()
    net = x.mean().fc(5).softmax(heads=[first, x.maxpool(2).fc(5).head(0.1, name="aux", device=1)])
    assert [layer.name for layer in net.layers if layer.name in net.train_only] == (
        ["mean1", "fc1", "cost1", "pool1", "fc3", "aux"]
    )
    assert net.costs == (
        SoftmaxCostSpec(name="cost1", inputs=("fc1",), coeff=0.3, train_only=True),
        SoftmaxCostSpec(name="aux", inputs=("fc3",), coeff=0.1, train_only=True, device=1),
        SoftmaxCostSpec(name="cost", inputs=("fc2",)),
    )
    assert net.answer == net.layers[-1] == net.costs[-1]
    assert names(without_heads(net)) == ["conv1", "conv2", "mean2", "fc2", "cost"]
    assert without_heads(net).table().parameters == 112 + 148 + 25
    assert repr(first) == "<head cost1 of 1x1x5>"
    assert spec_from_dict(json.loads(json.dumps(spec_to_dict(net)))) == net


def test_features_are_a_network_without_a_cost() -> None:
    net = cc.image(8, 8, stored=9).conv(4, 3).relu().features("trunk")
    assert names(net) == ["conv1"] and net.layers[0].neuron == RELU  # type: ignore[attr-defined]
    assert (net.name, net.classes, net.costs, net.answer, net.train_only) == (
        ("trunk", 4, (), net.layers[0], frozenset())
    )


def test_a_layer_without_weights_is_split_as_its_input_is() -> None:
    x = cc.image(8, 8).conv(4, 3, split=True).relu().lrn(groups=2).maxpool(2)
    net = x.dropout(split=False).fc(2).softmax()
    assert [layer.split for layer in net.layers] == [True, True, True, False, False, False]
    assert layer(net, "conv1").neuron == RELU


def test_known_activation_functions_have_methods() -> None:
    x = cc.image(4, 4)
    made = [x.relu(), x.tanh(), x.logistic(), x.softrelu(), x.brelu(6), x.neuron("sqrt"), x.neuron(RELU)]
    made += [x.silu(), x.relu6()]
    assert [value.name for value in made] == [
        *("relu1", "tanh1", "logistic1", "softrelu1", "brelu1", "sqrt1", "relu1", "silu1", "brelu1")
    ]
    assert layer(x.conv(4, 3).relu6().fc(2).softmax(), "conv1").neuron == Neuron("brelu", 6)


# ---- names and branches ----------------------------------------------------------------------------------


def test_names_count_by_type_in_the_order_of_the_calls() -> None:
    x = cc.image(8, 8).conv(4, 3, pad=1).relu().maxpool(2)
    left = x.conv(4, 1).relu()
    right = x.conv(4, 3, pad=1).relu().conv(4, 3, pad=1).relu()
    x = cc.concat(right, left).avgpool(2)
    net = (x + x.conv(8, 1)).relu().mean().fc(3).softmax()
    assert names(net) == [
        *("conv1", "pool1", "conv2", "conv3", "conv4", "concat1", "pool2"),
        *("conv5", "sum1", "relu1", "mean1", "fc1", "cost"),
    ]
    assert layer(net, "concat1").inputs == ("conv4", "conv2")
    assert layer(net, "sum1").inputs == ("pool2", "conv5")
    assert layer(net, "mean1").window == (2, 2)


def test_what_leads_to_no_end_is_left_out_and_counts_for_no_name() -> None:
    x = cc.image(8, 8)
    x.conv(3, 3).relu()
    trunk = x.conv(4, 3)
    trunk.maxpool(2).conv(7, 1)
    assert names(trunk.fc(2).softmax()) == ["conv1", "fc1", "cost"]
    # The same trunk begins another network, in which nothing of the first is.
    assert names(trunk.relu().fc(3).softmax()) == ["conv1", "fc1", "cost"]


def test_given_names_are_kept_and_never_given_again() -> None:
    x = cc.image(8, 8).conv(4, 3, name="conv2").conv(4, 3).conv(4, 1)
    assert names(x.fc(2, name="fc10").softmax()) == ["conv2", "conv1", "conv3", "fc10", "cost"]


def test_a_name_given_twice_is_refused() -> None:
    x = cc.image(8, 8).conv(4, 3, name="a")
    with pytest.raises(ValueError, match="layer a: another layer before it has this name"):
        x.conv(4, 3, name="a")
    y = cc.image(8, 8)
    with pytest.raises(ValueError, match="two layers are named 'a'; give one of them another name"):
        cc.concat(y.conv(4, 3, name="a"), y.conv(4, 3, name="a"))


def test_an_activation_function_is_part_of_the_product_before_it() -> None:
    x = cc.image(8, 8)
    assert layer(x.conv(4, 3).relu().fc(2).softmax(), "conv1").neuron == RELU
    assert layer(x.fc(4).tanh().fc(2).softmax(), "fc1").neuron == Neuron("tanh", 1, 1)
    assert layer(x.local(4, 3).brelu(6).fc(2).softmax(), "local1").neuron == Neuron("brelu", 6)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.conv(4, 3).relu(name="relu1"),
        lambda x: x.conv(4, 3).relu(device=0),
        lambda x: x.conv(4, 3, split=True).relu(split=False),
        lambda x: x.conv(4, 3, neuron="tanh").relu(),
        lambda x: x.conv(4, 3).maxpool(2).relu(),
        lambda x: (y := x.conv(4, 3)) + y.relu(),
        lambda x: cc.concat((y := x.conv(4, 3)).relu(), y.maxpool(1)),
    ],
    ids=["named", "placed", "whole", "has one", "behind a pool", "read twice", "read elsewhere"],
)
def test_an_activation_function_stays_a_layer(make: Callable[[Value], Value]) -> None:
    net = make(cc.image(8, 8)).fc(2).softmax()
    assert layer(net, "relu1").neuron == RELU
    assert layer(net, "conv1").neuron in (None, Neuron("tanh", 1, 1))


def test_two_activation_functions_of_one_product_are_two_layers() -> None:
    y = cc.image(8, 8).conv(4, 3)
    net = cc.concat(y.relu(), y.tanh()).fc(2).softmax()
    assert names(net) == ["conv1", "relu1", "tanh1", "concat1", "fc1", "cost"]


def test_values_cannot_be_changed() -> None:
    x = cc.image(8, 8)
    with pytest.raises(AttributeError):
        x.shape = (1, 1, 1)  # type: ignore[misc]
    x += x.conv(3, 3, pad=1)  # makes a new value
    assert (x.name, repr(x)) == ("sum1", "<sum1: 8x8x3>")
    assert (x.height, x.width, x.channels) == x.shape == (8, 8, 3)


# ---- errors ----------------------------------------------------------------------------------------------

X = cc.image(8, 8).conv(6, 3, name="stem").maxpool(2)  # 3x3x6


KEPT = []


def beside_a_head() -> Value:
    x = cc.image(8, 8).fc(4)
    KEPT.append(x.head(name="aux"))
    return x


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: X.conv(4, 5), "layer conv1: r is 5, larger than the padded image, 3; it reads 3x3x6"),
        (lambda: X.maxpool(4), "layer pool2: window_h is 4, larger than .* 3; it reads 3x3x6"),
        (lambda: X.conv(4, 3, groups=4), r"layer conv1: groups \(4\) must divide c \(6\); it reads 3x3x6"),
        (lambda: X.conv(4, 3, groups=3), r"layer conv1: groups \(3\) must divide k \(4\); it reads 3x3x6"),
        (lambda: X + X.conv(6, 3), "layer sum1: its inputs must give one shape, not 1x1x6, 3x3x6"),
        (lambda: X + X.conv(5, 1), "layer sum1: its inputs must give one shape, not 3x3x5, 3x3x6"),
        (lambda: cc.maximum(X, X.fc(6)), "layer max1: its inputs must give one shape, not 1x1x6, 3x3x6"),
        (
            lambda: cc.concat(X, X.maxpool(2)),
            "concat1: its inputs must have one height and width, not 3x3x6, 1x1x6",
        ),
        (lambda: X.conv(4, 2, also=X.conv(6, 3)), "layer conv2: .*; it reads 3x3x6, 1x1x6"),
        (lambda: X.select([6]), "layer select1: channels must be below 6, not 6; it reads 3x3x6"),
        (lambda: X.blur(5, 1.0), "layer blur1: size must be at most the image's side.*; it reads 3x3x6"),
        (lambda: X.rbf(["+-"]), "layer rbf1: codes must have 54 signs, not 2; it reads 3x3x6"),
        (lambda: X.rbf(["+-", "+"]), "layer rbf1: codes must be texts of . and -, of one length"),
        (lambda: X.rbf(["+0"]), "layer rbf1: codes must be texts of . and -"),
        (lambda: X.rbf([]), "layer rbf1: codes must be texts"),
        (lambda: cc.concat(X.conv(4, 1, name="a"), X.conv(4, 1, name="a")), "two layers are named 'a'"),
        (lambda: X.blur(2, 1.0), "layer blur1: size must be odd, not 2"),
        (lambda: X.lrn(groups=4), "layer lrn1: groups .4. must divide c .6.; it reads 3x3x6"),
        (lambda: X.fc(0), "layer fc1: outputs must be at least 1, not 0; it reads 3x3x6"),
        (lambda: X.conv(4, 3, rounding="up"), "layer conv1: rounding must be .*; it reads 3x3x6"),
        (lambda: X.brelu(0), "layer brelu1: a must be positive for brelu"),
        (lambda: X.conv(4, 3, dilation=2), "layer conv1: r is 3 and dilation_h 2, together 5, larger than"),
        (lambda: X.conv(4, 3, pad=(0, 0, 1)), "layer conv1: padding must be an integer or .vertical, hor"),  # type: ignore[arg-type]
        (lambda: IMAGE.avgpool(2, pad=-1, count_padding=True), "layer pool1: padding must not be negative"),
        (lambda: X.conv(4, (3, 3, 3)), "layer conv1: window must be an integer or a pair"),  # type: ignore[arg-type]
        (lambda: X.neuron("rellu"), "neuron must be one of .*; did you mean 'relu'"),
        (lambda: X.dropout(1.0), "rate must be below 1, not 1.0"),
        (lambda: X.dropout(-0.1), "rate must be at least 0, not -0.1"),
        (lambda: X.dropout(keep=1.5), "keep must be at most 1, not 1.5"),
        (lambda: X.softmax(), "layer cost: needs one value for each class, not 3x3x6 of pool1; add .fc"),
        (lambda: X.mean().softmax(cost="stem"), "layer stem: another layer before it has this name"),
        (lambda: X.head(), "layer cost: needs one value for each class, not 3x3x6 of pool1; add .fc"),
        (
            lambda: X.fc(4).softmax(heads=[X.fc(5).head()]),
            "layer cost1: reads 1x1x5, but cost reads 1x1x4: all softmax costs must have the same labels",
        ),
        (lambda: X.fc(4).softmax(heads=[X.fc(4).head(name="aux")] * 2), "<head aux of 1x1x4> is given twice"),
        (lambda: X.fc(4).softmax(cost="aux", heads=[X.fc(4).head(name="aux")]), "two layers are named 'aux'"),
        (lambda: beside_a_head().softmax(), "head aux: is in no network's heads=; give it to"),
        (lambda: (x := beside_a_head()).softmax(heads=[x.head()]), "head aux: is in no net"),
        (lambda: beside_a_head().relu().l2(), "head aux: is in no network's heads="),
        (lambda: beside_a_head().features(), "head aux: is in no network's heads="),
        (lambda: IMAGE.features(), "a network needs a layer; this value is the images themselves"),
        (lambda: X.conv(4, 1, name="data"), "a layer cannot be named 'data'"),
        (lambda: cc.concat(X), "concat needs two or more values, not 1"),
        (lambda: cc.add(X, X, coeffs=[1, 2, 3]), "coeffs must be one for each of the 2 values, not 3"),
        (lambda: X + cc.image(3, 3, 6), "values of two images cannot be joined"),
        (lambda: cc.image(8, 8, stored=4), "stored .4x4. must not be smaller than the image .8x8."),
        (lambda: cc.image(0, 8), "height must be at least 1"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_where_it_is_added(
    call: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    frames = traceback.extract_tb(caught.value.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename) == Path(__file__)]
    assert ours[-1].name == "<lambda>"  # the line of the call is the last of the user's


def test_a_trunk_begins_other_networks_once_its_heads_have_one() -> None:
    x = cc.image(8, 8).conv(4, 3)
    head = x.fc(4).l2_head(name="aux")
    with pytest.raises(ValueError, match="head aux: is in"):
        x.features()
    assert names(cc.image(8, 8).fc(4).softmax()) == ["fc1", "cost"]  # of other images
    with pytest.raises(ValueError, match="needs one value for each class"):
        x.softmax(heads=[head])
    assert names(x.features()) == ["conv1"]  # a network was to have the head
    assert names(x.fc(4).softmax(heads=[head])) == ["conv1", "fc1", "aux", "fc2", "cost"]
    assert names(x.fc(4).softmax()) == ["conv1", "fc1", "cost"]


def test_a_head_that_is_made_again_takes_the_place_of_the_first() -> None:
    """As in a notebook, whose cells are run twice."""
    x = cc.image(8, 8).fc(4)
    for _ in range(2):
        head = x.head(name="aux")
    assert names(x.softmax(heads=[head])) == ["fc1", "aux", "cost"]


def test_only_what_head_returns_is_a_head() -> None:
    with pytest.raises(TypeError, match=r"heads must be what .head\(\) or .l2_head\(\) returns, not <fc1:"):
        X.fc(4).softmax(heads=[X.fc(4)])  # type: ignore[list-item]


def test_first_weights_are_a_deviation_or_a_kind() -> None:
    def first_weights(init: Any, **more: Any) -> WeightedSpec:
        spec = layer(X.fc(4, init=init, name="last", **more).softmax("n"), "last")
        assert isinstance(spec, WeightedSpec)
        return spec

    assert first_weights(0.5).init == gaussian(0.5)
    assert first_weights("he").init == first_weights(Init("he")).init == Init("he")
    assert first_weights("he", also=X, per_input=[{}, {"init": 0.5}]).for_input(1).init == gaussian(0.5)
    with pytest.raises(
        ValueError, match="init must be one of bilinear, gaussian, he, not 'hee'; did you mean 'he'"
    ):
        first_weights("hee")
    with pytest.raises(ValueError, match="init needs the standard deviation of a Gaussian"):
        first_weights("gaussian")
    with pytest.raises(
        TypeError, match=r"init must be a standard deviation, a kind or a cc.nets.Init, not None"
    ):
        first_weights(None)


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(TypeError, match=r"conv\(\) has no argument 'filtres'"):
        X.conv(4, 3, filtres=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="a pool layer has no argument 'nme'"):
        X.maxpool(2, nme="x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"a concat layer reads values that image.. began, not 3"):
        cc.concat(X, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unsupported operand"):
        X + 1  # type: ignore[operator]


# ---- against the network that runs -----------------------------------------------------------------------


def test_shapes_and_parameters_are_those_of_the_network_that_runs() -> None:
    x = cc.image(11, 10, 2).conv(4, (3, 2), 2, (1, 0), rounding="ceil").relu()
    x = x.conv(4, 3, pad=((2, 3), 2), dilation=(2, 1)).avgpool(3, 1, ((1, 0), 1), count_padding=True)
    assert x.shape == (6, 7, 4)
    y = x.local(4, 3, pad=1).tanh()
    x = cc.concat(cc.maximum(x, y), x + y, x.conv(3, 3, pad=1, also=y)).lrn(3).contrast_norm(3)
    x = x.select(range(0, 11, 2)).blur(3, 1.0).maxpool(2, 1, rounding="ceil").dropout(0.2)
    net = x.conv(5, 2, shared_bias=False).logistic().mean().fc(7).relu().fc(3).softmax()
    described = Network(net, batch=2, devices="cpu:0").describe()
    table = net.table()
    for row, layer in zip(table.rows, described["layers"], strict=True):
        h, w, c = row.shape
        assert layer["output_shape"] in ([2, h, w, c], [2, c]), row.name
        assert layer["parameters"] == row.parameters, row.name
    assert described["parameters"] == table.parameters


def test_a_branching_network_learns() -> None:
    x = cc.image(8, 8, 1).conv(8, 3, pad=1).relu()
    x = (x + x.conv(8, 3, pad=1)).relu()
    net = cc.concat(x.maxpool(2), x.avgpool(2)).mean().fc(2).softmax()
    network = Network(net, batch=8, devices="cpu:0")
    images = np.zeros((8, 8, 8, 1), np.uint8)
    images[::2] = 255
    labels = np.array([0, 1] * 4)
    losses = []
    for step in range(30):
        network.load(images, labels)
        network.train_step(step, 0.1, 0.9)
        losses.append(network.result().loss)
    assert losses[-1] < 0.1 < losses[0]


def test_a_network_of_many_layers_is_made_quickly_enough_to_be_used() -> None:
    x = cc.image(8, 8).conv(4, 1)
    for _ in range(60):
        x = (x + x.conv(4, 1).relu()).relu()
    assert len(names(x.fc(2).softmax())) == 1 + 3 * 60 + 2


# ---- the built-in networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nets.NAMES)
def test_a_built_in_network_is_short(name: str) -> None:
    file = Path(inspect.getfile(importlib.import_module(nets.catalog.module_name(name))))
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 40
