"""The ways in which weights of other programs are misread, which leave a network that still answers.

Those of names in files are in test_torch_files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import there

import cconvnet as cc
from cconvnet import nets
from cconvnet.errors import CheckpointError
from cconvnet.formats.layer_names import namings
from cconvnet.formats.layouts import parts
from cconvnet.formats.weights import Fitted, Weights, fit, torch_tensors
from cconvnet.nets import ConvSpec, DropoutSpec, FcSpec, NetSpec
from cconvnet.nets.blocks import DEVIATION, MEAN
from cconvnet.nets.shapes import shapes
from cconvnet.network import Network

Array = np.ndarray[Any, Any]


def file_shapes(spec: NetSpec, whose: int = 0) -> dict[str, tuple[int, ...]]:
    """The tensors of a file for a network, by one of its namings."""
    names = namings(spec)[whose].names
    return {f"{names[part.layer]}.{part.of}": part.there for part in parts(spec)}


def fitted(spec: NetSpec, tensors: dict[str, Array], **options: Any) -> Fitted:
    return fit(Weights(Path("a.pth"), tensors), spec, **options)


def images(side: int, channels: int = 3, count: int = 2) -> Array:
    return np.random.default_rng(5).integers(0, 256, (count, side, side, channels), np.uint8)


def planes(pixels: Array, mean: Any = 0.0, deviation: Any = 1.0) -> Array:
    return ((pixels.astype(np.float64) - mean) / deviation).transpose(0, 3, 1, 2)


def small(groups: int = 1, **options: Any) -> NetSpec:
    x = cc.image(6, 6, 3, scale=1.0, mean=(1, 2, 3), deviation=(50, 60, 70), **options)
    return x.conv(4, 3, pad=1).relu().conv(6, 3, groups=groups).relu().fc(5).softmax(name="small")


def small_there(x: Array, tensors: dict[str, Array], groups: int = 1) -> Array:
    x = np.maximum(there.conv(x, tensors["conv1.weight"], tensors["conv1.bias"], pad=1), 0)
    x = np.maximum(there.conv(x, tensors["conv2.weight"], tensors["conv2.bias"], groups=groups), 0)
    return there.fc(x, tensors["fc1.weight"], tensors["fc1.bias"])


@pytest.mark.parametrize("groups", [1, 2])
def test_layouts_of_filters_groups_and_fc_layers(groups: int) -> None:
    """Filters are [K,C/groups,R,S] there, and FC layers read planes, (C,H,W)."""
    spec, pixels = small(groups), images(6)
    tensors = there.drawn(file_shapes(spec))
    assert tensors["conv2.weight"].shape == (6, 4 // groups, 3, 3)
    found = there.answers(spec, fitted(spec, tensors).tensors, pixels, "fc1").reshape(2, 5)
    wanted = small_there(planes(pixels, (1, 2, 3), (50, 60, 70)), tensors, groups)
    assert np.abs(found - wanted).max() < 1e-5
    back = torch_tensors(spec, fitted(spec, tensors).tensors)
    assert all(np.array_equal(back[name], value) for name, value in tensors.items())


def test_channels_and_pixels_are_those_of_the_weights_training() -> None:
    """Caffe's are BGR from 0 to 255 minus 104, 117, 123; torchvision's RGB with its mean and deviation."""
    spec = nets.build("squeezenet-1.0")
    for whose, pixels in ((0, (MEAN, DEVIATION)), *((i, ((123, 117, 104), (1, 1, 1))) for i in (1, 2))):
        tensors = there.drawn(file_shapes(spec, whose))
        found = fitted(spec, tensors)
        image = found.spec.input
        assert (image.mean, image.deviation, image.scale) == (*pixels, 1.0)
        first = next(iter(tensors.values())).transpose(0, 2, 3, 1)
        assert np.array_equal(found.tensors["conv1.weight"], first[..., ::-1] if whose else first)
    for name in ("efficientnet-lite0", "googlenet-bn", "resnet18"):
        spec = nets.build(name)
        assert fitted(spec, there.drawn(file_shapes(spec))).spec.input == spec.input
    # What the user says comes first, and exchanging channels is exact.
    spec, pixels = small(), images(6)
    tensors = there.drawn(file_shapes(spec))
    found = fitted(spec, tensors, mean=(9, 8, 7), bgr=True)
    assert found.spec.input.mean == (9, 8, 7) and found.spec.input.deviation == (1, 1, 1)
    bgr = planes(pixels[..., ::-1], (7, 8, 9))
    answer = there.answers(found.spec, found.tensors, pixels, "fc1").reshape(2, 5)
    assert np.abs(answer - small_there(bgr, tensors)).max() < 1e-3


def test_224_pixels_with_zeros_behind_are_227() -> None:
    """Ceil over 224 and floor over 227 have the same 55 windows, and the same answers."""
    assert (
        shapes(nets.build("alexnet"))["conv1"][:2] == shapes(nets.build("caffenet"))["conv1"][:2] == (55, 55)
    )
    kept: dict[str, Any] = {"scale": 1.0, "mean": (0, 0, 0)}
    ceil = cc.image(16, 16, 3, **kept).conv(4, 11, 4, rounding="ceil").fc(2).softmax(name="a")
    floor = cc.image(19, 19, 3, **kept).conv(4, 11, 4).fc(2).softmax(name="a")
    tensors, pixels = there.drawn(file_shapes(ceil)), images(16)
    behind = np.pad(pixels, ((0, 0), (0, 3), (0, 3), (0, 0)))
    one, other = (
        there.answers(spec, fitted(spec, tensors).tensors, own, "fc1")
        for spec, own in ((ceil, pixels), (floor, behind))
    )
    assert np.array_equal(one, other)


def test_resnets_have_their_stride_in_the_3x3_convolution() -> None:
    """As torchvision's; the paper's and Caffe's have it in the 1x1, with the same parameters."""
    own, papers = nets.build("resnet50"), nets.resnet.build(stride_in="1x1")  # type: ignore[attr-defined]
    assert file_shapes(own) == file_shapes(papers)
    for spec, first, second in ((own, 1, 2), (papers, 2, 1)):
        strides = {layer.name: layer.stride for layer in spec.layers if isinstance(layer, ConvSpec)}
        assert strides["layer2_0_conv1"] == (first, first) and strides["layer2_0_conv2"] == (second, second)


def test_googlenet_is_torchvisions() -> None:
    """Its branch of 5x5 windows has 3x3 ones, its heads are in order, and pixels are in -1 ... 1."""
    spec = nets.build("googlenet-bn")
    sizes = file_shapes(spec)
    assert sizes["inception3a.branch3.1.conv.weight"] == (32, 16, 3, 3)
    assert sizes["inception3a.branch2.1.conv.weight"] == (128, 96, 3, 3)
    # Behind modules 4a and 4d.
    assert sizes["aux1.conv.conv.weight"] == (128, 512, 1, 1) and sizes["aux2.conv.conv.weight"] == (
        128,
        528,
        1,
        1,
    )
    names = {name: layer for layer, name in namings(spec)[0].names.items()}
    layers = {layer.name: layer for layer in spec.layers}
    for head, module in (("aux1", "inception_4a"), ("aux2", "inception_4d")):
        pool = layers[layers[names[f"{head}.conv.conv"]].inputs[0]]
        assert pool.inputs == (module,)
    tensors = there.drawn(sizes)
    found = fitted(spec, tensors)
    assert found.spec.input.mean == found.spec.input.deviation == (127.5, 127.5, 127.5)
    # The published file has no heads; they stay as they are, since only training needs them.
    found = fitted(spec, {name: one for name, one in tensors.items() if not name.startswith("aux")})
    assert len(found.tensors) == len(tensors) - 18 and "fc2" in found.notes[-1]
    assert set(found.tensors) >= {p.name for p in parts(spec) if p.layer not in spec.train_only}


def test_torchvisions_alexnet_is_not_the_papers() -> None:
    owt = nets.build("alexnet-owt")
    filters = [layer.filters for layer in owt.layers if isinstance(layer, ConvSpec)]
    assert filters == [64, 192, 384, 256, 256]
    kinds = [type(layer) for layer in owt.layers if isinstance(layer, FcSpec | DropoutSpec)]
    assert kinds == [DropoutSpec, FcSpec, DropoutSpec, FcSpec, FcSpec]
    tensors = {name: np.zeros(shape, np.float32) for name, shape in file_shapes(owt).items()}
    assert set(fitted(owt, tensors).tensors) == {part.name for part in parts(owt)}
    for name in ("alexnet", "caffenet"):
        with pytest.raises(
            CheckpointError, match=f"a.pth has no tensor of {name}: features.0.weight, .* there"
        ):
            fitted(nets.build(name), tensors)
    wide = {name.replace("features.0", "features.1"): one for name, one in tensors.items()}
    with pytest.raises(
        CheckpointError, match=r"a\.pth has no features\.0\.weight, which should be 64x3x11x11"
    ):
        fitted(owt, wide)


def test_momentum_holds_the_rate() -> None:
    """Here v = m v - lr g, as in Caffe; PyTorch's buffer lacks the rate, which shows once that changes."""
    spec, momentum = cc.image(2, 2, 1, mean=(0,)).fc(2, weight_decay=0.0).softmax(name="a"), 0.9
    network = Network(spec, batch=3, devices="cpu:0", needs=None)
    first = there.drawn(file_shapes(spec))["fc1.weight"]
    network.parameters["fc1.weight"].fill(
        "value", fitted(spec, there.drawn(file_shapes(spec))).tensors["fc1.weight"]
    )
    ours = theirs = first.astype(np.float64)
    v = buffer = np.zeros(first.shape)
    for rates, equal in (((0.01, 0.01, 0.01), True), ((0.001,), False)):
        for lr in rates:
            network.load(images(2, 1, 3) // 64, np.array([0, 1, 1]))
            network.forward(train=True)
            network.backward()
            gradient = network.parameters["fc1.weight"].host("gradient").astype(np.float64)
            network.update(lr, momentum)
            v, buffer = momentum * v - lr * gradient, momentum * buffer + gradient
            ours, theirs = ours + v, theirs - lr * buffer
        state = network.state()
        assert np.abs(state["fc1.weight"] - ours).max() < 1e-6
        assert np.abs(state["fc1.weight.velocity"] - v).max() < 1e-6
        assert (np.abs(ours - theirs).max() < 1e-6) == (np.abs(v + lr * buffer).max() < 1e-6) == equal


def test_squeezenets_last_convolution_has_a_border_in_caffe_alone() -> None:
    spec = nets.build("squeezenet-1.0")
    for whose, padding, side, windows in ((0, (0, 0), 224, 13), (1, (1, 1), 227, 15), (2, (1, 1), 227, 15)):
        found = fitted(spec, there.drawn(file_shapes(spec, whose)))
        last = next(layer for layer in found.spec.layers if layer.name == "conv10")
        assert isinstance(last, ConvSpec) and last.padding == padding and found.spec.input.height == side
        assert shapes(found.spec)["conv10"] == (windows, windows, 1000)
        assert any("conv10 has no padding" in note for note in found.notes) == (whose == 0)


def test_dropout_of_2012_is_part_of_the_weights_elsewhere() -> None:
    """It multiplies at test time here; other programs divide in training, and only pass on at test time."""

    def net(inverted: bool) -> NetSpec:
        x = cc.image(6, 6, 3, mean=(0, 0, 0), scale=1 / 64).conv(4, 3).relu().dropout(0.25, inverted=inverted)
        return x.maxpool(2).fc(3).dropout(0.5, inverted=inverted).fc(2).softmax(name="a")

    old, new = net(False), net(True)
    tensors, pixels = there.drawn(file_shapes(old)), images(6)
    ours = fitted(old, tensors).tensors
    assert np.array_equal(ours["fc1.weight"], fitted(new, tensors).tensors["fc1.weight"] / np.float32(0.75))
    assert np.array_equal(torch_tensors(old, ours)["fc2.weight"], tensors["fc2.weight"])
    one, other = (
        there.answers(old, ours, pixels, "fc2"),
        there.answers(new, fitted(new, tensors).tensors, pixels, "fc2"),
    )
    assert np.abs(one - other).max() < 1e-5
    x = cc.image(6, 6, 3).conv(3, 3, pad=1)
    summed = (x.dropout(0.5) + x).fc(2).softmax(name="a")
    with pytest.raises(ValueError, match=r"layer sum1 reads dropout .*dropout1.*inverted=True"):
        torch_tensors(summed, {part.name: np.zeros(part.shape, np.float32) for part in parts(summed)})


@pytest.mark.parametrize("side", [256, 128, 112, 100])
def test_padding_of_tensorflow_is_below_and_right(side: int) -> None:
    """Its SAME has ceil(size / stride) windows, and of odd numbers of zeros one more behind than before."""
    spec = nets.build("efficientnet-lite0", (side, side, 3))
    sizes = shapes(spec)
    for layer in spec.layers:
        if isinstance(layer, ConvSpec):
            size, (stride, _), (window, _) = sizes[layer.inputs[0]][0], layer.stride, layer.window
            assert sizes[layer.name][0] == -(-size // stride)
            zeros = max(0, (sizes[layer.name][0] - 1) * stride + window - size)
            pad = layer.padding[0]
            before, behind = (pad, pad) if isinstance(pad, int) else pad
            assert (before, behind) == (zeros // 2, zeros - zeros // 2), layer.name


def test_what_differs_is_named() -> None:
    """File, tensor, layer and both shapes; a layer that is named in `leave` may differ."""
    spec = nets.build("vgg11", (64, 64, 3))
    tensors = {name: np.zeros(shape, np.float32) for name, shape in file_shapes(spec).items()}
    other = nets.build("vgg11", (64, 64, 3), 7)
    with pytest.raises(
        CheckpointError,
        match=r"a\.pth: classifier\.6\.weight, of layer fc8, is 1000x4096 there and 7x4096 here; --except ",
    ):
        fitted(other, tensors)
    for leave in (["fc8"], ["classifier.6"], ["fc?"], ["fc6", "fc7", "fc8"]):
        found = fitted(other, tensors, leave=leave)
        assert "fc8.weight" not in found.tensors and "conv1_1.bias" in found.tensors
        assert any("at their first values: " in note and "fc8" in note for note in found.notes)
    with pytest.raises(ValueError, match=r"--except: a layer must be one of .*did you mean 'fc8'"):
        fitted(other, tensors, leave=["fc9"])
    missing = {name: one for name, one in tensors.items() if name != "features.3.bias"}
    with pytest.raises(
        CheckpointError, match=r"a\.pth has no features\.3\.bias, which should be 128; --except conv2_1"
    ):
        fitted(spec, missing)
    more = {**tensors, "features.99.weight": np.zeros((2, 3), np.float32)}
    with pytest.raises(
        CheckpointError, match=r"a\.pth: features\.99\.weight of 2x3 belongs to no layer of vgg11"
    ):
        fitted(spec, more)
    assert fitted(spec, more, leave=["features.99"]).tensors
    for value, what in ((np.nan, "not finite"), (np.inf, "not finite")):
        bad = {**tensors, "features.0.bias": np.full(64, value, np.float32)}
        with pytest.raises(
            CheckpointError, match=rf"features\.0\.bias, of layer conv1_1, contains values .*{what}"
        ):
            fitted(spec, bad)
    whole = {**tensors, "features.0.bias": np.zeros(64, np.int64)}
    with pytest.raises(CheckpointError, match=r"features\.0\.bias, of layer conv1_1, is of int64"):
        fitted(spec, whole)
    with pytest.raises(ValueError, match="--deviation goes with --mean"):
        x = cc.image(6, 6, 3).fc(2).softmax(name="a")
        fitted(x, there.drawn(file_shapes(x)), deviation=(1, 1, 1))
