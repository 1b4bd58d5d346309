"""The commands `cconvnet evaluate` and `cconvnet predict`."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from helpers.commands import refuse, run, succeed

from cconvnet.runs.checkpoint import Folder
from cconvnet.system import outputs


def test_evaluate_agrees_with_the_run(trained: Path, tmp_path: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    shown = succeed("evaluate", "--run", trained, "--json", tmp_path / "result.json", "--device", "cpu:0")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["test_error_top1"] == summary["test_error_top1"]
    assert result["images"] == 355
    assert f"top-1 error {100 * summary['test_error_top1']:.2f}%" in shown
    best = json.loads(run("evaluate", "--run", trained, "--best", "--json", "-").stdout)
    assert best["test_error_top1"] == summary["best"]["test_error_top1"]
    assert best["checkpoint"].endswith(summary["best"]["checkpoint"])


def test_evaluate_takes_a_checkpoint(trained: Path) -> None:
    first = Folder(trained / "checkpoints").files()[0]
    assert str(first) in succeed("evaluate", "--run", first, "--device", "cpu:0")


def test_evaluate_averages_runs(trained: Path, tmp_path: Path) -> None:
    first = Folder(trained / "checkpoints").files()[0]
    runs = ("--run", trained, "--run", first)
    shown = succeed("evaluate", *runs, "--json", tmp_path / "both.json", "--device", "cpu:0")
    lines = [line for line in shown.splitlines() if "top-1" in line]
    assert len(lines) == 3
    assert str(first) in lines[1]
    assert "digits, 355 test images, average of 2 networks: top-1 error" in lines[2]
    both = json.loads((tmp_path / "both.json").read_text())
    one = json.loads(run("evaluate", "--run", trained, "--json", "-").stdout)
    assert [Path(member["checkpoint"]).name for member in both["members"]] == [
        Path(one["checkpoint"]).name,
        first.name,
    ]
    assert both["members"][0]["test_error_top1"] == one["test_error_top1"]
    assert (both["images"], both["data"]) == (355, "digits")
    assert f"top-1 error {100 * both['test_error_top1']:.2f}%" in lines[2]


def test_evaluate_shows_classes_and_mistakes(trained: Path, tmp_path: Path) -> None:
    parts = ("evaluate", "--run", trained, "--device", "cpu:0", "--confusion", "--per-class", "--worst", 3)
    shown = succeed(*parts, "--csv", tmp_path / "tables", "--json", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    confusion, wrong = result["confusion"], round(result["test_error_top1"] * 355)
    assert sum(map(sum, confusion)) == 355
    assert sum(confusion[n][n] for n in range(10)) == 355 - wrong
    assert [one["wrong"] for one in result["per_class"]] != sorted(
        one["wrong"] for one in result["per_class"]
    )
    assert sum(one["wrong"] for one in result["per_class"]) == wrong
    assert (
        len(result["worst"]) == 3 and result["worst"][0]["probability"] >= result["worst"][1]["probability"]
    )
    for title in ("right class by row", "error of each class", "most confident mistakes"):
        assert title in shown
    for one in result["worst"]:
        assert one["file"] in shown
    tables = {
        name: list(csv.reader((tmp_path / "tables" / f"{name}.csv").open()))
        for name in ("confusion", "classes", "images")
    }
    assert tables["confusion"][0] == ["class", *result["classes"]]
    assert [[int(cell) for cell in row[1:]] for row in tables["confusion"][1:]] == confusion
    assert [row[1] for row in tables["classes"][1:]] == [one["name"] for one in result["per_class"]]
    assert len(tables["images"]) == 356
    assert sum(row[2] != row[3] for row in tables["images"][1:]) == wrong
    # Without the flags there is none of it.
    assert "confusion" not in json.loads(run("evaluate", "--run", trained, "--json", "-").stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_tables_contain_names_that_are_no_text_as_their_bytes(tmp_path: Path) -> None:
    outputs.write_csv(tmp_path / "a.csv", ["file", "n"], [[os.fsdecode(b"\xe9,\n.png"), None], ["b", 0.5]])
    assert (tmp_path / "a.csv").read_bytes() == b'file,n\n"\xe9,\n.png",\nb,0.5\n'


def test_evaluate_replaces_no_other_file(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("my own notes\n")
    text = refuse("evaluate", "--run", trained, "--csv", tmp_path)
    assert "images.csv already exists and is not a csv file" in text
    assert [file.name for file in tmp_path.iterdir()] == ["images.csv"]


def test_views(trained: Path, digit: Path) -> None:
    """Digits are not cropped, so the ten views are two."""
    shown = succeed("evaluate", "--run", trained, "--views", "ten", "--device", "cpu:0")
    assert "355 test images, 2 views, " in shown
    assert "1 view, " in succeed("evaluate", "--run", trained, "--device", "cpu:0")
    text = "--views must be one of center, ten, not 'centre'; did you mean 'center'?"
    assert text in refuse("evaluate", "--run", trained, "--views", "centre")
    assert text in refuse("predict", "--run", trained, digit, "--views", "centre", "--device", "cpu:0")
    assert "zero.png" in succeed("predict", "--run", trained, digit, "--views", "ten", "--device", "cpu:0")


def test_predict_shows_a_table(trained: Path, digit: Path) -> None:
    text = succeed("predict", "--run", trained, digit, "--top", 3, "--device", "cpu:0")
    rows = [line for line in text.splitlines() if "%" in line]
    assert len(rows) == 3
    assert "zero.png" in rows[0]
    assert rows[0].split("│")[2].strip() == "0"
    done = json.loads(run("predict", "--run", trained, digit, "--json", "-").stdout)
    assert done[0]["classes"][0]["class"] == "0"
    assert len(done[0]["classes"]) == 5


def test_pictures_that_cannot_be_read_do_not_stop_the_others(
    trained: Path, digit: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.png").write_bytes(digit.read_bytes()[:90])
    bad = [tmp_path / "empty.jpg", tmp_path / "gone.png", tmp_path, tmp_path / "cut.png"]
    given = [bad[0], *[digit] * 40, bad[1], bad[2], *[digit] * 40, bad[3], digit]  # more than a batch
    done = run("predict", "--run", trained, *given, "--device", "cpu:0", "--top", 2, "--json", "-")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"error: {path} ") for line, path in zip(lines, bad, strict=True))
    found = json.loads(done.stdout)
    assert [one["picture"] for one in found] == list(map(str, given))
    for one, path in zip(found, given, strict=True):
        if path in bad:
            assert set(one) == {"picture", "error"} and str(path) in one["error"]
        else:
            assert one["classes"][0]["class"] == "0" and one["classes"] == found[1]["classes"]
    done = run("predict", "--run", trained, bad[0], digit, "--device", "cpu:0", COLUMNS="300")
    assert done.returncode == 1 and str(digit) in done.stdout and "empty.jpg" not in done.stdout
    done = run("predict", "--run", trained, *bad[:2], "--device", "cpu:0", "--json", "-")
    assert done.returncode == 2
    assert [set(one) for one in json.loads(done.stdout)] == [{"picture", "error"}] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_names_of_files_that_are_no_text(trained: Path, digit: Path, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xe9.png")
    shutil.copy(digit, file)
    done = run("predict", "--run", trained, file, COLUMNS="200", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (0, "") and r"\udce9.png" in done.stdout
