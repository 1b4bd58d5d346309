"""Training on several devices: the same bits as on one, and counted copies."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.training import colored_pictures

from cconvnet import nets
from cconvnet.console import Reporter
from cconvnet.nets import NetSpec, alexnet_2012
from cconvnet.network import Network
from cconvnet.runs import RunError, checkpoint
from cconvnet.runs.checkpoint import Folder
from cconvnet.training.options import Options
from cconvnet.training.session import train
from cconvnet.training.trainer import Outcome


@pytest.fixture
def small_alexnet(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(image_shape: tuple[int, int, int], classes: int) -> NetSpec:
        return alexnet_2012.build(image_shape, classes, width=1 / 16)

    monkeypatch.setitem(nets.catalog._BUILDERS, "alexnet-2012", build)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return colored_pictures(tmp_path / "pictures", count=48, side=76)


def two_tower_run(path: Path, data: Path, **values: Any) -> Outcome:
    given: dict[str, Any] = {"net": "alexnet-2012", "size": 76, "batch": 16, "seed": 3}
    given |= {"data": str(data), "out": path}
    if "resume" in values:
        given = {}
    options = Options(**{**given, "log_every": 2, "workers": 0, **values})
    return train(options, Reporter(io.StringIO()))


def weights_at(path: Path, step: int) -> dict[str, Any]:
    return checkpoint.load(Folder(path / "checkpoints").file(step)).tensors


@pytest.mark.usefixtures("small_alexnet")
def test_a_run_on_two_devices_goes_on_bitwise_on_one(tmp_path: Path, pictures: Path) -> None:
    pair = ["cpu:0", "cpu:1"]
    whole = two_tower_run(tmp_path / "whole", pictures, devices=pair, steps=8)
    two_tower_run(tmp_path / "part", pictures, devices=pair, steps=3)
    rest = two_tower_run(tmp_path / "part", pictures, resume=tmp_path / "part", devices=["cpu:0"], steps=8)
    right, found = weights_at(whole.path, 8), weights_at(rest.path, 8)
    assert right.keys() == found.keys() and "conv3.weight" in found
    for name, tensor in right.items():
        assert tensor.tobytes() == found[name].tobytes(), name
    assert whole.summary["device"] == "cpu:0,cpu:1" and rest.summary["device"] == "cpu:0"


@pytest.mark.usefixtures("small_alexnet")
def test_a_run_on_one_device_goes_on_on_two(tmp_path: Path, pictures: Path) -> None:
    two_tower_run(tmp_path / "run", pictures, devices=["cpu:0"], steps=2)
    output = io.StringIO()
    options = Options(resume=tmp_path / "run", devices=["cpu:0", "cpu:1"], steps=4, workers=0)
    outcome = train(options, Reporter(output))
    assert "towers: 2 from here on, it was 1: rounding differs" in output.getvalue()
    assert outcome.summary["steps"] == 4 and outcome.summary["copied_bytes"] > 0


@pytest.mark.usefixtures("small_alexnet")
def test_the_log_counts_what_the_description_lists(tmp_path: Path, pictures: Path) -> None:
    outcome = two_tower_run(tmp_path / "run", pictures, devices=["cpu:0", "cpu:1"], steps=6)
    spec = nets.build("alexnet-2012", image_shape=(76, 76, 3), classes=3)
    description = Network(spec, batch=16, devices=["cpu:0", "cpu:1"]).describe()
    per_step = description["copied_bytes_per_step"]
    assert per_step == 2 * sum(copy["bytes"] for copy in description["copies"]) > 0
    lines = [json.loads(line) for line in (outcome.path / "log.jsonl").read_text().splitlines()]
    windows = [line for line in lines if "copied_bytes" in line]
    assert [line["copied_bytes"] for line in windows] == [2 * per_step] * 3
    assert all(line["copy_seconds"] > 0 for line in windows)
    assert outcome.summary["copied_bytes"] == 6 * per_step


@pytest.mark.usefixtures("small_alexnet")
def test_other_towers_than_the_runs_are_refused(tmp_path: Path, pictures: Path) -> None:
    two_tower_run(tmp_path / "run", pictures, devices=["cpu:0"], steps=1, towers=2)
    with pytest.raises(RunError, match="--towers 4 differs from the run's, 2"):
        two_tower_run(tmp_path / "run", pictures, resume=tmp_path / "run", towers=4)
