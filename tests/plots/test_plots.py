"""Pictures of runs, tested by their content: lines, marks, words, pixels."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cconvnet import data, nets, plots, runs
from cconvnet.data import DataError
from cconvnet.evaluate import Trained, load_trained, predict
from cconvnet.nets import NetSpec, alexnet
from cconvnet.network import Network
from cconvnet.plots import PlotError, analysis, figures
from cconvnet.plots.curve import Curves, differences
from cconvnet.plots.filters import filter_sheet
from cconvnet.plots.mosaic import GAP, mosaic, scaled_each, scaled_together, side_by_side
from cconvnet.runs import RunError, checkpoint
from cconvnet.runs.checkpoint import Checkpoint
from cconvnet.runs.history import History, smoothed
from cconvnet.system import outputs

PNG = b"\x89PNG\r\n\x1a\n"
Rows = list[dict[str, Any]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Saved figures in order; no file is written."""
    pytest.importorskip("matplotlib")
    pages: list[Any] = []
    monkeypatch.setattr(figures, "save", lambda page, path: (page.canvas.draw(), pages.append(page)))
    return pages


def step_lines(count: int, per_epoch: int = 10, lr: Callable[[int], float] = lambda step: 0.1) -> Rows:
    """Return a line of the log for each step; `lr` gives the rate of a step, counted from 0."""
    return [
        {
            "step": step,
            "epoch": round(step / per_epoch, 4),
            "loss": 2.0 / step,
            "train_error_top1": 0.9 / step,
            "lr": lr(step - 1),
            "images_per_second": 50.0 if step <= 10 else 100.0,
        }
        for step in range(1, count + 1)
    ]


def epoch_lines(errors: list[float], per_epoch: int = 10) -> Rows:
    return [
        {
            "step": per_epoch * epoch,
            "epoch": epoch,
            "train_loss": 1.0 / epoch,
            "train_error_top1": error,
            "test_loss": 1.5 / epoch,
            "test_error_top1": error,
            "test_error_top5": error / 2,
        }
        for epoch, error in enumerate(errors, start=1)
    ]


def made(path: Path, lines: Rows, **settings: Any) -> Path:
    """Write a made-up run."""
    values = {"net": "lenet", "data": None, "lr": 0.1, "precision": "fp32", "batch": 20, "seed": 0}
    path.mkdir()
    config = {"settings": {**values, "classes": list("abc"), **settings}, "device": "cpu:0"}
    (path / "config.json").write_text(json.dumps(config))
    append(path, lines)
    return path


def append(run: Path, lines: Rows) -> None:
    with (run / "log.jsonl").open("a") as log:
        log.writelines(json.dumps(line) + "\n" for line in lines)


def words(page: Any) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in page.findobj(Text) if text.get_text() and text.get_visible()]


def line(axes: Any, label: str) -> Any:
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return found


def marks(axes: Any, kind: str) -> list[float]:
    """Return the positions of marks of a kind."""
    return [float(np.asarray(one.get_xdata())[0]) for one in axes.lines if one.get_gid() == kind]


# ---- curves ----------------------------------------------------------------------------------------------


def test_a_curve_shows_the_log(tmp_path: Path, drawn: list[Any]) -> None:
    lines = step_lines(30)
    run = made(tmp_path / "run", lines + epoch_lines([0.5, 0.2, 0.3]))
    plots.curve(run, tmp_path / "curve.png", Curves(smooth=1))
    loss, error = drawn[0].axes
    np.testing.assert_allclose(line(loss, "training").get_xydata()[:, 0], np.arange(1, 31) / 10)
    np.testing.assert_allclose(line(loss, "training").get_ydata(), [one["loss"] for one in lines])
    np.testing.assert_allclose(line(loss, "test").get_xydata(), [[1, 1.5], [2, 0.75], [3, 0.5]])
    np.testing.assert_allclose(line(error, "training").get_ydata(), [0.9 / step for step in range(1, 31)])
    np.testing.assert_allclose(line(error, "test").get_ydata(), [0.5, 0.2, 0.3])
    assert marks(error, "best") == [2.0]
    said = words(drawn[0])
    assert {"best 20.00%", "run", "lenet on digits, batch 20, lr 0.1, fp32, cpu:0", "epoch"} <= set(said)
    assert not any("top 5" in one for one in said)
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["training", "test"]


@pytest.mark.parametrize("last", [[0.045, 0.065, 0.08, 0.035], [0.05, 0.01, 0.04, 0.03]])
def test_no_curve_crosses_the_lowest_error(tmp_path: Path, drawn: list[Any], last: list[float]) -> None:
    errors = [0.5, 0.4, 0.3, 0.2, 0.1, 0.05, *last]
    plots.curve(made(tmp_path / "run", epoch_lines(errors)), tmp_path / "curve.png")
    axes = drawn[0].axes[1]
    (label,) = axes.texts
    box, epochs = label.get_window_extent(), np.linspace(1, len(errors), 500)
    curve = axes.transData.transform(
        np.stack([epochs, np.interp(epochs, np.arange(1, len(errors) + 1), errors)], axis=1)
    )
    assert not any(box.contains(*point) for point in curve)


def test_epochs_of_few_steps_tell_of_training_themselves(tmp_path: Path, drawn: list[Any]) -> None:
    """With a log line every 20 steps, 12 epochs of 3 steps have one, which would draw nothing."""
    run = made(tmp_path / "run", step_lines(20, per_epoch=3)[-1:] + epoch_lines([0.5] * 12, per_epoch=3))
    plots.curve(run, tmp_path / "curve.png")
    loss, error = drawn[0].axes
    np.testing.assert_allclose(line(loss, "training").get_ydata(), [1 / n for n in range(1, 13)])
    np.testing.assert_allclose(line(error, "training").get_xydata()[:, 0], np.arange(1, 13))
    plots.curve([run, made(tmp_path / "other", epoch_lines([0.4] * 9))], tmp_path / "both.png")
    for axes in drawn[1].axes:  # of each run the training is dashed, the tests are not
        assert [one.get_linestyle() for one in axes.lines if len(one.get_xdata()) > 2] == ["--", "-"] * 2


def test_many_classes_have_a_top_5_error(tmp_path: Path, drawn: list[Any]) -> None:
    run = made(tmp_path / "run", epoch_lines([0.5, 0.4]), classes=[str(n) for n in range(11)])
    plots.curve(run, tmp_path / "curve.png")
    loss, error = drawn[0].axes
    np.testing.assert_allclose(line(error, "test, top 5").get_ydata(), [0.25, 0.2])
    assert "test, top 5" not in [one.get_label() for one in loss.lines]
    # No steps were logged: training is what the epochs say of it.
    np.testing.assert_allclose(line(loss, "training").get_ydata(), [1.0, 0.5])


def test_rates_are_marked_where_they_changed(tmp_path: Path, drawn: list[Any]) -> None:
    # Divided after two epochs, and by hand in the middle of the fourth; a line for every fourth step.
    rates = [0.1] * 20 + [0.01] * 15 + [0.005] * 5
    lines = [one for one in step_lines(40, lr=lambda step: rates[step]) if one["step"] % 4 == 0]
    run = made(tmp_path / "run", lines)
    plots.curve(run, tmp_path / "curve.png")
    # The second change lies within the line of steps 33 to 36, at whose end it is marked.
    for axes in drawn[0].axes:
        assert marks(axes, "rate") == pytest.approx([2.0, 3.6])
    assert {"lr 0.01", "lr 0.005"} <= set(words(drawn[0]))
    plots.curve(run, tmp_path / "curve.png", Curves(x="step"))
    assert marks(drawn[1].axes[0], "rate") == pytest.approx([20, 36])
    # 20 images a step, 50 a second for ten steps and 100 from then on; the line of 9 to 12 knows one rate.
    plots.curve(run, tmp_path / "curve.png", Curves(x="seconds"))
    assert marks(drawn[2].axes[0], "rate") == pytest.approx([3.2 + 2.4, 3.2 + 2.4 + 3.2])


def test_a_change_within_a_line_is_marked_at_the_epochs_end_it_holds(tmp_path: Path) -> None:
    lines = [
        one for one in step_lines(48, lr=lambda step: 0.1 if step < 20 else 0.01) if one["step"] % 16 == 0
    ]
    history = History(made(tmp_path / "run", lines))
    ((index, rate),) = history.rate_changes()
    assert (index, rate) == (1, 0.01)
    # Epochs end after steps 20 and 30, both among 17 to 32; rates fall after the last of them at the latest.
    assert history.rate_position(1, "epoch") == 3.0


def test_runs_are_named_by_what_differs(tmp_path: Path, drawn: list[Any]) -> None:
    paths = [
        made(tmp_path / "a", step_lines(20) + epoch_lines([0.5, 0.4]), lr=0.1, precision="fp32"),
        made(tmp_path / "b", step_lines(20) + epoch_lines([0.6, 0.3]), lr=0.05, precision="bf16"),
    ]
    plots.curve(paths, tmp_path / "curves.png")
    page = drawn[0]
    assert [text.get_text() for text in page.legends[0].get_texts()] == [
        "lr 0.1, fp32: best 40.00%",
        "lr 0.05, bf16: best 30.00%",
        "test",
        "training",
    ]
    assert {"2 runs", "lenet on digits"} <= set(words(page))
    loss, error = page.axes
    colors = [line(error, name).get_color() for name in ("lr 0.1, fp32", "lr 0.05, bf16")]
    assert colors == list(figures.COLORS[:2])
    assert [handle.get_color() for handle in page.legends[0].legend_handles[:2]] == colors
    assert marks(error, "best") == [2.0, 2.0]
    # Beside the rings the numbers of runs that end alike would lie over each other.
    assert not [text for text in words(error) if text.startswith("best")]
    dashed = [one.get_color() for one in loss.lines if one.get_linestyle() == "--"]
    assert dashed == colors


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([{}, {}], ["0", "1"]),
        ([{"data": "/here/cifar"}, {}], ["on cifar", "on digits"]),
        ([{"net": "a", "data": "/x/c"}, {"net": "b"}], ["a on c", "b on digits"]),
        ([{"seed": 1}, {"seed": 1}, {"seed": 2}], ["0: seed 1", "1: seed 1", "2: seed 2"]),
        ([{"crop": True}, {"crop": False}], ["crop", "no crop"]),
        ([{"lr_scale": {"fc": 2.0}}, {"lr_scale": {}}], ["lr scale fc 2", "lr scale none"]),
        ([{"lr_steps": [{"epoch": 3}]}, {"lr_steps": []}], ["lr steps 3", "lr steps none"]),
        ([{"size": None}, {"size": 64}], ["", "size 64"]),
    ],
)
def test_differences(tmp_path: Path, changes: Rows, names: list[str]) -> None:
    histories = [History(made(tmp_path / str(n), [], **change)) for n, change in enumerate(changes)]
    assert differences(histories) == names


def test_a_loss_that_falls_far_has_a_logarithmic_axis(tmp_path: Path, drawn: list[Any]) -> None:
    near, far = (made(tmp_path / str(count), step_lines(count)) for count in (10, 100))
    for run, log in ((near, None), (far, None), (near, True), (far, False)):
        plots.curve(run, tmp_path / "curve.png", Curves(log=log))
    assert [page.axes[0].get_yscale() for page in drawn] == ["linear", "log", "log", "linear"]
    assert {page.axes[1].get_yscale() for page in drawn} == {"linear"}


def test_smoothing_is_a_mean_of_neighbours() -> None:
    values = np.array([1.0, 2.0, 6.0, math.nan, 4.0])
    np.testing.assert_allclose(smoothed(values, 3), [1.5, 3.0, 4.0, math.nan, 4.0])
    np.testing.assert_allclose(smoothed(values, 2), [1.5, 4.0, 6.0, math.nan, 4.0])
    assert smoothed(values, 1) is values


def test_a_long_log_is_thinned_out(tmp_path: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = step_lines(9000, per_epoch=100)
    for one in lines:
        one["loss"] = one["epoch"]
    run = made(tmp_path / "run", lines + epoch_lines([0.9 / n for n in range(1, 91)], per_epoch=100))
    plots.curve(run, tmp_path / "curve.svg", Curves(smooth=1))
    (kept,) = [one for one in drawn[0].axes[0].lines if one.get_label() == "training"]
    assert len(kept.get_xdata()) <= 1500
    np.testing.assert_allclose(kept.get_xdata(), kept.get_ydata())
    # A still longer one is not even read whole, but for its epochs.
    monkeypatch.setattr("cconvnet.runs.history._READ_WHOLE", 100_000)
    history = History(run)
    assert 500 < len(history.steps) < 4500
    assert len(history.epochs) == 90


def test_lines_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    run = made(tmp_path / "run", step_lines(3))
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "epoch": 0, "checkpoint": "x"}\n[1]\n{"loss"\n')
        log.write('{"step": 4, "epoch": 0.4, "loss": NaN, "lr": "fast"}\n{"step": 5, "epoch": 0.5, "lo')
    history = History(run)
    assert len(history.steps) == 4
    assert math.isnan(history.steps["loss"][3]) and math.isnan(history.steps["lr"][3])


def test_a_log_is_read_on(tmp_path: Path) -> None:
    run = made(tmp_path / "run", step_lines(5))
    history = History(run)
    assert not history.read()
    append(run, step_lines(8)[5:])
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "epo')
    assert history.read()
    assert history.steps["step"].tolist() == list(range(1, 9))
    with (run / "log.jsonl").open("a") as log:
        log.write('ch": 0.9, "loss": 1.0}\n')
    assert history.read()
    assert history.steps["step"].tolist() == list(range(1, 10))
    # A resume puts the log back, by a new file.
    kept = (run / "log.jsonl").read_bytes().splitlines(keepends=True)[:4]
    outputs.write_output(run / "log.jsonl", kept)
    append(run, step_lines(30)[4:])
    assert history.read()
    assert history.steps["step"].tolist() == list(range(1, 31))


def test_following_draws_until_the_run_is_complete(tmp_path: Path, drawn: list[Any]) -> None:
    run = made(tmp_path / "run", [])
    said: list[str] = []
    waits = 0

    def wait(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 1:
            append(run, step_lines(5))
        elif waits == 3:
            append(run, step_lines(9)[5:])
            (run / "summary.json").write_text('{"complete": false}')
        elif waits == 5:
            (run / "summary.json").write_text('{"complete": true}')

    plots.follow([run], tmp_path / "curve.png", say=said.append, wait=wait)
    assert waits == 5
    assert [len(line(page.axes[0], "training").get_xdata()) for page in drawn] == [5, 9]
    assert len(said) == 1 and str(tmp_path / "curve.png") in said[0]


def test_an_old_summary_does_not_end_following(tmp_path: Path, drawn: list[Any]) -> None:
    run = made(tmp_path / "run", step_lines(5))
    (run / "summary.json").write_text('{"complete": true}')
    with runs.Run.open(run):  # somebody goes on training

        def wait(seconds: float) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            plots.follow([run], tmp_path / "curve.png", say=lambda text: None, wait=wait)
    assert len(drawn) == 1


@pytest.mark.parametrize(("name", "told"), [("運行", 1), ("über", 0)])
def test_letters_that_the_font_lacks_are_told_once(tmp_path: Path, name: str, told: int) -> None:
    pytest.importorskip("matplotlib")
    run = made(tmp_path / name, step_lines(5))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        plots.curve(run, tmp_path / "curve.png")
    assert ["drawn as boxes" in str(one.message) for one in said] == [True] * told


def test_following_ends_when_the_run_is_removed(tmp_path: Path, drawn: list[Any]) -> None:
    run = made(tmp_path / "run", step_lines(5))
    with pytest.raises(PlotError, match="run was removed"):
        plots.follow(
            [run], tmp_path / "curve.png", say=lambda text: None, wait=lambda seconds: shutil.rmtree(run)
        )
    assert len(drawn) == 1


def test_curves_that_cannot_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = made(tmp_path / "run", [])
    with pytest.raises(PlotError, match=r"log\.jsonl has no lines to draw"):
        plots.curve(run, tmp_path / "a.png")
    with pytest.raises(RunError, match="is not a run"):
        plots.curve(tmp_path, tmp_path / "a.png")
    append(run, step_lines(5))
    with pytest.raises(PlotError, match="must end with a kind of picture"):
        plots.curve(run, tmp_path / "a.doc")
    with pytest.raises(PlotError, match="there is no folder"):
        plots.curve(run, tmp_path / "none" / "a.png")
    with pytest.raises(PlotError, match="did you mean 'epoch'"):
        Curves(x="epochs")
    with pytest.raises(PlotError, match="--smooth must be at least 1"):
        Curves(smooth=0)
    assert not list(tmp_path.glob("*.png")) and not list(tmp_path.glob(".*"))


def test_without_matplotlib_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = made(tmp_path / "run", step_lines(5))
    with pytest.raises(PlotError, match="pip install matplotlib"):
        plots.curve(run, tmp_path / "a.png")


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = made(tmp_path / "$run_{", step_lines(5) + epoch_lines([0.5]))
    files = [tmp_path / name for name in ("a.svg", "b.svg", "a.png", "b.png")]
    for file in files:
        plots.curve(run, file)
    contents = [file.read_bytes() for file in files]
    assert contents[0] == contents[1] and contents[2] == contents[3]
    assert contents[2].startswith(PNG) and b"$run_{" in contents[0]


# ---- mosaics and filters ---------------------------------------------------------------------------------


def tile(sheet: np.ndarray[Any, Any], size: int, row: int, column: int) -> np.ndarray[Any, Any]:
    """Return a tile at its original size, however much it was enlarged."""
    times = -(-40 // size)
    first = [GAP + place * (size * times + GAP) for place in (row, column)]
    whole = sheet[first[0] : first[0] + size * times, first[1] : first[1] + size * times]
    np.testing.assert_array_equal(whole[::times, ::times].repeat(times, 0).repeat(times, 1), whole)
    return whole[::times, ::times]


def test_a_mosaic_holds_its_tiles_in_rows() -> None:
    tiles = np.random.default_rng(0).random((5, 4, 4), np.float32)
    sheet = mosaic(tiles, 3)
    assert sheet.shape == (2 * 42 + 2, 3 * 42 + 2, 3)
    for number in range(5):
        shown = tile(sheet, 4, *divmod(number, 3))
        np.testing.assert_array_equal(shown, np.repeat(tiles[number][..., None], 3, axis=2))
    assert (sheet[44:, 88:] == 1).all()  # the place of a sixth is blank
    assert (sheet[0] < 1).all()


def test_scales() -> None:
    tiles = np.array([[[-1.0, 0.0]], [[2.0, 2.0]], [[0.0, 4.0]]])
    np.testing.assert_allclose(scaled_each(tiles), [[[0, 1]], [[0.5, 0.5]], [[0, 1]]])
    together, limit = scaled_together(tiles)
    assert limit == 4
    np.testing.assert_allclose(together, [[[0.375, 0.5]], [[0.75, 0.75]], [[0.5, 1]]])
    assert (scaled_together(np.zeros((2, 3, 3)))[0] == 0.5).all()


@pytest.mark.parametrize(("count", "columns"), [(96, 16), (32, 8), (48, 12), (1, 1), (7, 4), (31, 9), (2, 2)])
def test_rows_are_full_where_they_can_be(count: int, columns: int) -> None:
    assert side_by_side(count, 11, 11, 2.6) == columns


def two_towers(path: Path, towers: int = 1, **changes: Any) -> tuple[Path, np.ndarray[Any, Any]]:
    """Save a checkpoint of a small AlexNet; return it and its first filters."""
    spec = alexnet.build(image_shape=(64, 64, 3), classes=5, width=1 / 12)
    return saved(path, spec, towers)


def saved(path: Path, spec: NetSpec, towers: int = 1) -> tuple[Path, np.ndarray[Any, Any]]:
    network = Network(spec, batch=1, devices="cpu:0", towers=towers)
    state = network.state()
    settings = {"net": spec.name, "data": None, "towers": towers}
    (path / "checkpoints").mkdir(parents=True)
    file = path / "checkpoints" / "step-00000007.safetensors"
    checkpoint.save(file, Checkpoint(state, nets.spec_to_dict(spec), settings, {"step": 7}))
    return file, state["conv1.weight"]


@pytest.mark.parametrize("towers", [1, 2])
def test_the_filters_of_the_second_tower_are_below(tmp_path: Path, drawn: list[Any], towers: int) -> None:
    # On one device the towers are the groups of conv2.
    file, weights = two_towers(tmp_path / "run", towers)
    assert weights.shape == (8, 11, 11, 3)
    plots.filters(file, tmp_path / "filters.png")
    upper, lower = drawn[0].axes
    assert upper.get_position().y0 > lower.get_position().y1
    scaled = scaled_each(weights)
    for axes, first in ((upper, 0), (lower, 4)):
        (image,) = axes.images
        for number in range(4):
            np.testing.assert_allclose(
                tile(image.get_array(), 11, 0, number), scaled[first + number], atol=1e-6
            )
    assert {"tower 1: filters 0 to 3", "tower 2: filters 4 to 7", "conv1 of alexnet"} <= set(words(drawn[0]))
    assert any("each from its least to its largest weight" in text for text in words(drawn[0]))


def test_filters_share_a_scale_if_asked_to(tmp_path: Path) -> None:
    file, weights = two_towers(tmp_path / "run")
    sheet = filter_sheet(checkpoint.load(file), None, "shared")
    limit = np.abs(weights).max()
    np.testing.assert_allclose(tile(sheet.towers[1], 11, 0, 0), 0.5 + weights[4] / (2 * limit), atol=1e-6)
    assert f"white {limit:.3g}" in sheet.text


def test_deeper_filters_show_their_channels(tmp_path: Path) -> None:
    file, _ = two_towers(tmp_path / "run")
    state = checkpoint.load(file)
    weights = state.tensors["conv3.weight"]  # 32 filters over 22 channels
    sheet = filter_sheet(state, "conv3")
    (picture,) = sheet.towers
    scaled = scaled_each(weights.transpose(0, 3, 1, 2).reshape(-1, 3, 3)).reshape(len(weights), -1, 3, 3)
    for row, column in ((0, 0), (3, 5), (23, weights.shape[3] - 1)):
        np.testing.assert_allclose(tile(picture, 3, row, column)[..., 0], scaled[row, column], atol=1e-6)
    assert f"(24 of {len(weights)})" in sheet.text


def test_filters_over_one_channel_are_grey(tmp_path: Path) -> None:
    file, weights = saved(tmp_path / "run", nets.build("lenet"))
    sheet = filter_sheet(checkpoint.load(file))
    (picture,) = sheet.towers
    assert (picture[GAP:-GAP, GAP:42][..., 0] == picture[GAP:-GAP, GAP:42][..., 2])[:40].all()
    np.testing.assert_allclose(tile(picture, 5, 0, 1)[..., 0], scaled_each(weights)[1, ..., 0], atol=1e-6)
    assert "20 filters in grey" in sheet.text


def test_local_filters_are_those_of_the_middle(tmp_path: Path) -> None:
    file, _ = saved(tmp_path / "run", nets.build("cifar-11pct"))
    state = checkpoint.load(file)
    spec = nets.spec_from_dict(state.spec)
    name = next(layer.name for layer in spec.layers if layer.type == "local")
    weights = state.tensors[f"{name}.weight"]
    middle = weights[weights.shape[0] // 2, weights.shape[1] // 2]
    (picture,) = filter_sheet(state, name).towers
    expected = scaled_each(middle[:1, :, :, 0])[0]
    np.testing.assert_allclose(tile(picture, middle.shape[1], 0, 0)[..., 0], expected, atol=1e-6)


def test_filters_that_are_not_there(tmp_path: Path) -> None:
    file, _ = two_towers(tmp_path / "run")
    state = checkpoint.load(file)
    with pytest.raises(PlotError, match=r"--layer must be one of conv1, conv2, .* did you mean 'conv5'"):
        filter_sheet(state, "conv55")
    with pytest.raises(PlotError, match="--layer must be one of"):
        filter_sheet(state, "fc6")
    with pytest.raises(PlotError, match="--scale must be one of own, shared"):
        filter_sheet(state, None, "mine")
    spec = nets.spec_from_dict(state.spec)
    only = [dataclasses.replace(layer, inputs=("data",)) for layer in spec.layers if layer.name == "fc8"]
    flat = dataclasses.replace(spec, layers=(*only, dataclasses.replace(spec.layers[-1], inputs=("fc8",))))
    with pytest.raises(PlotError, match="the network alexnet has no convolution"):
        filter_sheet(dataclasses.replace(state, spec=nets.spec_to_dict(flat)))


# ---- what a network says ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(small_run: Path) -> Trained:
    return load_trained(small_run, devices=["cpu:0"], batch=32)


@pytest.fixture(scope="module")
def digits(trained: Trained) -> data.Source:
    return analysis.open_test(trained, None)


@pytest.fixture(scope="module")
def look(trained: Trained, digits: data.Source) -> analysis.Look:
    return analysis.look(trained, digits, images=6, among=len(digits.train))


def picture(path: Path, image: np.ndarray[Any, Any]) -> Path:
    Image.fromarray(image[..., 0]).save(path)
    return path


def test_top_five_are_those_of_predict(
    trained: Trained, digits: data.Source, look: analysis.Look, tmp_path: Path
) -> None:
    assert len(look.seen) == 6
    files = [picture(tmp_path / f"{n}.png", one.image) for n, one in enumerate(look.seen)]
    expected = predict(trained, files)
    for one, row in zip(look.seen, expected, strict=True):
        order = (-row).argsort(kind="stable")[:5]
        assert one.classes == order.tolist()
        assert one.probabilities == row[order].tolist()
        assert one.probabilities == sorted(one.probabilities, reverse=True)
    again = analysis.look(trained, digits, pictures=files, among=10)
    assert [one.probabilities for one in again.seen] == [one.probabilities for one in look.seen]
    assert [one.label for one in again.seen] == [None] * 6
    assert [one.name for one in again.seen] == [f"{n}.png" for n in range(6)]


def test_a_training_image_is_its_own_nearest(trained: Trained, digits: data.Source, tmp_path: Path) -> None:
    numbers = [3, 500, len(digits.train) - 1]
    images, labels = digits.train.read(numbers)
    files = [picture(tmp_path / f"{n}.png", image) for n, image in zip(numbers, images, strict=True)]
    found = analysis.look(trained, digits, pictures=files, among=len(digits.train))
    assert (found.hidden, found.among) == ("fc1", len(digits.train))
    for one, number, label, image in zip(found.seen, numbers, labels, images, strict=True):
        assert one.neighbours[0] == (number, 0.0, label)
        np.testing.assert_array_equal(one.near_images[0], image)
        distances = [distance for _, distance, _ in one.neighbours]
        assert len(distances) == 6 and distances == sorted(distances) and distances[1] > 0


def test_neighbours_are_nearest_of_all(trained: Trained, digits: data.Source, look: analysis.Look) -> None:
    images, _ = digits.train.read(np.arange(len(digits.train)))
    _, theirs = analysis.answers(trained.network, images)
    _, mine = analysis.answers(trained.network, np.stack([one.image for one in look.seen]))
    for one, features in zip(look.seen, mine, strict=True):
        distances = np.sqrt(((theirs.astype(np.float64) - features) ** 2).sum(axis=1))
        found = distances[[number for number, _, _ in one.neighbours]]
        np.testing.assert_allclose(found, np.sort(distances)[:6], rtol=1e-4)


@pytest.mark.parametrize(
    ("net", "name", "inputs"),
    [
        ("alexnet", "fc7", ("dropout7",)),
        ("alexnet-2012", "fc7", ("dropout7",)),
        ("cifar-quick", "fc64", ("fc64",)),
        ("cifar-18pct", "pool3", ("pool3",)),
        ("lenet", "fc1", ("fc1",)),
    ],
)
def test_the_hidden_layer_is_the_one_before_the_last(net: str, name: str, inputs: tuple[str, ...]) -> None:
    assert analysis.hidden_layer(nets.build(net)) == (name, inputs)


def test_images_are_a_mix() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    found = np.array([0, 0, 1, 1, 1, 0, 2, 2, 2, 0])  # places 2, 5 and 9 are wrong
    assert analysis.mix(found, labels, 4).tolist() == [0, 2, 5, 6]
    assert analysis.mix(found, labels, 6).tolist() == [0, 2, 3, 5, 6, 9]
    # As many of the one kind as there are, the rest of the other.
    assert analysis.mix(found, labels, 8).tolist() == [0, 1, 2, 3, 4, 5, 6, 9]
    assert analysis.mix(labels, labels, 3).tolist() == [0, 3, 6]
    assert analysis.mix(1 + labels, labels, 3).tolist() == [0, 3, 6]
    assert analysis.mix(found, labels, 20).tolist() == list(range(10))


def test_predictions_are_drawn_with_bars_and_neighbours(
    look: analysis.Look, drawn: list[Any], tmp_path: Path
) -> None:
    from matplotlib.colors import to_hex

    plots.predictions(look, tmp_path / "predictions.png", "run", "lenet on digits")
    left, right = drawn[0].subfigs
    # Two rows of four places, pictures above bars.
    top, under = left.axes[:4] + left.axes[8:12], left.axes[4:8] + left.axes[12:]
    for axes, one in zip(top, look.seen, strict=False):
        np.testing.assert_array_equal(axes.images[0].get_array(), one.image[..., 0])
        assert axes.get_title() == look.class_names[one.label or 0]
    for axes, one in zip(under, look.seen, strict=False):
        assert [bar.get_width() for bar in axes.patches] == one.probabilities
        assert [text.get_text() for text in axes.texts] == [look.class_names[n] for n in one.classes]
        colors = [to_hex(bar.get_facecolor()).upper() for bar in axes.patches]
        right_ones = [color == figures.COLORS[1] for color in colors]
        assert right_ones == [number == one.label for number in one.classes]
    rows = np.array(right.axes, object).reshape(6, 7)
    for line_, one in zip(rows, look.seen, strict=True):
        np.testing.assert_array_equal(line_[0].images[0].get_array(), one.image[..., 0])
        for axes, image in zip(line_[1:], one.near_images, strict=True):
            np.testing.assert_array_equal(axes.images[0].get_array(), image[..., 0])
        assert line_[1].get_title() == look.class_names[one.neighbours[0][2]]
    assert f"nearest in fc1 among {look.among:,} training images" in words(drawn[0])


def test_pictures_are_cropped_as_the_network_sees_them(tmp_path: Path) -> None:
    spec = alexnet.build(image_shape=(64, 64, 3), classes=3, width=1 / 12)
    network = Network(spec, batch=2, devices="cpu:0")
    state = Checkpoint(network.state(), nets.spec_to_dict(spec), {}, {"step": 0})
    one = Trained(network, list("abc"), (64, 64, 3), tmp_path, state, [])
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    np.testing.assert_array_equal(analysis.center(one, image), image[4:60, 4:60])
    shapes = {maps.layer: (maps.maps.shape, maps.count) for maps in analysis.feature_maps(one, image)}
    assert shapes["conv1"] == ((13, 13, 8), 8)
    assert list(shapes) == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    # What lies within fused layers is shown too.
    (norm,) = analysis.feature_maps(one, image, "lrn1")
    assert norm.maps.shape == (13, 13, 8)


def test_feature_maps_are_the_networks(trained: Trained, digits: data.Source) -> None:
    image = digits.test.read([7])[0][0]
    (maps,) = analysis.feature_maps(trained, image, "conv2")
    trained.network.load(image[None], np.zeros(1, np.int32))
    trained.network.forward(train=False)
    expected = trained.network.outputs("conv2")[0]
    np.testing.assert_array_equal(maps.maps, expected[..., maps.order])
    assert sorted(maps.order) == list(range(50)) and maps.count == 50
    means = maps.maps.mean(axis=(0, 1))
    assert (np.diff(means) <= 0).all() and means[0] > means[-1]
    some = analysis.feature_maps(trained, image)
    assert [(one.layer, len(one.order)) for one in some] == [("conv1", 20), ("conv2", 32)]
    assert some[1].order == maps.order[:32]
    with pytest.raises(PlotError, match=r"--layer must be one of conv1, conv2, pool1, pool2, not 'fc1'"):
        analysis.feature_maps(trained, image, "fc1")


def test_feature_maps_are_drawn_brightest_first(
    trained: Trained, digits: data.Source, drawn: list[Any], tmp_path: Path
) -> None:
    name, image = analysis.first_image(trained, digits)
    assert name == f"{digits.test.file(0)}, {digits.test.labels[0]}"
    maps = analysis.feature_maps(trained, image)
    plots.activations(image, maps, tmp_path / "activations.png", "run", name)
    query, *layers = drawn[0].axes
    np.testing.assert_array_equal(query.images[0].get_array(), image[..., 0])
    assert len(layers) == 2
    for axes, one in zip(layers, maps, strict=True):
        size = one.maps.shape[0]
        shown = tile(axes.images[0].get_array(), size, 0, 0)[..., 0]
        low, high = min(one.maps.min(), 0), one.maps.max()
        np.testing.assert_allclose(shown, (one.maps[..., 0] - low) / (high - low), atol=1e-6)
        assert axes.get_title(loc="left").startswith(f"{one.layer}: ")


def test_classes_are_called_by_their_titles(trained: Trained, digits: data.Source) -> None:
    titles = ["nil, cipher", *(f"{word}, number" for word in digits.classes[1:])]
    titled = dataclasses.replace(digits, titles=titles)
    label = int(digits.test.labels[0])
    assert analysis.first_image(trained, titled)[0].endswith(f", {titles[label].partition(',')[0]}")
    assert analysis.look(trained, titled, images=1, among=10).class_names[0] == "nil"


def test_other_data_must_fit(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        analysis.open_test(trained, str(tmp_path / "none"))
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "train" / name / "0.png")
    with pytest.raises(ValueError, match="does not fit"):
        analysis.open_test(trained, str(tmp_path))
    with pytest.raises(DataError, match="cannot be read"):
        analysis.one_image(trained, tmp_path / "none.png", None)
