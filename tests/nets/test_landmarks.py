"""The landmark networks: sizes and recipes as published, and a step of each at a small size.

Sources of the sizes: torchvision 0.29, counted by hooks on meta tensors (alexnet-owt, vgg, squeezenet at 224
pixels); efficientnet-lite-pytorch, likewise; Caffe's model zoo (caffenet); the definitions that the papers'
authors published (nin, squeezenet at 227 pixels); the tables of the other papers.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from cconvnet import nets
from cconvnet.nets import (
    BatchNormSpec,
    ConvSpec,
    DeconvSpec,
    FcSpec,
    NetSpec,
    PoolSpec,
    RateCurve,
    RbfSpec,
    SelectSpec,
    overfeat,
    resnet,
    spec_from_dict,
    spec_to_dict,
    squeezenet,
    zfnet,
)
from cconvnet.nets.shapes import multiply_adds, parameters, shapes
from cconvnet.nets.transform import scaled, without_heads
from cconvnet.nets.values import both_sides
from cconvnet.network import Network
from cconvnet.network.batch import random_wanted

# Parameters and multiply-adds.
COUNTS = {
    "lenet-5": (60_000, 327_256),
    "lenet-5-plain": (61_706, 416_520),
    "mcdnn-mnist": (76_040, 1_891_820),
    "mcdnn-cifar": (1_660_710, 99_661_000),
    "nin-cifar": (966_986, 222_486_528),
    "alexnet": (60_965_224, 724_406_816),
    "alexnet-2012": (60_965_224, 724_406_816),
    "alexnet-owt": (61_100_840, 714_188_480),
    "caffenet": (60_965_224, 724_406_816),
    "zfnet": (62_357_608, 1_168_032_896),
    "overfeat-fast": (145_920_872, 2_801_403_904),
    "overfeat-accurate": (144_656_488, 5_355_446_784),
    "nin": (7_595_176, 1_100_188_800),
    "vgg11": (132_863_336, 7_609_090_048),
    "vgg13": (133_047_848, 11_308_466_176),
    "vgg16": (138_357_544, 15_470_264_320),
    "vgg19": (143_667_240, 19_632_062_464),
    "googlenet": (13_378_280, 1_591_044_096),
    "vgg16-bn": (138_365_992, 15_470_264_320),
    "googlenet-bn": (13_004_888, 1_506_748_416),
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet101": (44_549_160, 7_801_405_440),
    "resnet152": (60_192_808, 11_513_626_624),
    "resnet20": (269_722, 40_551_040),
    "resnet32": (464_154, 68_862_592),
    "resnet44": (658_586, 97_174_144),
    "resnet56": (853_018, 125_485_696),
    "resnet110": (1_727_962, 252_887_680),
    "squeezenet-1.0": (1_248_424, 861_339_936),
    "squeezenet-1.1": (1_235_496, 349_151_936),
    "efficientnet-lite0": (4_652_008, 385_187_552),
    "fcn32s": (136_152_917, 111_264_399_360),
    "fcn16s": (134_815_994, 111_277_215_744),
    "fcn8s": (134_489_759, 111_306_461_184),
}
# Those of cuda-convnet are held to its files, field by field; `lenet` is this project's own.
OTHERS = {"lenet", "cifar-quick", "cifar-18pct", "cifar-13pct", "cifar-11pct"}
LANDMARKS = [name for name in COUNTS if name not in ("alexnet", "alexnet-2012")]


def counts(spec: NetSpec) -> tuple[int, int]:
    table = spec.table()
    return table.parameters, table.multiply_adds


def test_every_network_is_held_to_what_was_published() -> None:
    assert set(COUNTS) == set(nets.NAMES) - OTHERS


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_as_published(name: str) -> None:
    spec = nets.build(name)
    assert (spec.name, counts(spec)) == (name, COUNTS[name])


def test_forms_that_an_argument_chooses_have_the_published_counts() -> None:
    assert counts(zfnet.build(last=(512, 1024, 512))) == (107_627_624, 2_476_704_896)
    assert counts(squeezenet.build(border=0)) == (1_248_424, 818_924_576)
    assert counts(overfeat.build(accurate=True)) == COUNTS["overfeat-accurate"]


def test_googlenet_has_two_heads_in_training_and_none_in_tests() -> None:
    spec = nets.build("googlenet")
    assert [(cost.coeff, cost.train_only) for cost in spec.costs] == [(0.3, True), (0.3, True), (1.0, False)]
    assert counts(without_heads(spec)) == (6_998_552, 1_582_671_872)


def test_fcns_answer_for_each_pixel_of_sides_that_32_divides() -> None:
    for name in ("fcn32s", "fcn16s", "fcn8s"):
        spec = nets.build(name, (64, 96, 3), 5)
        assert shapes(spec)["up"] == (64, 96, 5) and spec.recipe.lr == 0.0001
        up = spec.layers[-2]
        assert isinstance(up, DeconvSpec) and up.init.kind == "bilinear" and up.lr_scale == 0
    with pytest.raises(ValueError, match="image_shape must have sides that are multiples of 32, not 64x80"):
        nets.build("fcn8s", (64, 80, 3))


def test_vgg_16_has_the_weights_of_an_fcn_but_for_the_last() -> None:
    fcn, vgg = (parameters(nets.build(name)) for name in ("fcn32s", "vgg16"))
    same = [name for name in vgg if name != "fc8"]
    assert len(same) == 15 and [fcn[name] for name in same] == [vgg[name] for name in same]


def test_resnets_have_their_stride_where_they_are_told() -> None:
    """As many parameters and fewer products, but other answers."""
    parameters, products = counts(resnet.build(stride_in="1x1"))
    assert parameters == COUNTS["resnet50"][0] and products < COUNTS["resnet50"][1]
    strides = {
        layer.name: layer.stride
        for layer in resnet.build(stride_in="1x1").layers
        if isinstance(layer, ConvSpec)
    }
    assert strides["layer2_0_conv1"] == (2, 2) and strides["layer2_0_conv2"] == (1, 1)


def test_resnets_begin_as_their_shortcuts() -> None:
    norms = [layer for layer in nets.build("resnet50").layers if isinstance(layer, BatchNormSpec)]
    assert {norm.gamma for norm in norms if norm.name.endswith("conv3_bn")} == {0.0}
    assert {norm.gamma for norm in norms if not norm.name.endswith("conv3_bn")} == {1.0}
    assert len(norms) == 53


def test_resnet20_pads_crops_and_shortcuts_with_zeros() -> None:
    spec = nets.build("resnet20")
    assert (spec.recipe.pad, spec.recipe.mirror) == (4, True)
    assert [(step.epoch, step.factor) for step in spec.recipe.steps] == [(82, 0.1), (123, 0.1)]
    (first, second) = [layer for layer in spec.layers if isinstance(layer, SelectSpec)]
    assert first.channels == (*[None] * 8, *range(16), *[None] * 8)
    assert second.channels == (*[None] * 16, *range(32), *[None] * 16)


@pytest.mark.parametrize("side", [256, 255, 193])
def test_efficientnet_pads_as_tensorflow_does(side: int) -> None:
    """A convolution has an output for each stride, begun or not; the larger half of the padding is behind."""
    spec = nets.build("efficientnet-lite0", (side, 256, 3))
    found = shapes(spec)
    convolutions = [layer for layer in spec.layers if isinstance(layer, ConvSpec)]
    for layer in convolutions:
        (size, *_), (window, _), (stride, _) = found[layer.inputs[0]], layer.window, layer.stride
        outputs = -(-size // stride)
        padding = max((outputs - 1) * stride + window - size, 0)
        assert found[layer.name][0] == outputs
        assert both_sides(layer.padding[0]) == (padding // 2, padding - padding // 2)
    assert sum(layer.stride == (2, 2) for layer in convolutions) == 5


# Images of a step, epochs, rate, momentum; the side of the crop and of the stored images.
RECIPES: dict[str, tuple[int, int, float, float, int, int]] = {
    "mcdnn-mnist": (1, 800, 0.001, 0.0, 29, 29),
    "mcdnn-cifar": (1, 800, 0.001, 0.0, 32, 32),
    "alexnet-owt": (256, 90, 0.01, 0.9, 224, 256),
    "caffenet": (256, 90, 0.01, 0.9, 227, 256),
    "zfnet": (128, 70, 0.01, 0.9, 224, 256),
    "overfeat-fast": (128, 90, 0.05, 0.6, 231, 256),
    "overfeat-accurate": (128, 90, 0.05, 0.6, 221, 256),
    "vgg16": (256, 74, 0.01, 0.9, 224, 256),
    "googlenet": (32, 250, 0.01, 0.9, 224, 256),
    "resnet50": (256, 90, 0.1, 0.9, 224, 256),
    "squeezenet-1.0": (512, 68, 0.04, 0.9, 227, 256),
    "squeezenet-1.1": (512, 68, 0.04, 0.9, 224, 256),
    "efficientnet-lite0": (256, 350, 0.1, 0.9, 224, 256),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_as_published(name: str) -> None:
    spec = nets.build(name)
    recipe, (batch, epochs, lr, momentum, crop, stored) = spec.recipe, RECIPES[name]
    assert (recipe.batch, recipe.epochs, recipe.lr, recipe.momentum) == (batch, epochs, lr, momentum)
    assert (spec.input.height, spec.input.width, spec.stored) == (crop, crop, (stored, stored))
    assert recipe.crop == recipe.mirror == (stored > crop)
    assert stored == 256 or name.startswith("mcdnn")


def test_rates_fall_as_published() -> None:
    assert [step.epoch for step in nets.build("caffenet").recipe.steps] == [20, 40, 60, 80]
    steps = nets.build("overfeat-fast").recipe.steps
    assert [(step.epoch, step.factor) for step in steps] == [(n, 0.5) for n in (30, 50, 60, 70, 80)]
    assert nets.build("squeezenet-1.1").recipe.schedule == RateCurve("linear")
    steps = nets.build("googlenet").recipe.steps
    assert [(step.epoch, step.factor) for step in steps[:3]] == [(8, 0.96), (16, 0.96), (24, 0.96)]
    for name in ("zfnet", "vgg11", "nin"):
        assert nets.build(name).recipe.plateau > 0
    for name in ("mcdnn-mnist", "mcdnn-cifar"):
        recipe = nets.build(name).recipe
        assert recipe.schedule == RateCurve("epochs", 0.001 / 0.00003, power=0.993)
        assert not recipe.distort.is_identity


def connections(spec: NetSpec) -> int:
    """Products and biases, where subsampling reads each pixel once and its coefficient is no connection."""
    found, total = shapes(spec), 0
    for layer in spec.layers:
        outputs = math.prod(found[layer.name])
        match layer:
            case PoolSpec():
                total += outputs * math.prod(layer.window)
            case ConvSpec() if layer.window == (1, 1) and layer.groups == layer.filters:
                total += outputs
            case ConvSpec() | FcSpec():
                total += outputs + multiply_adds(spec)[layer.name]
            case RbfSpec():
                total += outputs * len(layer.codes[0])
    return total


def test_lenet_5_has_the_connections_of_the_paper() -> None:
    assert connections(nets.build("lenet-5")) == 340_908


def test_lenet_5_reads_digits_of_28_pixels_as_of_32() -> None:
    assert counts(nets.build("lenet-5", (28, 28, 1))) == COUNTS["lenet-5"]


def test_lenet_5_has_no_more_classes_than_codes() -> None:
    rbf = nets.build("lenet-5", classes=3).layers[-2]
    assert isinstance(rbf, RbfSpec) and len(rbf.codes) == 3 and len(set(rbf.codes)) == 3
    assert scaled(nets.build("lenet-5"), classes=3).layers[-2] == rbf
    with pytest.raises(ValueError, match="classes must be at most 10, the digits that have codes, not 11"):
        nets.build("lenet-5", classes=11)
    with pytest.raises(ValueError, match="classes must be at most 10, which have codes, not 11"):
        scaled(nets.build("lenet-5"), classes=11)


def test_filters_of_zfnet_keep_a_root_mean_square_of_a_tenth() -> None:
    convolutions = [layer for layer in nets.build("zfnet").layers if isinstance(layer, ConvSpec)]
    fan_ins = (7 * 7 * 3, 5 * 5 * 96, 3 * 3 * 256, 3 * 3 * 384, 3 * 3 * 384)
    assert [layer.norm_limit for layer in convolutions] == pytest.approx(
        [0.1 * math.sqrt(n) for n in fan_ins]
    )


def test_digits_of_28_pixels_are_padded_to_29() -> None:
    assert nets.build("mcdnn-mnist", (28, 28, 1)).table().rows[0].shape == (26, 26, 20)


# ---- a step ----------------------------------------------------------------------------------------------


def tiny(name: str) -> NetSpec:
    """A network with all its layers and few filters, for images as small as they may be."""
    spec = nets.build(name)
    if max(spec.stored) > 32:
        return scaled(spec, 1 / 16, (100, 100), 3)
    return scaled(spec, 1 / 8 if max(spec.stored) == 32 and spec.input.channels == 3 else 1.0, None, 3)


@pytest.mark.parametrize("name", LANDMARKS)
def test_a_step_of_training_leaves_finite_weights_that_moved(name: str) -> None:
    spec = tiny(name)
    network = Network(spec, batch=2, devices="cpu:0", seed=1)
    before = {key: np.copy(value) for key, value in network.state().items()}
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (2, *spec.stored_shape), np.uint8)
    network.load(images, random_wanted(spec, 2, draws)["labels"])
    network.train_step(0, 0.001, 0.9)
    assert math.isfinite(network.result().loss)
    after: dict[str, Any] = network.state()
    assert all(np.isfinite(value).all() for value in after.values())
    assert any((after[key] != value).any() for key, value in before.items())


@pytest.mark.parametrize("name", LANDMARKS)
def test_a_small_form_survives_json(name: str) -> None:
    spec = tiny(name)
    assert spec_from_dict(json.loads(json.dumps(spec_to_dict(spec), allow_nan=False))) == spec


def test_a_batch_without_any_label_gives_an_fcn_no_loss_and_no_gradient() -> None:
    spec = tiny("fcn8s")
    network = Network(spec, batch=1, devices="cpu:0", seed=1)
    labels = random_wanted(spec, 1, np.random.default_rng(0))["labels"]
    for ignored in (False, True):
        network.load(
            np.full((1, *spec.stored_shape), 99, np.uint8), np.full_like(labels, 255) if ignored else labels
        )
        network.forward(train=True)
        network.backward()
        gradients = [parameter.host("gradient") for parameter in network.parameters.values()]
        assert network.result().loss == 0 or not ignored
        assert any(gradient.any() for gradient in gradients) != ignored
