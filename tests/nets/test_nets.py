"""The built-in networks against what was published.

Sources: the 2012 paper, the original program's configuration 145, and cuda-convnet's CIFAR-10 configurations
(layers-80sec, -18pct, -conv-local-13pct, -conv-local-11pct).
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from cconvnet import nets
from cconvnet.nets import (
    ConvSpec,
    DropoutSpec,
    FcSpec,
    LocalSpec,
    LrnSpec,
    LrStep,
    NeuronSpec,
    PoolSpec,
    SoftmaxCostSpec,
)
from cconvnet.nets.shapes import parameters, shapes


def fact(layer: Any, shape: tuple[int, int, int]) -> str:
    """A layer in a line: type, sizes, first weights and bias, decay, and the shape of its output."""
    out = "x".join(map(str, shape))
    match layer:
        case ConvSpec() | LocalSpec():
            groups = f" {layer.groups} groups" if layer.groups > 1 else ""
            sizes = f"{layer.window[0]}/{layer.stride[0]} pad {layer.padding[0]}"
            text = f"{layer.type} {layer.filters} {sizes}{groups}"
        case FcSpec():
            text = f"fc {layer.outputs}"
        case PoolSpec():
            return f"{layer.pool} {layer.window[0]}/{layer.stride[0]} -> {out}"
        case LrnSpec():
            count = layer.size**2 if layer.region == "same_map" else layer.size
            scale = layer.alpha * count
            groups = f" {layer.groups} groups" if layer.groups > 1 else ""
            return f"{layer.region} {layer.size} scale {scale:g} pow {layer.beta:g} k {layer.k:g}{groups}"
        case DropoutSpec():
            assert not layer.inverted
            return f"dropout {layer.keep:g}"
        case NeuronSpec():
            return layer.neuron.kind
        case SoftmaxCostSpec():
            return f"softmax {out}"
    neuron = f" {layer.neuron.kind}" if layer.neuron else ""
    assert (layer.bias_weight_decay, layer.bias_lr_scale, layer.lr_scale) == (0, 2, 1)
    assert layer.momentum is layer.bias_momentum is None
    sigma = f"sigma {layer.init.sigma:g} bias {layer.bias:g} wc {layer.weight_decay:g}"
    return f"{text} {sigma}{neuron} -> {out}"


QUICK_CONV = "wc 0.004 relu"
FACTS: dict[str, list[str]] = {
    "cifar-quick": [
        f"conv 32 5/1 pad 2 sigma 0.0001 bias 0 {QUICK_CONV} -> 32x32x32",
        "max 3/2 -> 16x16x32",
        f"conv 32 5/1 pad 2 sigma 0.01 bias 0 {QUICK_CONV} -> 16x16x32",
        "avg 3/2 -> 8x8x32",
        f"conv 64 5/1 pad 2 sigma 0.01 bias 0 {QUICK_CONV} -> 8x8x64",
        "avg 3/2 -> 4x4x64",
        "fc 64 sigma 0.1 bias 0 wc 0.03 relu -> 1x1x64",
        "fc 10 sigma 0.1 bias 0 wc 0.03 -> 1x1x10",
        "softmax 1x1x10",
    ],
    "cifar-18pct": [
        f"conv 32 5/1 pad 2 sigma 0.0001 bias 0 {QUICK_CONV} -> 32x32x32",
        "max 3/2 -> 16x16x32",
        "same_map 3 scale 5e-05 pow 0.75 k 1",
        f"conv 32 5/1 pad 2 sigma 0.01 bias 0 {QUICK_CONV} -> 16x16x32",
        "avg 3/2 -> 8x8x32",
        "same_map 3 scale 5e-05 pow 0.75 k 1",
        f"conv 64 5/1 pad 2 sigma 0.01 bias 0 {QUICK_CONV} -> 8x8x64",
        "avg 3/2 -> 4x4x64",
        "fc 10 sigma 0.01 bias 0 wc 1 -> 1x1x10",
        "softmax 1x1x10",
    ],
    "cifar-13pct": [
        "conv 64 5/1 pad 2 sigma 0.0001 bias 0 wc 0 relu -> 24x24x64",
        "max 3/2 -> 12x12x64",
        "conv 64 5/1 pad 2 sigma 0.01 bias 0 wc 0 relu -> 12x12x64",
        "max 3/2 -> 6x6x64",
        "local 32 3/1 pad 1 sigma 0.04 bias 0 wc 0.004 relu -> 6x6x32",
        "local 32 3/1 pad 1 sigma 0.04 bias 0 wc 0.004 relu -> 6x6x32",
        "fc 10 sigma 0.01 bias 0 wc 0.004 -> 1x1x10",
        "softmax 1x1x10",
    ],
    "cifar-11pct": [
        "conv 64 5/1 pad 2 sigma 0.0001 bias 0 wc 0 relu -> 24x24x64",
        "max 3/2 -> 12x12x64",
        "across_channels 9 scale 0.001 pow 0.75 k 1",
        "conv 64 5/1 pad 2 sigma 0.01 bias 0 wc 0 relu -> 12x12x64",
        "across_channels 9 scale 0.001 pow 0.75 k 1",
        "max 3/2 -> 6x6x64",
        "local 64 3/1 pad 1 sigma 0.04 bias 0 wc 0.004 relu -> 6x6x64",
        "local 32 3/1 pad 1 sigma 0.04 bias 0 wc 0.004 relu -> 6x6x32",
        "fc 10 sigma 0.01 bias 0 wc 0.01 -> 1x1x10",
        "softmax 1x1x10",
    ],
    # Section 3.5 and section 5 of the paper.
    "alexnet": [
        "conv 96 11/4 pad 0 sigma 0.01 bias 0 wc 0.0005 relu -> 55x55x96",
        "across_channels 5 scale 0.0005 pow 0.75 k 2 2 groups",
        "max 3/2 -> 27x27x96",
        "conv 256 5/1 pad 2 2 groups sigma 0.01 bias 1 wc 0.0005 relu -> 27x27x256",
        "across_channels 5 scale 0.0005 pow 0.75 k 2 2 groups",
        "max 3/2 -> 13x13x256",
        "conv 384 3/1 pad 1 sigma 0.01 bias 0 wc 0.0005 relu -> 13x13x384",
        "conv 384 3/1 pad 1 2 groups sigma 0.01 bias 1 wc 0.0005 relu -> 13x13x384",
        "conv 256 3/1 pad 1 2 groups sigma 0.01 bias 1 wc 0.0005 relu -> 13x13x256",
        "max 3/2 -> 6x6x256",
        "fc 4096 sigma 0.01 bias 1 wc 0.0005 relu -> 1x1x4096",
        "dropout 0.5",
        "fc 4096 sigma 0.01 bias 1 wc 0.0005 relu -> 1x1x4096",
        "dropout 0.5",
        "fc 1000 sigma 0.01 bias 0 wc 0.0005 -> 1x1x1000",
        "softmax 1x1x1000",
    ],
    "alexnet-2012": [
        "conv 96 11/4 pad 0 sigma 0.01 bias 0 wc 0.0005 -> 55x55x96",
        "across_channels 5 scale 0.0001 pow 0.75 k 2 2 groups",
        "max 3/2 -> 27x27x96",
        "relu",
        "conv 256 5/1 pad 2 2 groups sigma 0.01 bias 1 wc 0.0005 relu -> 27x27x256",
        "across_channels 5 scale 0.0001 pow 0.75 k 2 2 groups",
        "same_map 5 scale 0.001 pow 0.75 k 1",
        "max 3/2 -> 13x13x256",
        "conv 384 3/1 pad 1 sigma 0.03 bias 0 wc 0.0005 relu -> 13x13x384",
        "conv 384 3/1 pad 1 2 groups sigma 0.03 bias 1 wc 0.0005 relu -> 13x13x384",
        "conv 256 3/1 pad 1 2 groups sigma 0.03 bias 1 wc 0.0005 -> 13x13x256",
        "max 3/2 -> 6x6x256",
        "relu",
        "fc 4096 sigma 0.01 bias 1 wc 0.0005 relu -> 1x1x4096",
        "dropout 0.5",
        "fc 4096 sigma 0.01 bias 1 wc 0.0005 relu -> 1x1x4096",
        "dropout 0.5",
        "fc 1000 sigma 0.01 bias 0 wc 0.0005 -> 1x1x1000",
        "softmax 1x1x1000",
    ],
}
# Epochs, rate, when it changes; the crop's side, and whether the mean image's centre is subtracted from it.
RECIPES: dict[str, tuple[int, float, tuple[LrStep, ...], int, bool]] = {
    "cifar-quick": (12, 0.001, (LrStep(9, 0.1), LrStep(11, 0.1)), 32, False),
    "cifar-18pct": (140, 0.001, (LrStep(120, 0.1), LrStep(130, 0.1)), 32, False),
    "cifar-13pct": (140, 0.001, (LrStep(120, 0.1, of="weight"), LrStep(130, 0.1, of="weight")), 24, True),
    "cifar-11pct": (520, 0.001, (LrStep(500, 0.1, of="weight"), LrStep(510, 0.1, of="weight")), 24, True),
    "alexnet": (90, 0.01, (LrStep(25, 0.1), LrStep(51, 0.1), LrStep(79, 0.1)), 224, False),
}


@pytest.mark.parametrize("name", FACTS)
def test_layers_are_as_published(name: str) -> None:
    spec = nets.build(name)
    found = shapes(spec)
    assert [fact(layer, found[layer.name]) for layer in spec.layers] == FACTS[name]
    assert spec.input.scale == 1  # pixels are from 0 to 255


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_as_published(name: str) -> None:
    spec = nets.build(name)
    epochs, lr, steps, crop, center = RECIPES[name]
    recipe = spec.recipe
    assert (recipe.batch, recipe.epochs, recipe.lr, recipe.momentum) == (128, epochs, lr, 0.9)
    assert recipe.steps == steps
    assert (spec.input.height, spec.input.width, spec.input.center_mean) == (crop, crop, center)
    assert recipe.crop == recipe.mirror == (spec.stored[0] > crop)


def test_the_recipe_of_2012() -> None:
    """Rates of the run of record: tenths at epochs 25 and 51; conv1 to 1e-5 at 67, frozen at 72; the rest to
    1e-5 at 79."""
    spec = nets.build("alexnet-2012")
    recipe = spec.recipe
    assert (recipe.batch, recipe.epochs, recipe.lr, recipe.momentum) == (128, 91, 0.01, 0.9)
    assert spec.input.center_mean and recipe.color_noise > 0 and recipe.color_noise_epochs == 67

    def at(epoch: float, layer: str) -> float:
        hit = [s.factor for s in recipe.steps if epoch >= s.epoch and (not s.layers or layer in s.layers)]
        return recipe.lr * math.prod(hit)

    for epoch, conv1, others in ((0, 1e-2, 1e-2), (25, 1e-3, 1e-3), (51, 1e-4, 1e-4), (67, 1e-5, 1e-4)):
        assert (at(epoch, "conv1"), at(epoch, "fc6")) == pytest.approx((conv1, others))
    assert (at(72, "conv1"), at(79, "conv1")) == (0, 0)
    assert (at(78, "conv5"), at(79, "conv5")) == pytest.approx((1e-4, 1e-5))


@pytest.mark.parametrize("name", ["alexnet", "alexnet-2012"])
def test_alexnet_has_as_many_parameters_as_the_original(name: str) -> None:
    counts = parameters(nets.build(name))
    assert sum(counts.values()) == 60_965_224
    thousands = {layer: round(count / 1000) for layer, count in counts.items()}
    assert thousands == {
        **{"conv1": 35, "conv2": 307, "conv3": 885, "conv4": 664, "conv5": 443},
        **{"fc6": 37753, "fc7": 16781, "fc8": 4097},
    }
