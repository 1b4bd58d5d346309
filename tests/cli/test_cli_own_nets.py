"""Networks of the user's own on the command line: --net FILE.py and --net FILE.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import run, succeed
from helpers.training import SETTINGS, run_training

import cconvnet as cc
from cconvnet import cli, nets, runs
from cconvnet.runs.reading import RunError

TEXT = """
import cconvnet as cc

def build(image_shape=(8, 8, 1), classes=10):
    x = cc.image(*image_shape).conv(4, 3, pad=1).relu().maxpool(2)
    x = (x + x.conv(4, 3, pad=1)).relu()
    return x.mean().fc(classes).softmax("mine")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_net.py"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "command",
    [
        "describe",
        "gradcheck",
        "bench step --no-peer --steps 1 --warmup 0 --batch 2",
        "bench roofline --steps 1 --warmup 0 --batch 2",
        "bench checkpoint --steps 1 --saves 1 --batch 2 --out FOLDER",
        "plot timeline --steps 1 --batch 2 --out FOLDER/timeline.png",
        "augment --images 2 --epochs 1 --out FOLDER/sheet.png",
        "export --out FOLDER/exported",
    ],
    ids=lambda command: command.split(" --")[0],
)
def test_a_command_takes_a_file(
    command: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command.replace("FOLDER", str(file.parent)).split()
    if "export" not in command and "augment" not in command:
        arguments += ["--device", "cpu:0"]
    monkeypatch.setattr("sys.argv", ["cconvnet", *arguments, "--net", str(file)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0, capsys.readouterr().err
    assert not list(file.parent.rglob("__pycache__"))


def test_an_error_is_the_users_line_and_no_traceback(file: Path) -> None:
    file.write_text(TEXT.replace("4, 3, pad=1).relu()", "4, 99).relu()"), encoding="utf-8")
    done = run("describe", "--net", file)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {file}:5: layer conv1: r is 99, larger than the padded image, 8; it reads 8x8x1\n"
        "    x = cc.image(*image_shape).conv(4, 99).relu().maxpool(2)\n"
    )


def test_what_describe_writes_is_a_network(file: Path, tmp_path: Path) -> None:
    described = tmp_path / "net.json"
    succeed("describe", "--net", file, "--device", "cpu:0", "--json", described)
    again = json.loads(run("describe", "--net", described, "--device", "cpu:0", "--json", "-").stdout)
    assert again == json.loads(described.read_text(encoding="utf-8"))
    assert again["multiply_adds"] == 64 * 4 * 9 + 16 * 4 * 9 * 4 + 4 * 10
    assert [layer["multiply_adds"] for layer in again["layers"]].count(0) == 5
    compared = json.loads(run("describe", "--compare", described, "lenet", "--json", "-").stdout)
    assert {"layer": "fc1", "value": "outputs", str(described): "10", "lenet": "500"} in compared


def test_a_run_records_the_network_and_needs_the_file_no_more(file: Path, tmp_path: Path) -> None:
    whole = run_training(net=str(file), out=tmp_path / "whole").path
    first = run_training(net=str(file), out=tmp_path / "first", epochs=1).path
    config = json.loads((first / "config.json").read_text(encoding="utf-8"))
    x = cc.image(8, 8, 1).conv(4, 3, pad=1).relu().maxpool(2)
    net = (x + x.conv(4, 3, pad=1)).relu().mean().fc(10).softmax("mine")
    assert nets.spec_from_dict(config["spec"]) == net
    assert config["settings"]["net"] == "mine"

    # The same command again, then without the file, which is gone.
    only = {key: SETTINGS[key] for key in ("devices", "log_every")}
    run_training(net=str(file), resume=first, **{**dict.fromkeys(SETTINGS), **only, "epochs": 1})
    file.unlink()
    run_training(resume=first, **{**dict.fromkeys(SETTINGS), **only, "epochs": 2})
    ends = [runs.find_checkpoint(path)[1].tensors for path in (whole, first)]
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert np.array_equal(value, ends[1][name]), name


def test_a_run_whose_options_changed_the_network_resumes_with_its_file(file: Path, tmp_path: Path) -> None:
    changes = {"size": 16, "crop": 12, "weight_decay": 0.001, "place": {"conv2": 0}}
    path = run_training(net=str(file), out=tmp_path / "run", epochs=1, **changes).path
    only = {**dict.fromkeys(SETTINGS), "devices": ["cpu:0"], "log_every": 4}
    outcome = run_training(net=str(file), resume=path, **{**only, "epochs": 2})
    assert outcome.summary["epochs"] == 2


def test_another_network_cannot_resume(file: Path, tmp_path: Path) -> None:
    path = run_training(net=str(file), out=tmp_path / "run", epochs=1).path
    only = {**dict.fromkeys(SETTINGS), "devices": ["cpu:0"], "log_every": 4}
    # Of the same tensors, but not the same network.
    file.write_text(TEXT.replace("x.mean()", "x.maxpool(4)"), encoding="utf-8")
    with pytest.raises(RunError, match=r"trains mine, not .*my_net.py; leave out --net, or start a new run"):
        run_training(net=str(file), resume=path, **only)
