"""Reasons, strongest patches, features and maps of small trained networks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.commands import refuse, succeed
from PIL import Image
from safetensors.numpy import load_file

import cconvnet as cc
from cconvnet.evaluate import Trained, load_trained, predict
from cconvnet.nets import NetSpec
from cconvnet.nets.receptive import fields
from cconvnet.seeing.features import features
from cconvnet.seeing.map import plane
from cconvnet.seeing.probe import Probe
from cconvnet.seeing.strongest import strongest
from cconvnet.seeing.why import why

Array = np.ndarray[Any, Any]

SIDE = 24


def pictures(count: int) -> tuple[Array, Array]:
    """Return noise with a bright square, red or green, at a random place, and its colour."""
    draws = np.random.default_rng(count)
    images = draws.integers(0, 60, (count, SIDE, SIDE, 3)).astype(np.uint8)
    labels = np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        row, column = draws.integers(0, SIDE - 6, 2)
        image[row : row + 6, column : column + 6, label] = 230
    return images, labels


def small() -> NetSpec:
    x = cc.image(SIDE, SIDE, 3).conv(8, 3, pad=1, bias=None).bn().relu().maxpool(2)
    return x.conv(8, 3, pad=1).relu().maxpool(2).fc(2).softmax("squares")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seeing") / "run"
    images, labels = pictures(400)
    cc.train(
        small(), (images, labels), out=path, epochs=3, lr=0.02, devices="cpu:0", quiet=True, keep_data=True
    )
    return path


@pytest.fixture
def trained(run: Path) -> Trained:
    return load_trained(run, devices=["cpu:0"], batch=16)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = np.full((SIDE, SIDE, 3), 20, np.uint8)
    image[4:10, 14:20, 0] = 230
    Image.fromarray(image).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_the_reasons_are_where_the_square_is(trained: Trained, picture: Path) -> None:
    image = np.asarray(Image.open(picture))
    probe = Probe(trained, batch=16)
    found = why(probe, image)
    (probabilities,) = predict(trained, [picture])
    assert found.wanted == 0 and found.probabilities == pytest.approx(probabilities, abs=1e-5)
    assert found.layer == "conv2" and found.cam.shape == (12, 12)
    inside = np.zeros((SIDE, SIDE), bool)
    inside[2:12, 12:22] = True
    guided = np.abs(found.guided).sum(-1)
    assert guided[inside].sum() > 0.7 * guided.sum()  # of a sixth of the pixels
    row, column = np.unravel_index(found.cam.argmax(), found.cam.shape)
    assert inside[2 * row, 2 * column]
    row, column = np.unravel_index(found.occluded.argmin(), found.occluded.shape)
    steps = [np.linspace(0, SIDE - side, 12) for side in found.square]
    hidden = [steps[axis][place] + found.square[axis] / 2 for axis, place in enumerate((row, column))]
    assert 2 <= hidden[0] <= 12 and 12 <= hidden[1] <= 22
    assert found.occluded.max() > 0.9


def test_a_probe_answers_as_the_network(trained: Trained) -> None:
    """Normalisations are folded and activation functions are apart, so that only rounding differs."""
    images, labels = pictures(6)
    for layer in ("pool1", "conv2", "fc1"):
        values, _, _ = features(trained, split_of(images, labels), layer, np.arange(6))
        assert np.abs(Probe(trained, layer, batch=6).forward(images) - values).max() <= 1e-4
    with pytest.raises(ValueError, match="layer must be one of"):
        Probe(trained, "conv9")


def split_of(images: Array, labels: Array) -> Any:
    return SimpleNamespace(
        read=lambda numbers: (images[numbers], labels[numbers]), readable=lambda numbers: numbers
    )


def test_the_strongest_patches_have_the_square(trained: Trained) -> None:
    images, labels = pictures(60)
    found = strongest(Probe(trained, "conv2", batch=4), split_of(images, labels), np.arange(60), 3)
    assert len(found) == 3
    for one in found:
        assert one.patches.shape == one.projections.shape == (9, 8, 8, 3)
        assert (np.diff(one.values) <= 0).all() and one.values[0] > 0
        assert (one.patches.reshape(9, -1).max(1) > 200).mean() > 0.5
        # A projection is where the response comes from.
        assert np.abs(one.projections).reshape(9, -1).max(1).min() > 0


def test_receptive_fields_are_the_pixels_that_move_an_output(trained: Trained) -> None:
    vertical, horizontal = fields(trained.network.spec, "pool2")
    probe = Probe(trained, "pool2", batch=8)
    for row, column in ((0, 5), (3, 2), (5, 0)):
        start = np.zeros_like(probe.forward(pictures(8)[0]))
        start[:, row, column] = 1
        back = np.abs(probe.gradients(["data"], start)["data"]).sum((0, -1))
        outside = np.ones_like(back)
        rows, columns = vertical.pixels(row, SIDE), horizontal.pixels(column, SIDE)
        outside[np.ix_(rows[(rows >= 0) & (rows < SIDE)], columns[(columns >= 0) & (columns < SIDE)])] = 0
        assert (back * outside).max() == 0 < back.max()


@pytest.mark.parametrize(
    ("net", "layer", "size"),
    [
        ("alexnet", "conv5", 163),
        ("alexnet", "pool5", 195),
        ("vgg16", "conv5_3", 196),
        ("alexnet", "fc6", 355),
    ],
)
def test_receptive_fields_are_as_published(net: str, layer: str, size: int) -> None:
    """Source of the first three: Araujo et al. 2019, "Computing receptive fields"."""
    (field, _) = fields(cc.nets.build(net), layer)
    assert field.last - field.first == size


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_like_features_lie_together(method: str) -> None:
    if method == "tsne":
        pytest.importorskip("sklearn")
    draws = np.random.default_rng(0)
    labels = np.arange(60) % 2
    rows = draws.standard_normal((60, 5, 4)).astype(np.float32) + 8 * labels[:, None, None]
    points = plane(rows, method)
    assert points.shape == (60, 2) and (points == plane(rows, method)).all()
    one, other = (points[labels == label] for label in (0, 1))
    assert np.linalg.norm(one.mean(0) - other.mean(0)) > 2 * max(one.std(), other.std()) ** 0.5
    with pytest.raises(ValueError, match="at least 3 images, not 2"):
        plane(rows[:2])


def test_principal_components_are_those_of_the_covariance() -> None:
    rows = np.random.default_rng(1).standard_normal((40, 6)) @ np.diag([5, 3, 1, 1, 1, 1])
    points = plane(rows.astype(np.float32))
    values = np.linalg.eigvalsh(np.cov(rows.T))[::-1][:2]
    assert points.var(0, ddof=1) == pytest.approx(values, rel=1e-4)


def test_features_are_written(run: Path, trained: Trained, tmp_path: Path) -> None:
    for name in ("all.npy", "all.safetensors"):
        printed = succeed("features", run, "--layer", "fc1", "--out", tmp_path / name)
        assert "fc1 of 80 test images, float32 80x2" in printed
    tensors = load_file(tmp_path / "all.safetensors")
    assert (np.load(tmp_path / "all.npy") == tensors["features"]).all()
    assert ((tensors["features"].argmax(1) == tensors["labels"]).mean()) > 0.9
    assert tensors["numbers"].tolist() == list(range(80))
    error = refuse("features", run, "--layer", "fc1", "--out", tmp_path / "all.csv")
    assert "--out must end with .npy or .safetensors" in error


@pytest.mark.parametrize("arguments", [("why", "{picture}"), ("features", "--layer", "conv2"), ("map",)])
def test_pictures_are_drawn(arguments: tuple[str, ...], run: Path, picture: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    name, *rest = (text.format(picture=picture) for text in arguments)
    out = tmp_path / "out.png"
    assert succeed("plot", name, run, *rest, "--out", out).splitlines()[-1] == str(out)
    pixels = np.asarray(Image.open(out).convert("RGB"))
    assert pixels.shape[1] > 600 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_wrong_names_are_refused(run: Path, picture: Path) -> None:
    assert "--class must be one of 0, 1, not 'blue'" in refuse("plot", "why", run, picture, "--class", "blue")
    assert "--method must be one of pca, tsne" in refuse("plot", "map", run, "--method", "umap")
    where = ("--layer", "fc1", "--out", "x.npy")
    assert "--split must be one of test, train" in refuse("features", run, *where, "--split", "val")
