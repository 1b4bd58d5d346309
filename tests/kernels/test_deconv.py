"""Transposed convolutions: their formula and gradients, their first weights, and what they refuse."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_networks import batch_of

import cconvnet as cc
from cconvnet.bench.cases import cases
from cconvnet.devices import Device
from cconvnet.formats import cuda_convnet_writer, layouts
from cconvnet.formats.ini import ConfigError
from cconvnet.nets import DeconvSpec, NetSpec, compare, receptive, spec_from_dict, spec_to_dict
from cconvnet.nets.shapes import parameters, shapes
from cconvnet.nets.transform import scaled, towers
from cconvnet.network import Network
from cconvnet.network.gradcheck import gradcheck

Array = np.ndarray[Any, Any]

FORMS: dict[str, dict[str, Any]] = {
    "doubling": {"window": 4, "stride": 2, "pad": 1},
    "overlapping": {"window": (5, 3), "stride": (2, 1), "pad": ((0, 2), 1)},
    "larger": {"window": 3, "stride": 3, "pad": (1, (1, 0)), "size": (15, 15)},
    "apart": {"window": 2, "stride": 3},
    "groups": {"window": 3, "stride": 2, "pad": 1, "size": (10, 9), "groups": 2},
}


def spread(x: Array, w: Array, y: Array, stride: Any, pad: Any, groups: int) -> Array:
    """Add the product of each pixel with the weights [C,R,S,K/groups] to a window of y[N,H,W,K]."""
    (n, h, width, c), (_, r, s, k) = x.shape, w.shape
    full = np.zeros((n, 99, 99, y.shape[3]))
    own = c // groups
    for i in range(h):
        for j in range(width):
            for g in range(groups):
                part = x[:, i, j, g * own : (g + 1) * own]
                products = np.einsum("nc,crsk->nrsk", part, w[g * own : (g + 1) * own])
                top, left = i * stride[0], j * stride[1]
                full[:, top : top + r, left : left + s, g * k : (g + 1) * k] += products
    top, left = (side if isinstance(side, int) else side[0] for side in pad)
    y[...] = full[:, top : top + y.shape[1], left : left + y.shape[2]]
    return y


def integers(form: dict[str, Any]) -> NetSpec:
    x = cc.image(5, 5, 4, scale=1, mean=(2,) * 4).conv(4, 1, bias=None, name="first")
    return x.deconv(6, **form, name="deconv", bias=1.0).l2(name="exact")


@pytest.mark.parametrize("form", FORMS)
def test_exact_on_integers(device: Device, precision: str, form: str) -> None:
    """Forward, and the gradients of weights, bias and input: linear, so that moving one by one gives them."""
    spec, draws = integers(FORMS[form]), np.random.default_rng(0)
    layer = next(layer for layer in spec.layers if isinstance(layer, DeconvSpec))
    h, w, _ = shapes(spec)["deconv"]
    images = draws.integers(0, 5, (2, 5, 5, 4), np.uint8)
    targets = draws.integers(-2, 3, (2, h, w, 6)).astype(np.float32)
    network = Network(spec, batch=2, devices=device, precision=precision)
    values = {
        "first.weight": np.eye(4, dtype=np.float32).reshape(4, 1, 1, 4),
        "deconv.weight": draws.integers(-1, 2, network.parameters["deconv.weight"].shape),
    }
    for name, value in values.items():
        network.parameters[name].fill("value", value.astype(np.float32))
    network.load(images, targets={"cost": targets})
    network.forward(train=True)
    network.backward()

    x, own = images.astype(float) - 2, values["deconv.weight"].astype(float)
    how = layer.stride, layer.padding, layer.groups
    right = spread(x, own, np.zeros((2, h, w, 6)), *how) + 1
    assert (network.outputs("deconv") == right).all() and np.mean(right != 1) > 0.25
    # Half the squared distance, and the mean of two images.
    dy, empty = (right - targets) / 2, np.zeros((2, h, w, 6))

    def slope(moved: Array, by_weight: bool) -> float:
        """The change of the loss with the weights, or with the input, in one direction."""
        along = spread(x, moved, empty, *how) if by_weight else spread(moved, own, empty, *how)
        return float((along * dy).sum())

    gradient = network.parameters["deconv.weight"].host("gradient")
    ones = np.eye(own.size).reshape(own.size, *own.shape)
    picked = draws.choice(own.size, 12, replace=False)
    assert [gradient.reshape(-1)[index] for index in picked] == [slope(ones[index], True) for index in picked]
    assert (network.parameters["deconv.bias"].host("gradient") == dy.sum((0, 1, 2))).all()
    # The first layer's weight [k, c] multiplies channel c of the images into channel k of the input.
    first = network.parameters["first.weight"].host("gradient")
    for k, c in ((0, 0), (1, 3), (3, 2)):
        moved = np.zeros_like(x)
        moved[..., k] = x[..., c]
        assert first[k, 0, 0, c] == slope(moved, False)


def decoder() -> NetSpec:
    """Return a network with ReLUs, another function, two inputs, and a dropout behind a product."""
    x = cc.image(5, 6, 3).conv(4, 3, pad=1).relu()
    y = x.deconv(6, 4, 2, pad=1, size=(11, 12), groups=2).relu().dropout(0.3)
    z = x.deconv(6, 3, 2, size=(11, 12), pad=((0, 1), 1), bias=None).tanh()
    both = y.deconv(4, 2, also=z).relu()
    return both.maxpool(2).fc(4).softmax("decoder")


@pytest.mark.parametrize("devices", [["cpu:0"], ["emulator:0"]])
def test_gradients(devices: list[str]) -> None:
    report = gradcheck(decoder(), devices)
    assert report.ok, report.failures


def test_towers_may_be_read() -> None:
    """The channels of both are the input's, with weights for each."""
    x = cc.image(6, 6, 3).conv(4, 3, split=True).relu()
    spec = x.deconv(4, 2, 2, device=0, init="bilinear").fc(3).softmax("towers")
    report = gradcheck(spec, ["cpu:0", "cpu:1"])
    assert report.ok, report.failures
    apart = towers(spec, 2)
    assert parameters(apart)["deconv1"] == parameters(spec)["deconv1"] == 4 * 2 * 2 * 4 + 4


def test_it_learns_the_same_fused_or_not() -> None:
    states = []
    for fuse in (True, False):
        network = Network(decoder(), batch=4, devices="cpu:0", seed=1, fuse=fuse)
        for step in range(3):
            network.load(**batch_of(network.spec, 4, step))
            network.train_step(step, 0.05, 0.9)
        states.append(network.state())
    for name, value in states[0].items():
        assert np.allclose(value, states[1][name], rtol=1e-4, atol=1e-6), name


def test_the_first_weights_interpolate() -> None:
    x = cc.image(4, 4, 3, scale=1, mean=(0, 0, 0))
    spec = x.deconv(3, 4, 2, pad=1, bias=None, init="bilinear", lr_scale=0).features("doubled")
    network = Network(spec, batch=1, devices="cpu:0")
    rows = np.add.outer(10 * np.arange(4), np.arange(4))
    images = np.stack([rows, 2 * rows, 50 - rows], 2)[None].astype(np.uint8)
    network.load(images)
    network.forward(train=False)
    got = network.outputs("deconv1")[0, 1:-1, 1:-1]
    places = (np.arange(1, 7) - 0.5) / 2
    doubled = np.add.outer(10 * places, places)
    assert np.allclose(got, np.stack([doubled, 2 * doubled, 50 - doubled], 2))


def test_what_does_not_fit_is_refused() -> None:
    x = cc.image(4, 4, 6)
    for values, text in (
        ({"size": 7}, r"layer deconv1: outputs must be from 8 to 9 along H, not 7; it reads 4x4x6"),
        ({"size": (9, 10)}, r"outputs must be from 8 to 9 along W, not 10"),
        ({"groups": 4}, r"layer deconv1: groups \(4\) must divide c \(6\)"),
        ({"groups": 3}, r"groups \(3\) must divide filters \(8\)"),
        ({"init": "bilinear"}, r"filters must be 6, as many as the channels that init=bilinear inter"),
        ({"split": True}, r"layer deconv1: a transposed convolution cannot be split"),
        ({"norm_limit": 1}, r"layer deconv1: a transposed convolution has no norm_limit"),
        ({"contrast_limits": (1, 2)}, r"contrast_limits are for convolutions, not for a deconv layer"),
    ):
        with pytest.raises(ValueError, match=text):
            x.deconv(8, 2, 2, **values)
    with pytest.raises(ValueError, match="layer conv1: init=bilinear is for transposed convolutions"):
        x.conv(8, 2, init="bilinear")


def test_cuda_convnets_files_have_no_layer_for_it(tmp_path: Path) -> None:
    spec = cc.image(4, 4).deconv(8, 2, 2).fc(4).softmax("grown")
    with pytest.raises(ConfigError, match="layer deconv1: the files have no transposed convolution"):
        cuda_convnet_writer.write(spec, tmp_path / "layers.cfg", tmp_path / "params.cfg")


def test_pytorch_has_its_weights_in_the_same_order_of_axes() -> None:
    (weight,) = (part for part in layouts.parts(decoder()) if part.name == "deconv1.weight")
    value = np.random.default_rng(0).standard_normal(weight.shape).astype(np.float32)
    assert (weight.shape, weight.there) == ((4, 4, 4, 3), (4, 3, 4, 4))  # 4 channels, 2 groups of 3 filters
    assert (weight.to_here(weight.to_there(value)) == value).all()


def test_fields_of_view_end_before_it() -> None:
    spec = decoder()
    assert receptive.fields(spec, "conv1")[0].last == 2
    with pytest.raises(ValueError, match="layer deconv1: outputs of a transposed convolution do not all see"):
        receptive.fields(spec, "deconv1")


def test_its_spec_is_plain_data() -> None:
    spec = decoder()
    assert spec_from_dict(spec_to_dict(spec)) == spec
    other = dataclasses.replace(spec.layers[1], filters=8)
    changed = dataclasses.replace(spec, layers=(spec.layers[0], other, *spec.layers[2:]))
    assert compare(spec, changed) == [["deconv1", "filters", "6", "8"]]
    row = spec.table().rows[1]
    assert (row.shape, row.parameters) == ((11, 12, 6), 4 * 4 * 4 * 3 + 6)
    assert row.multiply_adds == 5 * 6 * 4 * 4 * 4 * 3


def test_an_interpolation_keeps_the_classes_before_it() -> None:
    x = cc.image(8, 8).conv(16, 3, pad=1).relu().maxpool(2)
    x = x.conv(4, 1, name="score").deconv(4, 4, 2, pad=1, init="bilinear")
    found = scaled(x.softmax("scores", per_pixel=True), width=0.5, classes=3)
    assert [getattr(layer, "filters", 0) for layer in found.layers] == [8, 0, 3, 3, 0]
    assert shapes(found)["deconv1"] == (8, 8, 3)


def test_benchmarks_measure_the_convolution_whose_passes_it_is() -> None:
    spec = cc.image(6, 6).conv(4, 3).deconv(8, 3, 2).fc(4).softmax("grown")
    found = [case for case in cases(spec_to_dict(spec), 2) if case.layer == "deconv1"]
    assert [case.operation for case in found] == ["conv_fprop", "conv_dgrad", "conv_wgrad"]
    assert {(case.problem.x_shape, case.problem.y_shape) for case in found} == {((2, 9, 9, 8), (2, 4, 4, 4))}
