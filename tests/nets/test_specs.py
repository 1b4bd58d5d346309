"""Specs: to and from JSON, wrong values refused by name, differences between two networks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.small_networks import BRANCHES

import cconvnet as cc
from cconvnet import nets
from cconvnet.nets import (
    Distortion,
    NetSpec,
    TrainRecipe,
    compare,
    lrn_alpha,
    spec_from_dict,
    spec_to_dict,
)


@pytest.mark.parametrize("spec", [*map(nets.build, nets.NAMES), BRANCHES], ids=lambda spec: spec.name)
def test_a_spec_survives_json(spec: NetSpec) -> None:
    text = json.dumps(spec_to_dict(spec), allow_nan=False)
    assert spec_from_dict(json.loads(text)) == spec


def test_fields_of_later_versions_are_only_described_where_they_count() -> None:
    x = cc.image(9, 9).conv(2, 3, pad=1).avgpool(3)
    plain, later = x.fc(2).softmax(), x.conv(2, 2, pad=((0, 1), 1), dilation=2).fc(2).softmax()
    pooled = x.avgpool(2, pad=(1, (0, 1)), count_padding=True).fc(2).softmax()
    assert "dilation" not in str(spec_to_dict(plain)) and "count_padding" not in str(spec_to_dict(plain))
    for spec in (later, pooled):
        assert spec_from_dict(json.loads(json.dumps(spec_to_dict(spec)))) == spec
    assert spec_to_dict(later)["layers"][2]["dilation"] == [2, 2]
    assert spec_to_dict(later)["layers"][2]["padding"] == [[0, 1], 1]


def test_a_recipe_s_distortion_survives_json() -> None:
    x = cc.image(9, 9).fc(2)
    recipe = TrainRecipe(8, 2, 0.1, distort=Distortion(rotation=15, alpha=36, sigma=5))
    assert "distort" not in spec_to_dict(x.softmax())["recipe"]
    values = json.loads(json.dumps(spec_to_dict(x.softmax("distorted", recipe))))
    assert spec_from_dict(values).recipe == recipe
    values["recipe"]["distort"]["rotation"] = 200
    with pytest.raises(ValueError, match="rotation must be at most 180"):
        spec_from_dict(values)


def test_a_recipe_s_resized_crops_survive_json() -> None:
    x = cc.image(9, 9).fc(2)
    recipe = TrainRecipe(8, 2, 0.1, random_resized_crop=True, area=(0.25, 0.5))
    assert not {"area", "random_resized_crop"} & set(spec_to_dict(x.softmax())["recipe"])
    values = json.loads(json.dumps(spec_to_dict(x.softmax("resized", recipe))))
    assert spec_from_dict(values).recipe == recipe
    values["recipe"]["area"] = [0.5, 0.25]
    with pytest.raises(ValueError, match=r"area must be at least 0\.5"):
        spec_from_dict(values)


def test_equal_padding_on_both_sides_is_one_number() -> None:
    assert cc.image(9, 9).conv(2, 3, pad=((1, 1), (2, 2))).fc(2).softmax().layers[0].padding == (1, 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("layers", 0, "filtres"), 3, "layer conv1.*did you mean 'filters'"),
        (("layers", 0, "type"), "convolution", "layer conv1: type must be one of.*not 'convolution'"),
        (("layers", 1, "pool"), "maximum", "layer pool1: pool must be one of avg, max.*did you mean 'max'"),
        (("layers", 4, "neuron", "kind"), "rellu", "neuron must be one of.*did you mean 'relu'"),
        (("layers", 0, "window"), [3, 3, 3], "layer conv1: window must be an integer or a pair"),
        (("layers", 0, "weight_decay"), float("nan"), "layer conv1: weight_decay must be finite"),
        (("clases",), 3, "did you mean 'classes'"),
        (("stored",), [4, 4], "stored .4x4. must not be smaller than the input .8x8."),
    ],
)
def test_a_wrong_description_is_refused_by_name(path: tuple[Any, ...], value: Any, message: str) -> None:
    values: Any = spec_to_dict(nets.build("lenet"))
    *parents, last = path
    target = values
    for key in parents:
        target = target[key]
    target[last] = value
    with pytest.raises(ValueError, match=message):
        spec_from_dict(values)


def test_a_missing_key_is_named() -> None:
    values = spec_to_dict(nets.build("lenet"))
    del values["layers"][0]["filters"]
    with pytest.raises(ValueError, match="layer conv1: the key 'filters' is missing"):
        spec_from_dict(values)


@pytest.mark.parametrize("function", [nets.build, nets.stored_size])
def test_an_unknown_network_is_answered_with_the_nearest(function: Any) -> None:
    with pytest.raises(ValueError, match="not 'alexnett'; did you mean 'alexnet'"):
        function("alexnett")


def test_cuda_convnets_scale_is_divided_by_the_number_of_values_summed() -> None:
    assert lrn_alpha(1e-4, 5) == pytest.approx(2e-5)
    assert lrn_alpha(5e-5, 3, "same_map") == pytest.approx(5e-5 / 9)


def test_the_originals_differences_are_told() -> None:
    rows = compare(nets.build("alexnet"), nets.build("alexnet-2012"))
    found = {(layer, value): (one, other) for layer, value, one, other in rows}
    assert len(rows) == len(found)
    assert found["conv1", "neuron"] == ("relu", "None")
    assert found["lrn1", "alpha"] == found["lrn2", "alpha"] == ("0.0001", "2e-05")
    assert found["rnorm2", "layer"] == ("-", "lrn after lrn2")
    assert found["relu1", "layer"] == ("-", "neuron after pool1")
    assert found["conv3", "init"] == ("gaussian(0.01)", "gaussian(0.03)")
    assert "x0 conv1" in found["recipe", "steps"][1]
    assert {layer for layer, _ in found} == {
        *("conv1", "lrn1", "relu1", "conv2", "lrn2", "rnorm2", "pool2", "conv3", "conv4", "conv5"),
        *("relu5", "fc6", "input", "recipe"),
    }
    assert found["input", "center_mean"] == ("False", "True")
    assert compare(BRANCHES, BRANCHES) == []
    # Turned around, the same differences are found, in an order that fits both.
    back = compare(nets.build("alexnet-2012"), nets.build("alexnet"))
    assert {(layer, value): (b, a) for layer, value, a, b in back} == found


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: x.conv(4, 3, 2**40),
        lambda x: x.conv(4, 2**33),
        lambda x: x.conv(4, 3, pad=((0, 2**40), 0)),
        lambda x: x.conv(4, 3, dilation=2**40),
        lambda x: x.conv(4, 3, groups=2**40),
        lambda x: x.deconv(4, 3, 2**31),
        lambda x: x.deconv(4, 3, 2**31 - 1),
        lambda x: x.deconv(4, 2**31 - 1, 2),
        lambda x: x.maxpool(3, 2**40),
        lambda x: x.lrn(2**40),
        lambda x: x.lrn(groups=2**40),
        lambda x: x.contrast_norm(2**40),
    ],
)
def test_numbers_of_more_than_32_bits_are_refused_by_layer(layer: Any) -> None:
    with pytest.raises(ValueError, match=r"layer \w+1: .*(must be at most 2147483647|must divide)"):
        layer(cc.image(8, 8))
