"""The command `cconvnet train`: results, the run's folder, a bar on a terminal."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from helpers.commands import run, succeed

from cconvnet import cli


def test_train_says_results_and_where_the_files_are(tmp_path: Path) -> None:
    output = succeed("train", "--device", "cpu:0", "--epochs", 1, "--out", tmp_path / "run")
    lines = output.splitlines()
    assert lines[0].startswith("device: cpu:0: ")
    assert re.fullmatch(
        r"test error [\d.]+%, top 5 [\d.]+%, [\d,]+ images/s on cpu:0, 22 steps in [\d.]+ s", lines[-2]
    )
    assert lines[-1] == f"files: {tmp_path / 'run'}"


def test_train_names_its_folder_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cconvnet", "train", "--device", "cpu:0", "--steps", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
        timeout=200,
    )
    (path,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"lenet-digits-\d{8}-\d{6}", path.name)
    assert f"to resume: cconvnet train --resume runs/{path.name}" in done.stdout


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "cconvnet",
            "train",
            "--device",
            "cpu:0",
            "--steps",
            "8",
            "--out",
            tmp_path / "r",
        ],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError as error:
            # So Linux says that the other side has closed the terminal.
            assert error.errno == errno.EIO
            break
        if not part:
            break
        shown += part
    assert process.wait(timeout=200) == 0
    assert "epoch 1/" in shown.decode()
    assert "images/s" in shown.decode()
    assert "\x1b[?25l" not in shown.decode()  # the cursor was never hidden


def test_training_goes_on_without_matplotlib(tmp_path: Path) -> None:
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('none here')")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = run("train", "--device", "cpu:0", "--steps", 1, "--out", tmp_path / "run", PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("pip install matplotlib") == 1
    assert not (tmp_path / "run" / "curve.png").exists()


def test_a_recipe_on_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--lr-plateau", 3, "--freeze", "conv1", "--lr-scale", "fc2=0.5", "--color-noise", 0.2)
    steps = ("--steps", 3, "--log-every", 1)
    succeed("train", "--device", "cpu:0", *flags, *steps, "--lr", 0.1, "--out", out)
    settings = json.loads((out / "config.json").read_text())["settings"]
    assert (settings["lr_plateau"], settings["color_noise"]) == (3, 0.2)
    assert settings["lr_scale"] == {"fc2": 0.5, "conv1": 0.0}
    last = json.loads((out / "log.jsonl").read_text().splitlines()[2])
    assert last["lr"] == 0.1
    assert last["lr_other"] == {
        "conv1.weight": 0.0,
        "conv1.bias": 0.0,
        "fc2.weight": 0.05,
        "fc2.bias": 0.05,
    }
    shown = succeed("train", "--resume", out, "--steps", 5, "--lr-scale", "conv1=1", "--color-noise", 0)
    assert "lr: conv1 learns at 1 times its rate from here on" in shown
    assert "colour noise: 0 from here on" in shown
