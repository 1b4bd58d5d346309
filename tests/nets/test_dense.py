"""Networks at every place of larger images: their answers are those of sliding windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cconvnet as cc
from cconvnet.devices import Device
from cconvnet.evaluate import mean_probabilities, views_of
from cconvnet.nets import DropoutSpec, FcSpec, NetSpec, build
from cconvnet.nets.dense import dense
from cconvnet.nets.shapes import shapes
from cconvnet.network import Network

Array = np.ndarray[Any, Any]


def small_vgg(mean: bool = False) -> NetSpec:
    """Return blocks of 3x3 convolutions without padding, with pooling, for images of 28 x 24."""
    x = cc.image(28, 24, 3, stored=(40, 48), mean=(120, 110, 100))
    for filters in (8, 12):
        x = x.conv(filters, 3).relu().conv(filters, 3).relu().maxpool(2)
    if mean:
        x = cc.concat(x.mean(), x.mean(name="again"))
        return x.fc(5).softmax("small-mean")
    both = x.fc(16).relu().dropout(0.5)
    return both.fc(16, also=x).relu().fc(5).softmax("small-vgg")


def picture(n: int = 2) -> Array:
    return np.random.default_rng(0).integers(0, 256, (n, 40, 48, 3), np.uint8)


@pytest.mark.parametrize("mean", [False, True])
def test_dense_answers_are_those_of_sliding_windows(device: Device, mean: bool) -> None:
    network = Network(small_vgg(mean), batch=2, devices=device, seed=3)
    images = picture()
    larger = network.dense()
    assert larger.spec.input.height == 40 and {layer.type for layer in larger.spec.layers}.isdisjoint({"fc"})
    rows, columns, _ = shapes(larger.spec)[larger.spec.answer.inputs[0]]
    assert (rows, columns) == ((40 - 28) // 4 + 1, (48 - 24) // 4 + 1)
    larger.load(images, np.zeros((2, rows, columns), np.int32))
    larger.forward(train=False)
    found = larger.outputs(larger.spec.answer.name)
    for i in range(rows):
        for j in range(columns):
            network.load(images, np.zeros(2, np.int32), np.full(2, 4 * i), np.full(2, 4 * j))
            network.forward(train=False)
            assert np.abs(network.outputs("cost") - found[:, i, j]).max() <= 1e-5
    assert found.std((1, 2)).max() > 1e-3
    (whole,) = views_of(larger.spec, "center")
    together = mean_probabilities(larger, images, [whole])
    assert np.allclose(together, found.mean((1, 2)))


def test_an_image_of_the_networks_size_has_one_place() -> None:
    """Weights of FC layers are filters in the same order of memory."""
    network = Network(small_vgg(), batch=2, devices="cpu:0", seed=3)
    network.set_mean(np.random.default_rng(1).normal(100, 9, (40, 48, 3)).astype(np.float32))
    same = network.dense((28, 24))
    images = picture()
    network.load(images, np.zeros(2, np.int32), np.zeros(2, int), np.zeros(2, int))
    same.load(np.ascontiguousarray(images[:, :28, :24]), np.zeros((2, 1, 1), np.int32))
    for own in (network, same):
        own.forward(train=False)
    assert np.abs(network.outputs("cost") - same.outputs("cost")[:, 0, 0]).max() <= 1e-6


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "overfeat-fast", "googlenet", "resnet18", "nin"])
def test_landmarks_at_larger_images(name: str) -> None:
    spec = build(name)
    whole = dense(spec, (320, 384))
    h, w, classes = shapes(whole)[whole.answer.inputs[0]]
    assert h > 1 and w > h and classes == 1000 and len(whole.costs) == 1
    assert not any(isinstance(layer, FcSpec) for layer in whole.layers)
    assert sum(isinstance(layer, DropoutSpec) for layer in whole.layers) <= 2


def test_what_has_no_dense_form_is_refused() -> None:
    x = cc.image(8, 8)
    for spec, text in (
        (x.local(4, 3).fc(3).softmax(), "layer local1: its weights or codes belong to places of one size"),
        (x.conv(3, 3, shared_bias=False).fc(3).softmax(), "layer conv1: its weights or codes belong to"),
        (x.conv(3, 1).softmax(per_pixel=True), "layer cost: the network classifies every pixel already"),
    ):
        with pytest.raises(ValueError, match=text):
            dense(spec, (16, 16))
    with pytest.raises(ValueError, match="a dense network needs images of at least 28x24, not 20x40"):
        dense(small_vgg(), (20, 40))


def test_a_run_evaluates_and_predicts_densely(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    y = np.arange(24) % 2
    x = draws.integers(0, 60, (24, 16, 16), np.uint8)
    x[y == 1, 4:12, 4:12] += 150
    spec = cc.image(12, 12, 1, stored=16).conv(4, 3).relu().maxpool(2).fc(2).softmax("bright")
    run = cc.train(spec, (x, y), test=0.5, epochs=8, batch=4, lr=0.01, out=tmp_path / "run", quiet=True)
    found = run.evaluate(dense=True, quiet=True)
    assert found.error_top1 <= run.evaluate(quiet=True).error_top1 + 0.1
    assert found.loss != run.evaluate(quiet=True).loss
    several = [run.predict(x[:1], dense=dense).probabilities for dense in (True, False)]
    assert not np.array_equal(*several) and abs(several[0].sum() - 1) < 1e-5
