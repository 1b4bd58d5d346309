"""Results of ablations: tables, sentences and the picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cconvnet import plots
from cconvnet.plots import figures
from cconvnet.runs import RunError
from cconvnet.runs.ablation import markdown, notes, relu_and_tanh, results, runs_of, table
from cconvnet.runs.history import History


def write(run: Path, errors: list[float], per_epoch: int = 2, **test: float) -> None:
    """Write a log of steps with these training errors, and of one epoch for each `per_epoch` of them."""
    lines: list[dict[str, Any]] = []
    for step, error in enumerate(errors, 1):
        epoch = step / per_epoch
        line = {"step": step, "epoch": epoch, "train_error_top1": error}
        lines.append({**line, "loss": 1.0, "lr": 0.1, "images_per_second": 100.0})
        if step % per_epoch == 0:
            tested = {"test_loss": 1.0, "test_error_top1": 0.5, "test_error_top5": 0.1, **test}
            lines.append({**line, "epoch": int(epoch), "train_loss": 1.0, **tested})
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def folder(small_run: Path, tmp_path: Path) -> Path:
    """A full run and one with tanh, whose training errors fall by steps of 10 points and of 5."""
    for name in ("full", "tanh"):
        shutil.copytree(small_run, tmp_path / name, ignore=shutil.ignore_patterns("checkpoints"))
    write(tmp_path / "full", [0.9, 0.7, 0.5, 0.3, 0.1, 0.1], test_error_top1=0.4)
    write(tmp_path / "tanh", [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], test_error_top1=0.45)
    return tmp_path


def test_relu_and_tanh_are_compared_at_the_error_that_both_reached(folder: Path) -> None:
    def compared() -> Any:
        return relu_and_tanh([History(path) for path in runs_of(folder)])

    assert compared() == pytest.approx({"error": 0.4, "relu_epochs": 1.75, "tanh_epochs": 3.0})
    write(folder / "tanh", [0.9, 0.7, 0.5, 0.4, 0.3, 0.2])
    assert compared() == pytest.approx({"error": 0.25, "relu_epochs": 2.125, "tanh_epochs": 2.75})
    (folder / "tanh" / "log.jsonl").write_text("")
    assert compared() is None


def test_results_are_beside_what_the_paper_found(folder: Path) -> None:
    shutil.copytree(folder / "tanh", folder / "no-lrn")
    (folder / "no-lrn" / "log.jsonl").write_text("")
    found = results(folder)
    full, tanh, no_lrn = found["runs"]
    assert (full["test_error_top1"], full["test_error_top1_difference"], full["finding"]) == (0.4, None, None)
    assert tanh["test_error_top1_difference"] == pytest.approx(0.05)
    assert tanh["train_error_top1_difference"] == pytest.approx(0.3)
    assert (full["epochs_to_25_percent"], tanh["epochs_to_25_percent"]) == (pytest.approx(2.125), None)
    assert (no_lrn["test_error_top1"], no_lrn["section"]) == (None, "3.3")
    columns, rows = table(found)
    assert columns == ["network", "test error", "training error", "epochs to 25%", "images/s", "the paper"]
    assert rows[1][:3] == ["tanh", "45.00% (+5.00)", "40.00% (+30.00)"]
    assert rows[2][1:4] == ["", "", ""] and rows[2][5].startswith("3.3: LRN reduces")
    sentences = notes(found)
    assert sentences[0].startswith(
        "ReLU reached 40.0% training error after 1.8 epochs, tanh after 3.0: 1.7 times"
    )
    # 2 sqrt(2 0.4 0.6 / 355), in percent
    assert "With 355 test images and one seed, those of test errors under 7.4 points" in sentences[1]
    page = markdown(found)
    assert page.startswith("# Ablations of lenet on digits\n\n4 epochs, seed 0")
    assert all(f"\n| {' | '.join(row)} |\n" in page for row in rows)
    found["classes"] = 1000
    assert table(found)[1][0][2] == "10.00%"


def test_a_folder_without_a_full_run_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "full")
    with pytest.raises(RunError, match="contains no ablation: there is no run"):
        results(folder)


def test_the_picture_has_relu_solid_and_tanh_dashed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    pages: list[Any] = []
    monkeypatch.setattr(figures, "save", lambda page, path: (page.canvas.draw(), pages.append(page)))
    plots.ablation(folder, folder / "ablation.png")
    training, test = pages[0].axes
    lines = {line.get_label(): line for line in training.lines}
    assert (lines["full"].get_linestyle(), lines["tanh"].get_linestyle()) == ("-", "--")
    assert list(lines["full"].get_ydata()) == [0.9, 0.7, 0.5, 0.3, 0.1, 0.1]
    assert training.texts[0].get_text() == ("40.0%, the lowest of both: 1.8 epochs with ReLU, 3.0 with tanh")
    assert [list(line.get_ydata()) for line in test.lines] == [[0.4] * 3, [0.45] * 3]
