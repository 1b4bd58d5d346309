"""Training on label images: pixels' labels are cropped and mirrored with their images, and counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cconvnet as cc
from cconvnet.data import Arrays, DataError, Loader
from cconvnet.data.inspection import inspect
from cconvnet.data.label_images import IGNORED
from cconvnet.data.shards.prepare import Preparation
from cconvnet.data.splits import MemorySplit
from cconvnet.network import Network

Array = np.ndarray[Any, Any]


def halves(n: int = 40, seed: int = 0) -> tuple[Array, Array]:
    """Return images [n,12,14] with a bright part at one side or the other, and its pixels' labels."""
    draws = np.random.default_rng(seed)
    x = draws.integers(0, 90, (n, 12, 14)).astype(np.uint8)
    y = np.zeros((n, 12, 14), np.int64)
    for image, labels, width, turned in zip(
        x, y, draws.integers(3, 9, n), draws.integers(0, 2, n), strict=True
    ):
        part = np.s_[:, -width:] if turned else np.s_[:, :width]
        image[part] += 120
        labels[part] = 1
        labels[0, :3] = IGNORED
    return x, y


def network(**values: Any) -> cc.NetSpec:
    x = cc.image(12, 14, 1, **values)
    return x.conv(4, 3, pad=1).relu().conv(2, 1).softmax("sides", per_pixel=True, ignore=IGNORED)


@pytest.mark.parametrize("pad", [0, 2])
def test_labels_are_cropped_and_mirrored_as_the_input_kernel_does_images(pad: int) -> None:
    draws = np.random.default_rng(1)
    labels = draws.integers(1, 200, (20, 9, 8)).astype(np.uint8)
    split = MemorySplit("train", labels[..., None], labels)
    spec = cc.image(6, 5, 1, stored=(9, 8), scale=1, mean=(0,)).conv(1, 1).features("seen")
    recipe = cc.TrainRecipe(batch=8, epochs=1, lr=0.1, pad=pad)
    network = Network(dataclasses.replace(spec, recipe=recipe), batch=8, devices="cpu:0")
    with Loader(split, 8, seed=2, crop=(6, 5), random_crop=True, pad=pad, mirror=True) as loader:
        for batch in loader.epoch(0):
            images, _, *rest = batch.inputs
            network.load(images, None, *rest)
            network.forward(train=True)
            seen = network.outputs("data")[..., 0]
            assert (np.where(batch.labels == IGNORED, 0, batch.labels) == seen).all()
            assert len(set(batch.mirror.tolist())) == 2 and len(set(batch.top.tolist())) > 1
            assert (batch.labels == IGNORED).any() == (pad > 0)


def test_a_run_learns_pixels_and_counts_those_that_have_labels(tmp_path: Path) -> None:
    x, y = halves()
    run = cc.train(
        network(), (x, y), test=0.25, epochs=8, batch=5, lr=0.2, mirror=True, out=tmp_path / "run", quiet=True
    )
    found = cc.load(run.path).evaluate(quiet=True)
    assert found.error_top1 == run.summary["test_error_top1"] < 0.05
    assert found.images == found.confusion.sum() == 10 * (12 * 14 - 3)
    assert found.confusion.trace() == round(found.images * (1 - found.error_top1))
    assert found.classes == ["0", "1"] and found.worst() == []
    with pytest.raises(ValueError, match="labels of pixels are for one network and one view of each image"):
        run.evaluate(views="ten", quiet=True)
    one = run.predict(x[0])
    assert isinstance(one, cc.api.Segmentation) and one.labels.shape == (12, 14)
    assert (one.labels == y[0])[y[0] != IGNORED].mean() > 0.9
    assert [name for name, _ in one.shares()] in (["0", "1"], ["1", "0"])
    for text, option in (("dense", {"dense": True}), ("views", {"views": "ten"})):
        with pytest.raises(ValueError, match=f"{text}: the network answers for each pixel of whole images"):
            run.predict(x[0], **option)
    page = run.report(quiet=True).read_text(encoding="utf-8")
    assert "1,650 pixels of 10 test images: pixel accuracy" in page and "predicted labels of x[" in page
    assert "Worst mistakes" not in page and "Not shown" not in page.partition('id="filters"')[0]


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    given: dict[str, Any] = {"test": 0.25, "batch": 5, "lr": 0.1, "mirror": True, "quiet": True}
    whole = cc.train(network(), halves(), epochs=2, out=tmp_path / "whole", **given)
    part = cc.train(network(), halves(), epochs=2, steps=7, out=tmp_path / "part", **given).train(quiet=True)
    for name, value in whole.network().state().items():
        assert value.tobytes() == part.network().state()[name].tobytes(), name


def test_data_and_networks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    x, y = halves()
    of_images = cc.image(12, 14, 1).fc(2).softmax()
    smaller = cc.image(12, 14, 1).conv(2, 3).softmax(per_pixel=True, ignore=IGNORED)
    for net, labels, text in (
        (
            network(),
            y[:, 0, 5],
            "layer cost needs a label for each pixel, and the data has one for each image",
        ),
        (of_images, y, "layer cost needs one label for each image, and the data has one for each pixel"),
        (smaller, y, "layer cost answers for 10x12 pixels of images of 12x14"),
        (network(), y[:, :5], r"y has the shape \(40, 5, 14\); labels of pixels are \(40, 12, 14\)"),
        (network(), y + 1.5, "y is float64, from .* labels of pixels are whole numbers from 0 on, or 255"),
        (network(), np.full_like(y, 255), "y has no label but 255, which is ignored"),
    ):
        with pytest.raises((ValueError, DataError), match=text):
            cc.train(net, (x, labels), out=tmp_path / "run", quiet=True)
    for option in ({"random_resized_crop": True}, {"distort": {"rotation": 5}}):
        with pytest.raises(ValueError, match="leave out random_resized_crop and distort"):
            cc.train(network(), (x, y), out=tmp_path / "run", quiet=True, **option)
    assert not (tmp_path / "run").exists()


def test_pixels_are_counted_and_shards_are_for_labels_of_images(tmp_path: Path) -> None:
    dataset = Arrays.of(halves()).dataset()
    found = inspect(dataset)
    assert found.ignored is not None and found.ignored["train"] == 3 * len(dataset.train)
    assert found.counts["train"].sum() + found.ignored["train"] == len(dataset.train) * 12 * 14
    text = "needs one label for each image, and the data has one for each pixel"
    unknown: Any = None
    with pytest.raises(DataError, match=f"data prepare {text}"):
        Preparation(dataset, tmp_path / "shards", recipe=unknown, survey=unknown)
