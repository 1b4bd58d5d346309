"""Networks at every place of larger images: their answers are those of sliding windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cconvnet as cc
from cconvnet.devices import Device
from cconvnet.evaluate import load_trained, mean_probabilities, views_of
from cconvnet.nets import DropoutSpec, FcSpec, NetSpec, PoolSpec, build
from cconvnet.nets.dense import dense, sides_taken
from cconvnet.nets.fine import at_every_offset
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


def branches() -> NetSpec:
    """Return branches, normalisation, groups and a mean behind an overlapping pooling with another stride."""
    x = cc.image(30, 26, 3, stored=(40, 48)).conv(8, 3).relu().maxpool(2)
    x = x.conv(8, 3).relu().avgpool((3, 2), (3, 2)).lrn(3, 0.5)
    left = x.conv(6, (2, 3), groups=2, name="left").relu().bn()
    right = x.conv(6, 2, name="right").relu().avgpool((1, 2), 1)
    y = cc.concat(left + right, left.select([0, None, 3]))
    ends = y.mean(), y.fc(4, also=left.conv(3, 1))
    return cc.concat(*ends).dropout(0.5).fc(5).softmax("branches")


FINE: dict[str, tuple[NetSpec, tuple[int, int], tuple[int, int]]] = {
    # The closer places, two pixels apart, and the stride of the last pooling.
    "vgg": (small_vgg(), (7, 13), (2, 2)),
    "mean": (small_vgg(True), (7, 13), (2, 2)),
    "branches": (branches(), (6, 12), (3, 2)),
}


@pytest.mark.parametrize("name", FINE)
def test_fine_answers_are_those_of_sliding_windows(device: Device, name: str) -> None:
    spec, places, stride = FINE[name]
    network = Network(spec, batch=2, devices=device, seed=3)
    draws = np.random.default_rng(1)
    state = {
        name: value + np.float32(0.2) * draws.random(value.shape, np.float32) if ".bias" in name else value
        for name, value in network.state().items()
    }
    network.load_state(state)
    images = picture()
    larger = network.dense(fine=True)
    larger.load(images, np.zeros((2, *places), np.int32))
    larger.forward(train=False)
    found = larger.outputs("cost")
    assert found.shape == (2, *places, 5)
    for i, j in np.ndindex(*places):
        network.load(images, np.zeros(2, np.int32), np.full(2, 2 * i), np.full(2, 2 * j))
        network.forward(train=False)
        assert np.abs(network.outputs("cost") - found[:, i, j]).max() <= 1e-5
    assert found.std((1, 2)).max() > 1e-3
    # Every stride-th place is one of the network without closer places.
    coarse, every = network.dense(), found[:, :: stride[0], :: stride[1]]
    coarse.load(images, np.zeros(every.shape[:3], np.int32))
    coarse.forward(train=False)
    assert np.abs(every - coarse.outputs("cost")).max() <= 1e-5


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "overfeat-fast", "googlenet", "resnet18", "nin"])
def test_landmarks_at_larger_images(name: str) -> None:
    spec = build(name)
    whole = dense(spec, (320, 384))
    h, w, classes = shapes(whole)[whole.answer.inputs[0]]
    assert h > 1 and w > h and classes == 1000 and len(whole.costs) == 1
    assert not any(isinstance(layer, FcSpec) for layer in whole.layers)
    assert sum(isinstance(layer, DropoutSpec) for layer in whole.layers) <= 2


@pytest.mark.parametrize(
    "name", ["alexnet", "vgg16", "overfeat-fast", "zfnet", "nin", "squeezenet-1.0", "lenet"]
)
def test_landmarks_at_closer_places(name: str) -> None:
    spec = build(name)
    size = spec.input.height + 64
    coarse, closer = (dense(spec, (size, size), fine) for fine in (False, True))
    (rows, *_), (more, _, classes) = (shapes(one)[one.answer.inputs[0]] for one in (coarse, closer))
    pool = [layer for layer in coarse.layers if isinstance(layer, PoolSpec) and layer.stride != (1, 1)][-1]
    assert (rows - 1) * pool.stride[0] < more <= rows * pool.stride[0] and classes == spec.classes
    kept = {layer.name: layer for layer in closer.layers}
    assert kept[pool.name].stride == (1, 1) and [*kept] == [layer.name for layer in coarse.layers]


def test_a_last_window_that_is_clipped_begins_at_every_offset() -> None:
    x = cc.image(9, 9, 1).conv(2, 3)
    for rounding, outputs in (("ceil", None), ("floor", (4, 3))):
        spec = x.maxpool(3, 2, rounding=rounding, outputs=outputs).conv(3, 1).softmax(per_pixel=True)
        (pool,) = (layer for layer in at_every_offset(spec).layers if isinstance(layer, PoolSpec))
        assert (pool.stride, pool.outputs) == ((1, 1), (5, 5) if outputs is None else (7, 5))


def test_what_cannot_begin_at_every_offset_is_refused() -> None:
    x = cc.image(24, 24)
    y = x.conv(4, 3, pad=1).maxpool(2)
    for values, text in (
        (x.conv(4, 3).mean(), "own has no pooling with a stride that could begin at every offset"),
        (y.conv(4, 3, 2), "layer conv2: it has a stride, so that .* but it follows pool1, the last pooling"),
        (y.maxpool(3, 1, 1), "layer pool2: its windows cannot have gaps, as those of a pool layer, but it"),
        (y.lrn(3, region="same_map"), "layer lrn1: its windows cannot have gaps, as those of a lrn layer"),
        (y.avgpool(3, 1, 1), "layer pool2: it is a mean with padding or a number of windows of its own, but"),
        (y + x.conv(4, 2, 2), "layer sum1: it reads conv2, which is not behind pool1, the last pooling with"),
    ):
        with pytest.raises(ValueError, match=text):
            dense(values.fc(3).softmax("own"), (32, 32), fine=True)
    for name, text in (
        ("resnet18", "layer layer2.*: it has a stride"),
        ("googlenet", "windows cannot have gaps"),
    ):
        with pytest.raises(ValueError, match=text):
            dense(build(name), (320, 320), fine=True)
    with pytest.raises(ValueError, match="dense must be True, False or 'fine', not 'finer'"):
        load_trained(Path("runs/none"), dense="finer")


def test_what_has_no_dense_form_is_refused() -> None:
    x = cc.image(8, 8)
    for spec, text in (
        (x.local(4, 3).fc(3).softmax(), "layer local1: its weights or codes belong to places of one size"),
        (x.conv(3, 3, shared_bias=False).fc(3).softmax(), "layer conv1: its weights or codes belong to"),
        (x.fc(3).softmax(per_pixel=True), "layer fc1: its weights belong to places of one size"),
        (x.conv(3, 3).softmax(per_pixel=True), "answers for 14x14 pixels of images of 16x16"),
    ):
        with pytest.raises(ValueError, match=text):
            dense(spec, (16, 16))
    with pytest.raises(ValueError, match="a dense network needs images of at least 28x24, not 20x40"):
        dense(small_vgg(), (20, 40))


def test_a_network_for_pixels_takes_the_sides_that_its_poolings_divide() -> None:
    x = cc.image(16, 24, 3).conv(4, 3, pad=1).maxpool(2).conv(4, 3, pad=1).maxpool(2)
    spec = x.deconv(4, 8, 4, pad=2).conv(3, 1).softmax(per_pixel=True)
    assert sides_taken(spec, (37, 52)) == (40, 52) and sides_taken(spec, (3, 1)) == (4, 4)
    assert dense(spec, (40, 8)).stored == (40, 8)
    assert sides_taken(build("fcn8s"), (500, 375)) == (512, 384)
    with pytest.raises(ValueError, match="takes images of 8x8 alone: layer fc1: its weights belong"):
        sides_taken(cc.image(8, 8).fc(3).softmax(per_pixel=True), (8, 9))


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
    several = [run.predict(x[:1], dense=dense).probabilities for dense in (True, False, "fine")]
    assert not np.array_equal(*several[:2]) and not np.array_equal(several[0], several[2])
    assert all(abs(one.sum() - 1) < 1e-5 for one in several)
    assert run.evaluate(dense="fine", quiet=True).error_top1 <= found.error_top1 + 0.1
