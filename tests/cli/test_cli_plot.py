"""The commands `cconvnet plot ...` and `cconvnet report` write files."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import refuse, run, succeed
from PIL import Image


def test_drawn_predictions_leave_out_what_cannot_be_read(trained: Path, digit: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    gone, out = tmp_path / "gone.png", tmp_path / "some.png"
    options = ("--among", 20, "--out", out, "--device", "cpu:0", "--picture", gone)
    shown = ("plot", "predictions", trained, *options)
    done = run(*shown, "--picture", digit)
    assert (done.returncode, done.stdout) == (1, f"{out}\n") and out.is_file()
    assert f"error: {gone} cannot be read" in done.stderr
    out.unlink()
    assert f"{gone} cannot be read" in refuse(*shown) and not out.exists()


def test_plot_draws_into_the_run(trained: Path, digit: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert (trained / "curve.png").exists()
    options = ("--x", "step", "--smooth", 3, "--log", "--out", tmp_path / "curve.svg")
    assert succeed("plot", trained, *options) == f"{tmp_path / 'curve.svg'}\n"
    text = (tmp_path / "curve.svg").read_text()
    assert all(word in text for word in ("top-1 error", "loss, logarithmic", "step", "lenet on digits"))
    for kind, *arguments in (
        ("filters", "--scale", "shared"),
        ("predictions", "--images", 4, "--among", 100),
        ("activations", "--picture", digit, "--layer", "conv2"),
    ):
        assert succeed("plot", kind, trained, *arguments) == f"{trained / f'{kind}.png'}\n"
        with Image.open(trained / f"{kind}.png") as picture:
            assert picture.width > 1000


def test_several_runs_are_drawn_into_the_working_folder(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    (other / "curve.png").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "cconvnet", "plot", "--linear", trained, other],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=200,
    )
    assert done.stdout == "curves.png\n"
    assert (tmp_path / "curves.png").exists() and not (other / "curve.png").exists()


def test_following_ends_by_ctrl_c_without_complaint(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run_ = tmp_path / "run"
    shutil.copytree(trained, run_)
    (run_ / "summary.json").unlink()
    (run_ / "curve.png").unlink()
    command = [sys.executable, "-m", "cconvnet", "plot", run_, "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=100)
    assert said == f"{run_ / 'curve.png'}, redrawn as the log grows; Ctrl-C ends it\n"
    assert (process.returncode, rest, errors) == (0, "", "")
    assert (run_ / "curve.png").exists()


def test_pictures_that_cannot_be_drawn(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert "did you mean 'conv2'" in refuse("plot", "filters", trained, "--layer", "conv22")
    assert "must end with a kind of picture" in refuse("plot", "predictions", trained, "--out", "x.doc")
    assert "--images must be at least 1" in refuse("plot", "predictions", trained, "--images", 0)
    assert "cannot be read" in refuse("plot", "activations", trained, "--picture", tmp_path / "gone.png")
    assert "there is no folder" in refuse("report", trained, "--out", tmp_path / "gone" / "report.html")


def test_report_is_one_file(trained: Path) -> None:
    assert succeed("report", trained, "--device", "cpu:0") == f"{trained / 'report.html'}\n"
    assert (trained / "report.html").read_text().startswith("<!DOCTYPE html>")
