"""Tests of bench data: each stage is measured in steady state, and the limiting one is named."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cconvnet import data
from cconvnet.bench import data as bench
from cconvnet.bench.peers import feeding
from cconvnet.bench.peers.cconvnet_data import Repeated
from cconvnet.bench.processes import PeerMissing
from cconvnet.data.byte_ranges import ByteRange

FAKE = '''
from cconvnet.bench.processes import PeerMissing

class Fake:
    """A peer that is fastest with one worker."""

    def __init__(self, data, size, crop, batch):
        if batch == 3:
            raise PeerMissing("no such library: pip install it")
        self.crop = crop

    def about(self):
        return {"what": f"crops of {self.crop}"}

    def measure(self, workers, seconds):
        return (60, 2.0 * workers)
'''


def make_pictures(root: Path, count: int = 40) -> Path:
    for number in range(count):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (36, 30), (number, 100, 7)).save(folder / f"{number:03d}.png")
    return root


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "fake_data.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(bench.__file__).parents[2]}")
    return "fake_data:Fake"


def test_all_stages_of_pictures_beside_a_peer(tmp_path: Path, fake: str) -> None:
    folder = make_pictures(tmp_path / "pictures")
    turns: list[tuple[int, int]] = []
    result = bench.bench_data(
        "lenet",
        str(folder),
        size=28,
        batch=8,
        device="cpu:0",
        workers=2,
        seconds=0.1,
        peer=fake,
        measured=lambda *turn: turns.append(turn),
    )
    ours, theirs = result["rows"][:-1], result["rows"][-1]
    assert [row["stage"] for row in ours] == list(bench.STAGES)
    assert all(row["images_per_second"] > 0 and row["turns"] == 5 for row in result["rows"])
    assert turns == [(number, 40) for number in range(1, 41)]
    assert result["pictures"] == 40 and result["times_over"] == 40 and result["image"] == [28, 28, 3]
    sizes = [file.stat().st_size for file in folder.rglob("*.png")]
    assert result["picture_bytes"] == pytest.approx(np.mean(sizes))
    by_stage = {row["stage"]: row for row in ours}
    load, train = by_stage["load"], by_stage["train"]
    assert load["pixel_bytes_per_second"] == pytest.approx(load["images_per_second"] * 28 * 28 * 3)
    assert load["share"] == pytest.approx(train["images_per_second"] / load["images_per_second"])
    # The peer has the number of workers that serves it best.
    assert theirs["side"] == "PyTorch" and theirs["workers"] == 1 and theirs["images_per_second"] == 30
    assert result["peers"]["pytorch"] == {"what": "crops of 28", "tried_workers": {1: 30.0, 2: 15.0}}
    assert result["ratios"]["crops"] == pytest.approx(by_stage["crops"]["images_per_second"] / 30)
    assert result["limit"]["stage"] in bench.STAGES
    header, rows = bench.table(result)
    assert len(rows) == 8 and all(len(row) == len(header) for row in rows)
    assert rows[-1][0] == "PyTorch crops"
    assert "times as many crops" in bench.verdict(result)[-1]
    json.dumps(result)


def test_a_peer_that_is_missing_is_said_and_left_out(
    tmp_path: Path, fake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_ROUNDS", 1)
    said: list[str] = []
    folder = make_pictures(tmp_path / "pictures")
    result = bench.bench_data(
        "lenet", str(folder), size=28, batch=3, device="cpu:0", seconds=0.05, peer=fake, say=said.append
    )
    assert said == ["no such library: pip install it"]
    assert result["ratios"] == {} and len(result["rows"]) == len(bench.STAGES)
    assert len(bench.verdict(result)) == 1


def test_arrays_are_measured_too(fake: str) -> None:
    result = bench.bench_data("lenet", None, device="cpu:0", seconds=0.05, peer=fake)
    assert result["picture_bytes"] is None and "no decoding" in result["peers"]["pytorch"]["missing"]
    assert all("read_bytes_per_second" not in row for row in result["rows"])


def test_what_was_ready_is_not_counted() -> None:
    """A stage that has 4 batches lying there gives the rate at which it makes more."""
    calls: list[int] = []

    def advance() -> int:
        calls.append(len(calls))
        return 10

    images, seconds = feeding.timed(advance, 0.02, ahead=4)
    assert images == 10 * (len(calls) - 5) and images > 0 and seconds >= 0.02


RATES = {"decode 1": 500.0, "decode": 1000.0, "load": 1000.0, "crops": 900.0, "feed": 950.0, "step": 5000.0}
RATES["train"] = 900.0
ABOUT = {"workers": 2, "cores": 2, "device": "cuda:0", "decoder": "simplejpeg 1"}


@pytest.mark.parametrize(
    ("changed", "about", "stage", "said"),
    [
        ({}, {}, "decode", r"decoding limits: 2 workers decode 1,000 images/s; .* 5,000 .* more cores"),
        ({}, {"cores": 16}, "decode", r"more --workers \(there are 16 cores\)"),
        ({}, {"decoder": ""}, "decode", "reading limits: 1,000 images/s"),
        ({"decode": 3000.0}, {}, "load", "making batches limits: 1,000 images/s, of 3,000"),
        ({"feed": 500.0}, {}, "feed", "copying images to the device limits: 500 images/s, of 1,000"),
        ({"step": 900.0, "train": 890.0}, {}, "step", "computing limits: .* 900 .* Faster loading would not"),
        (
            {"step": 900.0, "train": 500.0},
            {},
            "step",
            "reaches 500: loading and computing do not",
        ),
        ({"step": 90.0, "train": 50.0}, {"device": "cpu:0"}, "step", "the cores that decode are those that"),
    ],
)
def test_the_limiting_stage(changed: dict[str, float], about: dict[str, Any], stage: str, said: str) -> None:
    found = bench.limit(RATES | changed, ABOUT | about)
    assert found["stage"] == stage
    assert re.search(said, found["text"]), found["text"]


def test_a_split_several_times_over() -> None:
    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    inner = data.MemorySplit("train", pixels, np.arange(5, dtype=np.int32) % 2)
    split = Repeated(inner, 3)
    assert len(split) == 15 and split.labels.tolist() == [0, 1, 0, 1, 0] * 3
    with data.Loader(split, 4, 1) as loader:
        batches = list(itertools.islice(loader.epoch(0), 3))
    for batch in batches:
        assert batch.images.reshape(-1).tolist() == (batch.indices % 5).tolist()
        assert np.array_equal(batch.labels, batch.indices % 5 % 2)
    split.skip(13, "broken")
    assert inner.skipped == {3: "broken"} and split.file(13) == inner.file(3)


def test_bad_arguments() -> None:
    for arguments, message in (
        ({"seconds": 0.0}, "--seconds must be above 0"),
        ({"seconds": float("nan")}, "--seconds must be above 0"),
        ({"workers": -1}, "--workers must be at least 0"),
        ({"batch": 0}, "--batch must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            bench.bench_data("lenet", device="cpu:0", **arguments)


# ---- the real peer ---------------------------------------------------------------------------------------


def test_pytorchs_transforms(tmp_path: Path) -> None:
    try:
        from cconvnet.bench.peers import pytorch_data
    except PeerMissing as error:
        pytest.skip(str(error))
    values = np.zeros((60, 90, 3), np.uint8)
    values[..., 0] = np.arange(90)  # says where a crop begins, and whether it is mirrored
    Image.fromarray(values).save(tmp_path / "a.png")
    pictures = pytorch_data.Pictures([ByteRange(str(tmp_path / "a.png"))], [7], size=60, crop=50)
    seen = set()
    for _ in range(60):
        tensor, label = pictures[0]
        assert tuple(tensor.shape) == (3, 50, 50) and label == 7 and tensor.is_contiguous()
        back = (tensor * pictures.std + pictures.mean) * 255
        red = np.rint(back[0].numpy()).astype(int)
        assert (red == red[:1]).all() and np.abs(back[1:].numpy()).max() < 1e-3
        assert set(np.diff(red[0])) in ({1}, {-1})
        seen.add((red[0].min(), red[0][0] > red[0][1]))
    assert len({left for left, _ in seen}) > 10 and len({mirrored for _, mirrored in seen}) == 2
    half = pytorch_data.Pictures(pictures.pictures, [7], size=30, crop=30)
    red = np.rint(((half[0][0] * half.std + half.mean) * 255)[0].numpy()).astype(int)
    assert set(np.abs(np.diff(red[0]))[1:-1]) == {2}  # half the size; at an edge fewer pixels are averaged


def test_the_peers_turn(tmp_path: Path) -> None:
    try:
        from cconvnet.bench.peers.pytorch_data import PyTorchData
    except PeerMissing as error:
        pytest.skip(str(error))
    side = PyTorchData(str(make_pictures(tmp_path / "pictures")), 28, 24, 5)
    images, seconds = side.measure(workers=1, seconds=0.01)
    assert images % 5 == 0 and images > 0 and seconds >= 0.01
