"""The picture of a step of several ranks, and the command that traces it on two."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import mpi
from helpers.rank_records import ranks_record
from PIL import Image

from cconvnet.plots import rank_timeline

pytest.importorskip("matplotlib")
module: Any = sys.modules["cconvnet.plots.rank_timeline"]  # its name is the function's too
CCONVNET = [sys.executable, "-P", "-m", "cconvnet", "plot", "timeline"]


def has_color(file: Path, color: str) -> bool:
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(pixels - wanted).sum(axis=2) < 12).any())


@pytest.mark.parametrize("ranks", [2, 8])
def test_the_picture(ranks: int, tmp_path: Path) -> None:
    file = tmp_path / "step.png"
    line = rank_timeline(ranks_record(ranks), file)
    assert line == (
        f"batch 12 in {ranks} shards, fp32, on here: 10.0 s (1 images/s), the median of 1; "
        "not traced 9.50 s; clocks agree to 10.0 µs"
    )
    for color in (*(module.TRANSFERS[what] for what in ("check", "factors")), module.PASS_COLORS["update"]):
        assert has_color(file, color)
    assert not has_color(file, module.TRANSFERS["gradients"])


def test_hosts_are_named_where_there_are_several(tmp_path: Path) -> None:
    made = ranks_record(2)
    made.ranks[1] = dataclasses.replace(made.ranks[1], host="there.example.org")
    file = tmp_path / "step.svg"
    assert ", on 2 hosts: " in rank_timeline(made, file)
    assert "there cpu:0" in file.read_text()
    rank_timeline(ranks_record(2), file)
    assert "here cpu:0" not in file.read_text()


def test_a_step_of_two_ranks(tmp_path: Path) -> None:
    """The first of two ranks writes all; the second has two of three shards."""
    files = {name: tmp_path / name for name in ("step.png", "step.json", "trace.json")}
    picture, values, trace = map(str, files.values())
    options = ["--net", "lenet", "--shards", "3", "--steps", "1", "--out", picture, "--trace", trace]
    done = mpi.run(2, *CCONVNET, *options, "--json", values)
    assert done.returncode == 0, done.stderr
    about, where = done.stdout.splitlines()
    assert about.startswith("batch 63 in 3 shards, fp32, on ")
    assert where == picture
    found = json.loads(files["step.json"].read_text())
    assert [rank["shards"] for rank in found["ranks"]] == [[0], [1, 2]]
    assert 0 <= found["clock_error"] < 1
    begun = [[(one["of"], one["what"]) for one in rank["transfers"]] for rank in found["ranks"]]
    assert begun[0] == begun[1]
    assert ("losses", "check") in begun[0] and ("bucket 1", "weights") in begun[0]
    for number, rank in enumerate(found["ranks"]):
        forward = [span["shard"] for span in rank["spans"] if span["what"] == "forward"]
        assert sorted(set(forward)) == rank["shards"]
        for stretch in (*rank["spans"], *rank["transfers"], *rank["waits"]):
            assert 0 <= stretch["begin"] <= stretch["end"] <= found["seconds"]
        assert {wait["rank"] for wait in rank["waits"]} <= {None, 1 - number}
    events = json.loads(files["trace.json"].read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1}
    assert files["step.png"].exists()
