"""A classifier's weights in a network that answers for each pixel, and those of one FCN in the next."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cconvnet as cc
from cconvnet import nets
from cconvnet.errors import CheckpointError
from cconvnet.formats.layer_names import Pixels
from cconvnet.formats.weights import Weights, fit, misfits, read_weights, write_weights
from cconvnet.nets.dense import dense
from cconvnet.nets.transform import scaled
from cconvnet.network import Network
from cconvnet.training.imported import weights_of

Array = np.ndarray[Any, Any]


def blocks(height: int, width: int) -> cc.nets.Value:
    """Return what a small VGG and its FCN share: the pooled output of two blocks."""
    x = cc.image(height, width, 3, mean=(120, 110, 100), scale=1 / 58)
    for number, filters in enumerate((6, 10), 1):
        x = x.conv(filters, 3, pad=1, name=f"conv{number}_1").relu()
        x = x.conv(filters, 3, pad=1, name=f"conv{number}_2").relu().maxpool(2)
    return x


def classifier() -> cc.NetSpec:
    x = blocks(24, 20).fc(16, name="fc6").relu().dropout(0.5, inverted=True)
    x = x.fc(14, name="fc7").relu().dropout(0.5, inverted=True)
    return x.fc(5, name="fc8").softmax("small-vgg")


def fully_convolutional(height: int, width: int) -> cc.NetSpec:
    """Return the FCN; its last layer has the classifier's name, and the window of fc6 is what fc6 reads."""
    x = blocks(height, width).conv(16, (6, 5), name="fc6").relu()
    x = x.conv(14, 1, name="fc7").relu().conv(5, 1, name="fc8")
    return x.softmax("small-fcn", per_pixel=True)


def scores(spec: cc.NetSpec, state: dict[str, Array], images: Array, layer: str) -> Array:
    network = Network(spec, batch=len(images), devices="cpu:0", needs="forward")
    network.load_state(network.state() | state)
    network.load(images, np.zeros((len(images), *network.outputs(layer).shape[1:3]), np.int32))
    network.forward(train=False)
    return network.outputs(layer)


@pytest.mark.parametrize("form", ["torch", "safetensors", "run"])
def test_an_fcn_has_the_scores_of_the_classifiers_dense_form(tmp_path: Path, form: str) -> None:
    """Matrices are [K, C * H * W] in other programs' files and [K, H * W * C] in runs."""
    spec = classifier()
    state = Network(spec, batch=1, devices="cpu:0", seed=3).state()
    state |= {name: np.full_like(value, 0.1) for name, value in state.items() if name.endswith(".bias")}
    if form == "run":
        weights = weights_in(tmp_path, state, spec)
    else:
        file = tmp_path / f"weights.{form}"
        write_weights(file, form, spec, state)
        weights = read_weights(file)
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 44, 3), np.uint8)
    whole = dense(spec, (40, 44))
    fitted = fit(weights, fully_convolutional(40, 44))
    wanted = scores(whole, fit(weights, whole).tensors, images, "fc8")
    found = scores(fitted.spec, fitted.tensors, images, "fc8")
    assert found.shape == (2, 5, 7, 5) and found.std() > 0.01
    assert np.abs(found - wanted).max() <= 1e-5
    # The classifier itself agrees at a place whose windows touch no border but its own.
    network = Network(spec, batch=2, devices="cpu:0")
    network.load_state(state)
    assert np.abs(scores(whole, network.dense((40, 44)).state(), images, "fc8") - wanted).max() <= 1e-6
    reshaped = next(note for note in fitted.notes if note.startswith("fully connected there"))
    assert "fc6 (16x300 to 16x" in reshaped and "fc8 (5x14 to 5x" in reshaped
    with pytest.raises(CheckpointError, match=r"fc6\.weight is 16x300 there and 16x.* here; --except fc6"):
        fit(weights, blocks(40, 44).conv(16, (5, 5), name="fc6").softmax("other", per_pixel=True))


def weights_in(
    path: Path, state: dict[str, Array], spec: cc.NetSpec, pixels: Pixels | None = None
) -> Weights:
    """Return the weights of a run with this state."""
    return Weights(path, {k: v for k, v in state.items() if not k.endswith(".velocity")}, spec, pixels)


def tiny(name: str, classes: int, side: int = 64) -> cc.NetSpec:
    return scaled(nets.build(name, (side, side, 3), classes), width=1 / 16)


def state_of(spec: cc.NetSpec, seed: int) -> dict[str, Array]:
    """Return random weights, of which none are zero."""
    draws = np.random.default_rng(seed)
    state = Network(spec, batch=1, devices="cpu:0").state()
    return {name: draws.normal(0, 0.1, value.shape).astype(np.float32) for name, value in state.items()}


@pytest.mark.parametrize("form", ["torch", "run"])
def test_fcns_begin_with_vgg_16_and_with_each_other(tmp_path: Path, form: str) -> None:
    vgg = tiny("vgg16", 9, 256)
    state = state_of(vgg, 1)
    weights = weights_in(tmp_path, state, vgg)
    if form == "torch":
        write_weights(tmp_path / "vgg16.pth", "torch", vgg, state)
        weights = read_weights(tmp_path / "vgg16.pth")
        assert "classifier.0.weight" in weights.tensors
    assert misfits(weights, tiny("fcn32s", 4)) == {}  # --except auto leaves out none of them
    first = fit(weights, tiny("fcn32s", 4))
    last = "classifier.6" if form == "torch" else "fc8"
    assert first.notes[-2:] == [
        f"the classifier's last layer is not used: {last}",
        "at their first values: score32, up",
    ]
    assert "fc6 (256x1568 to 256x" in first.notes[-3] and "fc7" in first.notes[-3]
    k, c = 256, 32
    assert (first.tensors["fc6.weight"] == state["fc6.weight"].reshape(k, 7, 7, c)).all()
    assert (first.tensors["conv5_3.weight"] == state["conv5_3.weight"]).all()

    for before, name, new in (
        ("fcn32s", "fcn16s", "score16, up, up16"),
        ("fcn16s", "fcn8s", "score8, up, up8"),
    ):
        spec, next_one = tiny(before, 4), tiny(name, 4)
        own = state_of(spec, 2)
        given = weights_in(tmp_path, own, spec)
        fitted = fit(given, next_one)
        assert fitted.notes == [f"at their first values: {new}"]
        network = Network(fitted.spec, batch=1, devices="cpu:0")
        begun = network.state() | fitted.tensors
        assert (begun[f"{new.split(', ')[0]}.weight"] == 0).all()
        assert (begun["score32.weight"] == own["score32.weight"]).all()
        for layer in ("up", new.split(", ")[-1]):
            assert begun[f"{layer}.weight"].sum(axis=(1, 2)).max() > 1  # an interpolation
        with pytest.raises(CheckpointError, match=r"score8|score16"):
            fit(weights_in(tmp_path, begun, next_one), spec)


def test_other_classes_of_scores_are_refused_with_the_way_out(tmp_path: Path) -> None:
    spec = tiny("fcn32s", 4)
    weights = weights_in(tmp_path, state_of(spec, 0), spec)
    with pytest.raises(
        CheckpointError, match=r"score32\.weight is 4x1x1x256 there and 3x1x1x256 here; --exc"
    ):
        fit(weights, tiny("fcn16s", 3))
    assert "score32" in fit(weights, tiny("fcn16s", 3), ["score32"]).notes[-1]
    lacking = {name: value for name, value in weights.tensors.items() if name != "fc7.weight"}
    with pytest.raises(CheckpointError, match=r"has no fc7\.weight"):
        fit(dataclasses.replace(weights, tensors=lacking), tiny("fcn16s", 4))


def test_the_files_pixels_are_kept_where_the_network_has_its_own(tmp_path: Path) -> None:
    """As Caffe's VGG-16 was trained: minus the mean, over nothing."""
    spec = tiny("fcn32s", 4)
    tensors = state_of(spec, 0)
    caffe = Pixels((123.0, 117.0, 104.0), (1.0, 1.0, 1.0), bgr=True)
    fitted = fit(weights_in(tmp_path, tensors, spec, caffe), spec)
    assert fitted.spec.input.mean == caffe.mean and fitted.spec.input.deviation == caffe.deviation
    assert (fitted.tensors["conv1_1.weight"] == tensors["conv1_1.weight"][..., ::-1]).all()


def test_a_run_begins_with_a_classifiers(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    x = draws.integers(0, 256, (12, 24, 20, 3), np.uint8)
    given: dict[str, Any] = {"epochs": 1, "batch": 4, "lr": 0.001, "quiet": True}
    first = cc.train(classifier(), (x, np.arange(12) % 5), test=0.4, out=tmp_path / "first", **given)
    y = draws.integers(0, 3, (12, 24, 20))
    up: dict[str, Any] = {"bias": None, "init": "bilinear", "lr_scale": 0, "name": "up"}
    value = blocks(24, 20).conv(16, (6, 5), pad=((3, 2), 2), name="fc6").relu().conv(14, 1, name="fc7").relu()
    net = value.conv(3, 1, init=0, name="score").deconv(3, 8, 4, pad=2, **up).softmax("f", per_pixel=True)
    run = cc.train(net, (x, y), test=0.25, weights=first.path, out=tmp_path / "fcn", freeze="fc6", **given)
    own, began = first.network().state(), run.network().state()
    assert (began["fc6.weight"].ravel() == own["fc6.weight"].ravel()).all()
    assert weights_of(run.path).tensors["fc6.weight"].shape == (16, 6, 5, 10)
