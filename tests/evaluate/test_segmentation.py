"""Networks that answer for each pixel: their figures, label images of any size, and the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import run as cconvnet
from helpers.commands import succeed_here
from helpers.label_folders import CLASSES, make_label_folder, pair
from PIL import Image

import cconvnet as cc
from cconvnet.data.label_images import CANVAS, IGNORED, palette
from cconvnet.evaluate import PixelFigures, Segmenter, load_trained
from cconvnet.network import Network

NET = """
import cconvnet as cc

def build(image_shape=(16, 16, 3), classes=3):
    x = cc.image(*image_shape).conv(12, 3, pad=1).relu()
    low = x.maxpool(2).conv(12, 3, pad=1).relu().deconv(12, 4, 2, pad=1, init="bilinear")
    return (x + low).conv(classes, 1).softmax("blocks", per_pixel=True, ignore=255)
"""
TESTS = [(21, 34), (16, 16), (7, 12)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the data `cows` and a run on them, on canvases of 16x16 pixels."""
    root = tmp_path_factory.mktemp("segmentation")
    make_label_folder(root / "cows", [(16, 16)] * 12, TESTS)
    (root / "net.py").write_text(NET)
    given = ["--batch", 4, "--epochs", 40, "--lr", 0.1, "--size", 16, "--mirror", "--device", "cpu"]
    succeed_here("train", "--net", root / "net.py", "--data", root / "cows", *given, "--out", root / "run")
    return root


def test_the_figures_are_those_of_the_paper() -> None:
    found = PixelFigures.of(np.array([[3, 1], [2, 4]]))
    wanted = (7 / 10, (3 / 4 + 4 / 6) / 2, (3 / 6 + 4 / 7) / 2, (4 * 3 / 6 + 6 * 4 / 7) / 10)
    assert tuple(vars(found).values()) == pytest.approx(wanted)
    # A class without pixels counts for nothing, and one that is only predicted has no intersection.
    found = PixelFigures.of(np.array([[3, 1, 0, 0], [2, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert tuple(vars(found).values()) == pytest.approx(wanted)
    found = PixelFigures.of(np.array([[3, 0, 1], [0, 6, 0], [0, 0, 0]]))
    assert found.mean_iu == pytest.approx((3 / 4 + 1 + 0) / 3) and found.mean_accuracy == (3 / 4 + 1) / 2
    assert str(found).startswith("pixel accuracy 90.00%, mean accuracy 87.50%, mean IU 58.33%, frequency-")
    assert PixelFigures.of(np.zeros((2, 2), np.int64)).mean_iu == 0


def test_an_image_of_any_size_has_its_labels(trained: Path) -> None:
    """They are those of the network on a canvas of the next sides that it takes."""
    segmenter = Segmenter(load_trained(trained / "run", batch=1, devices=["cpu:0"]))
    own: Network = segmenter.trained.network
    for sides in ((16, 16), (21, 34), (5, 9), (21, 33)):
        image, _ = pair(sides, 77)
        canvas = np.empty((sides[0] + sides[0] % 2, sides[1] + sides[1] % 2, 3), np.uint8)
        canvas[...] = CANVAS
        top, left = (-(-(more - side) // 2) for more, side in zip(canvas.shape, sides, strict=False))
        canvas[top : top + sides[0], left : left + sides[1]] = image
        network = own.dense(canvas.shape[:2])
        network.load(canvas[None], np.zeros((1, *canvas.shape[:2]), np.int32))
        network.forward(train=False)
        wanted = network.outputs(network.spec.answer.name)[0].argmax(2)
        found = segmenter.labels(image)
        assert found.shape == sides and found.dtype == np.uint8
        assert (found == wanted[top : top + sides[0], left : left + sides[1]]).all()


def test_predict_writes_label_images(trained: Path, tmp_path: Path) -> None:
    pictures = [trained / "cows/test/images" / f"00{number}.png" for number in range(3)]
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    given = ["--run", trained / "run", "--device", "cpu", "--out", tmp_path / "out", "--json", tmp_path / "j"]
    result = cconvnet("predict", *pictures, tmp_path / "broken.jpg", *given)
    assert result.returncode == 1 and "broken.jpg is not a readable JPEG or PNG" in result.stderr
    assert "of the pixels" in result.stdout and "cow" in result.stdout
    answers = json.loads((tmp_path / "j").read_text())
    for number, (sides, answer) in enumerate(zip(TESTS, answers[:3], strict=True)):
        with Image.open(tmp_path / "out" / f"00{number}.png") as image:
            assert image.mode == "P" and image.size == sides[::-1]
            assert image.getpalette()[:9] == palette()[:3].ravel().tolist()
            labels = np.asarray(image)
        _, truth = pair(sides, 12 + number)
        assert (labels == truth)[truth != IGNORED].mean() > 0.6  # a third by chance
        assert answer["labels"].endswith(f"00{number}.png")
        found = {one["class"]: one["share"] for one in answer["classes"]}
        assert found == pytest.approx(
            {name: (labels == i).mean() for i, name in enumerate(CLASSES) if (labels == i).any()}
        )
    assert "error" in answers[3]
    succeed_here("predict", pictures[0], *given[:4], "--out", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "out" / "000.png").read_bytes()
    copy = tmp_path / "photo.png"
    copy.write_bytes(pictures[0].read_bytes())
    succeed_here("predict", copy, *given[:4])
    assert (tmp_path / "photo-labels.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def test_what_label_images_cannot_have_is_refused_by_name(trained: Path, tmp_path: Path) -> None:
    picture, run = trained / "cows/test/images/000.png", trained / "run"
    for more, text in (
        (["--dense"], "--dense: the network answers for each pixel of whole pictures; leave it out"),
        (["--views", "ten"], "--views ten: the network answers for each pixel of whole pictures"),
        (["--out", picture.parent], "000.png is one of the pictures; --out names another folder"),
        ([picture.with_name("001.png"), "--out", "x.png"], "--out x.png is one file for 2 pictures"),
    ):
        result = cconvnet("predict", picture, *more, "--run", run, "--device", "cpu")
        assert result.returncode == 2 and text in " ".join(result.stderr.split()), result.stderr
    result = cconvnet("evaluate", "--run", run, "--worst", 3, "--device", "cpu")
    assert result.returncode == 2 and "--worst is of images" in result.stderr


def test_evaluate_prints_the_figures_by_class(trained: Path, tmp_path: Path) -> None:
    run, out = trained / "run", tmp_path / "csv"
    given = ["--run", run, "--per-class", "--device", "cpu", "--csv", out]
    result = cconvnet("evaluate", *given, "--json", tmp_path / "j")
    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "j").read_text())
    confusion = cc.load(run).evaluate(quiet=True, devices="cpu:0").confusion
    figures = PixelFigures.of(confusion)
    assert document["images"] == 3 and document["pixels"] == confusion.sum()
    assert {name: document[name] for name in vars(figures)} == vars(figures)
    assert f"3 test images, {confusion.sum():,} pixels" in result.stdout and str(figures) in result.stdout
    assert "IU" in result.stdout.partition("error of each class")[2]
    for one in document["per_class"]:
        right = confusion[one["label"], one["label"]]
        assert one["iu"] == right / (confusion[one["label"]].sum() + confusion[:, one["label"]].sum() - right)
    assert sorted(file.name for file in out.iterdir()) == ["classes.csv", "confusion.csv"]
    columns = (out / "classes.csv").read_text().partition("\n")[0]
    assert columns == "label,class,pixels,wrong,error,taken_for,taken_for_pixels,iu"


def test_dense_evaluation_counts_all_pixels_of_larger_pictures(trained: Path) -> None:
    run = cc.load(trained / "run")
    crops, whole = (run.evaluate(dense=dense, quiet=True, devices="cpu:0") for dense in (False, True))
    assert whole.images == sum(h * w - 1 for h, w in TESTS) > crops.images
    assert whole.figures is not None and whole.figures.pixel_accuracy > 0.6
    assert whole.source.image_shape == (22, 34, 3)
    truth = np.concatenate([pair(sides, 12 + number)[1].ravel() for number, sides in enumerate(TESTS)])
    assert whole.confusion.sum(axis=1).tolist() == np.bincount(truth)[:3].tolist()
