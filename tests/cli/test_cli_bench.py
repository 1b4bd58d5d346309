"""The commands `cconvnet bench ...` write what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.commands import refuse, succeed
from PIL import Image


def test_bench_data_says_what_limits(tmp_path: Path) -> None:
    files = tmp_path / "data.json", tmp_path / "data.png"
    output = succeed(
        *("bench", "data", "--device", "cpu:0", "--seconds", 0.1, "--no-peer"),
        *("--json", files[0], "--plot", files[1]),
    )
    assert "digits: " in output and "limits: " in output
    result = json.loads(files[0].read_text())
    assert result["what"] == "data" and {row["stage"] for row in result["rows"]} >= {
        "decode",
        "load",
        "train",
    }
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert "there is no /nowhere" in refuse("bench", "data", "--data", "/nowhere", "--device", "cpu:0")
    assert "--workers must be at least 0" in refuse("bench", "data", "--workers", -1, "--device", "cpu:0")


def test_bench_kernels_writes_and_draws_what_it_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file, picture = tmp_path / "kernels.json", tmp_path / "kernels.png"
    arguments = ("--net", "cifar-quick", "--batch", 1, "--only", "fc10", "--seconds", 0.001, "--no-peer")
    text = succeed(
        "bench", "kernels", *arguments, "--device", "emulator:0", "--json", file, "--plot", picture
    )
    result = json.loads(file.read_text())
    assert [row["operation"] for row in result["rows"]] == ["fc_fprop", "fc_dgrad", "fc_wgrad"]
    assert text.count("fc10 ") == 3
    with Image.open(picture) as drawn:
        assert drawn.width > 500


def test_bench_kernels_refuses_before_it_measures(tmp_path: Path) -> None:
    start = ("bench", "kernels", "--device", "cpu:0")
    assert "net must be one of " in refuse(*start, "--net", "resnet51")
    assert "two networks" in refuse(*start, "--net", "resnet50", "--layer-def", "a", "--layer-params", "b")
    assert "exclude each other" in refuse(*start, "--no-peer", "--peers", "pytorch")
    assert "there is no folder" in refuse(*start, "--json", tmp_path / "nowhere" / "result.json")
    pytest.importorskip("matplotlib")
    assert "must end with a kind of picture" in refuse(*start, "--plot", tmp_path / "bars.txt")


def test_bench_step_writes_what_it_measured(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    arguments = ("--net", "lenet", "--batch", 8, "--steps", 3, "--device", "cpu:0", "--json", file)
    text = succeed("bench", "step", "--no-peer", *arguments)
    result = json.loads(file.read_text())
    assert len(result["steps_seconds"]) == 3
    assert 0 < result["step_seconds_min"] <= result["step_seconds"]
    assert result["images_per_second"] == pytest.approx(8 / result["step_seconds"])
    assert result["peak_rss_bytes"] > 10_000_000
    assert (result["net"], result["batch"], result["device"]) == ("lenet", 8, "cpu:0")
    assert "images/s" in text


def test_bench_roofline_tells_layers_and_writes_files(tmp_path: Path) -> None:
    file = tmp_path / "roofline.json"
    # The emulator's limits are measured at once.
    arguments = ("--batch", 1, "--steps", 1, "--warmup", 0, "--device", "emulator:0", "--json", file)
    text = succeed("bench", "roofline", *arguments)
    result = json.loads(file.read_text())
    assert (result["what"], result["net"], len(result["rows"])) == ("roofline", "lenet", 20)
    assert all(
        words in text for words in ("conv2", "dgrad", "limits, measured:", "furthest from their floor")
    )


def test_bench_scaling_tells_fits_and_what_was_left_out(tmp_path: Path) -> None:
    file = tmp_path / "scaling.json"
    arguments = ("--batch-max", 2, "--sizes", "8,12", "--device", "cpu:0", "--json", file)
    text = succeed("bench", "scaling", *arguments)
    result = json.loads(file.read_text())
    assert [(row["batch"], row["size"]) for row in result["rows"]] == [(1, 8), (2, 8), (2, 8), (2, 12)]
    assert "MB for each image" in text and "for each pixel" in text
    assert "--sizes must be whole numbers" in refuse("bench", "scaling", "--sizes", "8,x")
