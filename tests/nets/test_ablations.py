"""Networks without one of their parts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import cconvnet as cc
from cconvnet import nets
from cconvnet.nets import NetSpec, PoolSpec
from cconvnet.nets.ablation import ABLATIONS, chosen
from cconvnet.nets.shapes import parameters, shapes
from cconvnet.network import Network
from cconvnet.network.gradcheck import small_spec


def without(word: str, spec: NetSpec) -> NetSpec:
    return ABLATIONS[word].apply(spec)


def layers(spec: NetSpec, kind: str) -> list[Any]:
    return [layer for layer in spec.layers if layer.type == kind]


def test_alexnet_has_every_part_and_runs_without_each() -> None:
    spec = small_spec("alexnet")
    found = chosen(None, spec)
    assert [ablation.word for ablation in found] == [*ABLATIONS]
    assert len({ablation.variant for ablation in found}) == len(found)
    for ablation in found:
        changed = ablation.apply(spec)
        assert changed.name == f"alexnet-{ablation.variant}"
        assert not ablation.applies_to(changed)
        Network(changed, batch=1, devices="cpu:0")


def test_tanh_is_in_place_of_every_relu() -> None:
    spec = cc.image(8, 8, 3).conv(4, 3).relu().conv(4, 3).neuron("abs").fc(5).tanh(1.7, 0.5).fc(3).softmax()
    assert [layer.neuron and layer.neuron.kind for layer in without("relu", spec).layers[:3]] == [
        "tanh",
        "abs",
        "tanh",
    ]
    first, _, third = (layer.neuron for layer in without("relu", spec).layers[:3])
    assert (first.a, first.b, third.a, third.b) == (1.0, 1.0, 1.7, 0.5)


def test_readers_of_a_removed_layer_read_what_it_read() -> None:
    spec = nets.build("alexnet")
    changed = without("lrn", spec)
    assert layers(changed, "lrn") == []
    assert layers(changed, "pool")[0].inputs == ("conv1",)
    assert parameters(changed) == parameters(spec)
    changed = without("dropout", spec)
    assert [layer.inputs for layer in layers(changed, "fc")] == [("pool5",), ("fc6",), ("fc7",)]


def test_two_removed_layers_in_a_row() -> None:
    x = cc.image(8, 8, 4).conv(4, 3, name="conv").relu().lrn(3).lrn(3, region="same_map")
    changed = without("lrn", x.fc(3, name="last").softmax())
    assert layers(changed, "fc")[0].inputs == ("conv",)


@pytest.mark.parametrize("name", ["alexnet", "cifar-11pct", "resnet18", "googlenet"])
def test_pooling_without_overlap_has_outputs_of_the_same_size(name: str) -> None:
    spec = nets.build(name)
    changed = without("overlap", spec)
    assert shapes(changed) == shapes(spec)
    for pool in layers(changed, "pool"):
        assert pool.window == pool.stride or pool.stride == (1, 1) or shapes(changed)[pool.name][:2] == (1, 1)


def test_pooling_that_does_not_overlap_stays() -> None:
    spec = cc.image(8, 8, 3).conv(4, 3, pad=1).maxpool(3, 1, pad=1).maxpool(2, 2).mean().softmax()
    assert not ABLATIONS["overlap"].applies_to(spec)
    assert all(isinstance(pool, PoolSpec) for pool in layers(spec, "pool"))


def test_one_tower_has_half_the_filters_but_for_the_last_convolution() -> None:
    changed = without("towers", nets.build("alexnet"))
    assert [conv.filters for conv in layers(changed, "conv")] == [48, 128, 192, 192, 256]
    assert {conv.groups for conv in layers(changed, "conv")} == {1}
    assert {lrn.groups for lrn in layers(changed, "lrn")} == {1}
    assert [fc.outputs for fc in layers(changed, "fc")] == [4096, 4096, 1000]
    assert not any(layer.split for layer in changed.layers)


def test_without_augmentation_images_stay_as_they_are() -> None:
    recipe = without("augmentation", nets.build("alexnet")).recipe
    assert (recipe.crop, recipe.mirror, recipe.color_noise) == (False, False, 0.0)
    assert (
        dataclasses.replace(recipe, crop=True, mirror=True, color_noise=0.1) == nets.build("alexnet").recipe
    )
    assert without("augmentation", nets.build("mcdnn-mnist")).recipe.distort.is_identity


@pytest.mark.parametrize(
    ("name", "word", "part"),
    [
        ("lenet-5", "relu", "ReLU"),
        ("cifar-13pct", "lrn", "LRN"),
        ("vgg11", "overlap", "overlapping pooling"),
        ("cifar-11pct", "dropout", "dropout"),
        ("efficientnet-lite0", "towers", "towers"),
        ("cifar-18pct", "augmentation", "augmentation"),
    ],
)
def test_a_part_that_is_not_there_is_refused_by_name(name: str, word: str, part: str) -> None:
    with pytest.raises(ValueError, match=f"^--what {word}: {name} has no {part}"):
        without(word, nets.build(name))


def test_words() -> None:
    spec = nets.build("cifar-11pct")
    assert [ablation.word for ablation in chosen(None, spec)] == ["relu", "lrn", "overlap", "augmentation"]
    assert [ablation.word for ablation in chosen(["lrn", "relu", "lrn"], spec)] == ["lrn", "relu"]
    with pytest.raises(ValueError, match=r"^--what must be one of .*, not 'lrm'; did you mean 'lrn'\?"):
        chosen(["lrm"], spec)
    with pytest.raises(ValueError, match=r"^lenet-5 has nothing to leave out"):
        chosen(None, nets.build("lenet-5"))
