"""The results, pictures, predictions and network that a run offers a program."""

from __future__ import annotations

import builtins
import html.parser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cconvnet as cc
from cconvnet.api import Prediction, Predictions
from cconvnet.data import DataError
from cconvnet.data.datasets import digits
from cconvnet.plots import PlotError
from cconvnet.runs import RunError

X, Y = digits.load()
TEST = digits.open_dataset().test


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> cc.Run:
    return cc.train(
        "lenet",
        (X, Y),
        epochs=3,
        devices="cpu:0",
        quiet=True,
        out=tmp_path_factory.mktemp("run") / "first",
        log_every=5,
    )


@pytest.fixture(scope="module")
def colored(tmp_path_factory: pytest.TempPathFactory) -> cc.Run:
    """A run on coloured images that are not square."""
    x = np.repeat(X[:200, :, :6], 3, axis=3)
    return cc.train(
        "lenet",
        (x, Y[:200]),
        epochs=1,
        devices="cpu:0",
        quiet=True,
        out=tmp_path_factory.mktemp("run") / "coloured",
    )


def test_results_of_training(run: cc.Run) -> None:
    assert run.complete and run.classes == [str(digit) for digit in range(10)]
    assert run.summary["test_error_top1"] == run.log.epochs["test_error_top1"][-1]
    assert run.log.steps["step"].tolist() == list(range(5, 66, 5))
    assert {len(column) for column in run.log.epochs.values()} == {3}
    assert run.overview.state == "complete" and run.settings["net"] == "lenet"


def test_evaluate(run: cc.Run) -> None:
    found = run.evaluate(quiet=True, devices="cpu:0")
    assert found.error_top1 == run.summary["test_error_top1"] and found.images == 355
    assert found.confusion.sum() == 355
    assert repr(found).startswith("arrays, 355 test images, 1 view: top-1 error ") and len(repr(found)) < 120
    assert (
        cc.load(run.path).evaluate(quiet=True).error_top1 == found.error_top1
    )  # by the arrays that it keeps
    assert TEST is not None
    given = run.evaluate((TEST.pixels, TEST.labels), quiet=True)
    assert given.error_top1 == found.error_top1 and np.array_equal(given.confusion, found.confusion)
    few = run.evaluate((X[:3], ["2", "1", "2"]), views="ten", quiet=True)
    assert few.images == 3 and few.error_top1 >= 1 / 3
    assert [answer.file for answer in few.worst()][:1] == ["x[0]"]
    with pytest.raises(DataError, match="y has the label 11, but there are 10 classes"):
        run.evaluate((X[:1], [11]), quiet=True)
    with pytest.raises(ValueError, match="its images are 8x6x1, the network's 8x8x1"):
        run.evaluate((X[:, :, :6], Y), quiet=True)
    with pytest.raises(ValueError, match=r"^views must be one of center, ten"):
        run.evaluate(views="five", quiet=True)


def test_predict_arrays(run: cc.Run) -> None:
    several = run.predict(X[:70])  # more than a batch
    assert isinstance(several, Predictions) and len(several) == 70
    assert several.probabilities.shape == (70, 10) and np.allclose(several.probabilities.sum(axis=1), 1)
    assert np.mean(several.labels == Y[:70]) > 0.9 and several.class_names[0] == str(several.labels[0])
    for one in (X[0], X[0, ..., 0]):
        found = run.predict(one)
        assert isinstance(found, Prediction)
        assert found.class_name == several[0].class_name == "0"
        assert found.top(2)[0] == ("0", found.probability) and found.probability > found.top(2)[1][1]
        assert repr(found).startswith("0 ")
    assert len(run.predict(X[:3, ..., 0])) == len(run.predict(list(X[:3]))) == 3  # type: ignore[arg-type]
    assert repr(several[:2]).splitlines()[1].startswith("image 1: 1 ")
    assert repr(several).endswith("... and 50 more")
    with pytest.raises(DataError, match=r"images is float64 .*: \(images \* 255\)"):
        run.predict(X[0] / 255)
    with pytest.raises(DataError, match="there are no images"):
        run.predict([])


def test_predict_files_and_pictures(run: cc.Run, tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(X[number, ..., 0]).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    want = run.predict(X[:3])
    assert isinstance(want, Predictions)
    paths = sorted(tmp_path.glob("*.png"))
    for given in (tmp_path, str(tmp_path), paths, [Image.open(path) for path in paths]):
        found = run.predict(given)
        assert isinstance(found, Predictions)
        assert np.array_equal(found.probabilities, want.probabilities)
        assert found.names == [str(path) for path in paths]
    single = run.predict(str(paths[1]))
    assert isinstance(single, Prediction) and single.class_name == "1" and single.name == str(paths[1])
    mixed = run.predict([paths[0], X[1], Image.open(paths[2])])
    assert isinstance(mixed, Predictions) and np.array_equal(mixed.probabilities, want.probabilities)
    with pytest.raises(DataError, match=r"notes\.txt is not a readable JPEG or PNG"):
        run.predict(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty contains no pictures"):
        run.predict(tmp_path / "empty")


def test_images_of_another_size_are_read_as_files_are(run: cc.Run, colored: cc.Run, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    for one in (run, colored):
        found = [
            one.predict(given) for given in (tmp_path / "noise.png", noise[None], Image.fromarray(noise))
        ]
        shares = [np.ravel(each.probabilities) for each in found]
        assert np.array_equal(shares[0], shares[1]) and np.array_equal(shares[0], shares[2])
    grey = colored.predict(X[:2, :, :6])
    assert isinstance(grey, Predictions)
    same = colored.predict(np.repeat(X[:2, :, :6], 3, axis=3))
    assert isinstance(same, Predictions) and np.array_equal(grey.probabilities, same.probabilities)


def test_a_prediction_after_more_training_is_that_of_the_new_weights(tmp_path: Path) -> None:
    run = cc.train("lenet", (X, Y), epochs=1, devices="cpu:0", quiet=True, out=tmp_path / "run")
    before = run.predict(X[:5])
    assert run._trained is not None
    again = run.predict(X[5:10])
    after = run.train(epochs=2, devices="cpu:0", quiet=True).predict(X[:5])
    assert not np.array_equal(before.probabilities, after.probabilities)
    assert np.array_equal(after.probabilities, cc.load(run.path).predict(X[:5]).probabilities)
    assert len(again) == 5  # type: ignore[arg-type]


def test_its_network(run: cc.Run) -> None:
    network = run.network(batch=10, devices="cpu:0")
    network.load(X[:10], Y[:10], *(np.zeros(10, np.int32),) * 2, np.zeros(10, np.uint8))
    network.forward(train=False)
    want = run.predict(X[:10])
    got = network.outputs(network.spec.layers[-1].name)
    assert np.allclose(got, want.probabilities, atol=1e-6)


def test_a_checkpoint_of_a_run(run: cc.Run) -> None:
    first, *_, last = sorted((run.path / "checkpoints").glob("step-*"))
    old = cc.load(first)
    assert old.path == run.path and old.source == first
    assert old.evaluate(quiet=True).error_top1 != run.evaluate(quiet=True).error_top1
    assert cc.load(last).evaluate(quiet=True).error_top1 == run.evaluate(quiet=True).error_top1


def test_the_curve(run: cc.Run, colored: cc.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = run.curve()
    assert str(picture) == str(run.path / "curve.png") and Path(picture).is_file()
    png = picture._repr_png_()
    assert png is not None and png.startswith(b"\x89PNG") and picture._repr_svg_() is None
    drawing = run.curve(colored, colored.path, out=tmp_path / "both.svg", x="step")
    assert "<svg" in (drawing._repr_svg_() or "") and drawing._repr_png_() is None
    with pytest.raises(PlotError, match="x must be one of epoch, seconds, step"):
        run.curve(x="time")
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PlotError, match="matplotlib, which is missing"):
        run.curve(out=tmp_path / "none.png")


def test_the_report(run: cc.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    page = run.report(open=True, quiet=True, devices="cpu:0")
    assert page == run.path / "report.html" and opened == [page.resolve().as_uri()]
    text = page.read_text()
    html.parser.HTMLParser().feed(text)
    assert "lenet on arrays" in text and "Not shown" not in text


def test_a_report_without_the_arrays_names_what_is_missing(tmp_path: Path) -> None:
    run = cc.train(
        "lenet", (X, Y), keep_data=False, epochs=1, devices="cpu:0", quiet=True, out=tmp_path / "run"
    )
    assert "Not shown" not in run.report(quiet=True).read_text()
    alone = cc.load(run.path)
    assert "was trained on arrays that it does not keep" in alone.report(quiet=True).read_text()
    assert TEST is not None
    assert "Not shown" not in alone.report(quiet=True, data=(TEST.pixels, TEST.labels)).read_text()


def test_texts(run: cc.Run, tmp_path: Path) -> None:
    assert repr(run).startswith(f"<Run {run.path}: lenet on arrays, complete, 3 of 3 epochs, ")
    table = run._repr_html_()
    assert table.startswith("<table>") and len(table) < 1500 and "lowest test error" in table
    with pytest.raises(RunError, match="is not a run"):
        cc.load(tmp_path)
