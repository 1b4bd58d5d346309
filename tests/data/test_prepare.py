"""Preparation of shards: byte-identical for any workers and interruptions, without broken pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Listener, run
from helpers.made_pictures import COUNTS, digests, make_folder, preparation, prepare

from cconvnet import data
from cconvnet.data import WorkerError, datasets
from cconvnet.data.dataset import LeftOut
from cconvnet.data.images import MAX_PIXELS, BrokenImage, resize_shorter
from cconvnet.data.inspection import sized
from cconvnet.data.shards import journal, writer_pool
from cconvnet.data.shards import prepare as preparing
from cconvnet.data.shards.encoding import choose
from cconvnet.data.shards.format import DOCUMENT, JOURNAL, read_shard_set
from cconvnet.data.shards.prepare import Preparation
from cconvnet.data.shards.verify import verify
from cconvnet.errors import DataError

SHARD_BYTES = 4000
LINUX = sys.platform == "linux"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the digests of the shards of `folder`, prepared without interruption."""
    root = tmp_path_factory.mktemp("data") / "shards"
    prepare(folder, root, SHARD_BYTES, size=20)
    assert verify(root) == []
    return digests(root)


# ---- the same bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_workers_makes_the_same(
    workers: int, folder: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    prepare(folder, tmp_path / "shards", SHARD_BYTES, workers, size=20)
    assert digests(tmp_path / "shards") == expected
    assert len([name for name in expected if name.endswith(".bin")]) > 4


def test_a_moved_folder_makes_the_same(folder: Path, expected: dict[str, str], tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder, tmp_path / "pictures"))  # with the files' times
    prepare(moved, tmp_path / "shards", SHARD_BYTES, size=20)
    assert digests(tmp_path / "shards") == expected


def kill_often(
    kills: int, number: signal.Signals, folder: Path, expected: dict[str, str], root: Path
) -> None:
    """At random instants, the start-up included; no process outlives its parent to write there."""
    chance, span = random.Random(kills), 0.6
    arguments = [folder, root, "--size", "20", "--shard-mb", str(SHARD_BYTES / 2**20), "--workers", "2"]
    hits = 0
    while hits < kills:
        process = subprocess.Popen(
            [sys.executable, "-m", "cconvnet", "data", "prepare", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Nothing is written before the folder is there, so the instant is counted from then on.
        deadline = time.monotonic() + 60
        while process.poll() is None and not root.exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.random() * span)
        process.send_signal(number)
        if process.wait(timeout=60) == 0:  # it was done before, so the next is killed sooner
            assert digests(root) == expected
            shutil.rmtree(root)
            span *= 0.8
            continue
        hits += 1
    done = run("data", "prepare", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert digests(root) == expected
    assert not list(root.glob(".*.partial"))


def test_kills(folder: Path, expected: dict[str, str], tmp_path: Path) -> None:
    kill_often(3, signal.SIGKILL, folder, expected, tmp_path / "shards")


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_many_kills(number: signal.Signals, folder: Path, expected: dict[str, str], tmp_path: Path) -> None:
    kill_often(40, number, folder, expected, tmp_path / "shards")


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_and_gone_on_with(
    workers: int, folder: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C: what is finished is kept, and is not made again."""
    root = tmp_path / "shards"
    work = preparation(folder, root, SHARD_BYTES, size=20)
    stopping = Listener()
    monkeypatch.setattr(stopping, "step", lambda *a: _interrupt_after(root, 2))
    with pytest.raises(KeyboardInterrupt):
        work.run(stopping, workers)
    assert was_said(r"stopped: \d+ of 43 pictures are kept in .*; the same command resumes", stopping)
    with pytest.raises(DataError, match="is unfinished"):
        data.open_source(root)
    before = {entry.name: entry.stat().st_ino for entry in root.glob("*.bin")}
    recorded = {name for name in before if (root / JOURNAL / f"{name}.json").is_file()}
    assert len(recorded) >= 2
    listener = Listener()
    preparation(folder, root, SHARD_BYTES, size=20).run(listener, workers)
    assert was_said(r"resuming: \d+ of 43 pictures are done already", listener)
    after = {entry.name: entry.stat().st_ino for entry in root.glob("*.bin")}
    assert all(after[name] == before[name] for name in recorded)
    assert digests(root) == expected


def unfinished(folder: Path, root: Path) -> None:
    """All shards are there, and no dataset.json yet."""
    work = preparation(folder, root, SHARD_BYTES, size=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "_finish", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            work.run(Listener(), 0)


def _interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def _interrupt_after(root: Path, records: int) -> None:
    if len(list((root / JOURNAL).glob("*.bin.json"))) >= records:
        raise KeyboardInterrupt


def was_said(pattern: str, listener: Listener) -> bool:
    return any(re.search(pattern, line) for line in listener.lines)


@pytest.mark.parametrize("lost", ["train-00001.bin", "test.npy", "dataset.json", "mean.npy", "half of it"])
def test_what_is_lost_is_made_again(
    lost: str, folder: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "shards"
    prepare(folder, root, SHARD_BYTES, size=20)
    before = {entry.name: entry.stat().st_ino for entry in root.glob("*.bin")}
    if lost == "half of it":
        (root / "dataset.json").write_bytes((root / "dataset.json").read_bytes()[:-9])
    else:
        (root / lost).unlink()
    again = preparation(folder, root, SHARD_BYTES, size=20)
    assert again.complete() is None
    again.run(Listener(), 0)
    assert digests(root) == expected
    after = {entry.name: entry.stat().st_ino for entry in root.glob("*.bin")}
    assert not (root / JOURNAL).exists()
    if lost in ("train-00001.bin", "mean.npy"):  # without the others nobody knows what is in a shard
        assert {name for name in before if before[name] != after[name]} <= {lost}


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "shard cut"])
def test_a_damaged_record_is_not_believed(
    damage: str, folder: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "shards"
    unfinished(folder, root)
    litter = [root / ".train-00003.bin.partial", root / JOURNAL / ".other.json.partial"]
    mine = root / ".cat.jpg.partial"  # of another program
    for file in (*litter, mine):
        file.write_bytes(b"x")
    record = root / JOURNAL / "train-00000.bin.json"
    content = record.read_bytes()
    if damage == "flip":
        record.write_bytes(content.replace(b"1", b"2", 1))
    elif damage == "cut":
        record.write_bytes(content[:-20])
    elif damage == "gone":
        record.unlink()
    else:
        os.truncate(root / "train-00000.bin", 100)
    prepare(folder, root, SHARD_BYTES, size=20)
    assert mine.read_bytes() == b"x"
    mine.unlink()
    assert digests(root) == expected and not any(file.exists() for file in litter)


# ---- what goes in ----------------------------------------------------------------------------------------


def spoil(folder: Path, *names: str) -> None:
    for name in names:
        (file,) = (folder / name).parent.glob(f"{Path(name).name}.*")
        file.write_bytes(b"" if name.endswith("0") else file.read_bytes()[:50])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("raw", [True, False])
def test_broken_pictures_are_left_out(workers: int, raw: bool, tmp_path: Path) -> None:
    """The others are those of the same folder without them, with their own labels."""
    folder = make_folder(tmp_path / "data")
    without = Path(shutil.copytree(folder, tmp_path / "without" / "data"))
    broken = ["train/ant/000", "train/bee/013", "test/bee/001"]
    for name in broken:
        next((without / name).parent.glob(f"{Path(name).name}.*")).unlink()
    spoil(folder, *broken)
    dataset = prepare(folder, tmp_path / "shards", 2000, workers, size=12, raw=raw)
    assert dataset.skipped == {"train": 2, "test": 1} and dataset.pictures == {"train": 32, "test": 8}
    lines = [json.loads(line) for line in (tmp_path / "shards" / "skipped.jsonl").read_text().splitlines()]
    assert [(line["split"], line["name"].rpartition(".")[0]) for line in lines] == [
        (name.partition("/")[0], name) for name in broken
    ]
    assert lines[0]["reason"] == "the file is empty"
    prepare(without, tmp_path / "expected", 2000, size=12, raw=raw)
    ours, theirs = data.open_source(tmp_path / "shards"), data.open_source(tmp_path / "expected")
    for one, other in ((ours.train, theirs.train), (ours.test, theirs.test)):
        for mine, its in zip(one.read(np.arange(len(one))), other.read(np.arange(len(one))), strict=True):
            assert np.array_equal(mine, its)
        assert [one.file(i) for i in range(len(one))] == [other.file(i) for i in range(len(other))]
    assert verify(tmp_path / "shards") == []
    assert any("3 pictures were left out" in note for note in ours.notes)
    before = digests(tmp_path / "shards")
    (tmp_path / "shards" / "train-00000.bin").unlink()
    prepare(folder, tmp_path / "shards", 2000, workers, size=12, raw=raw)
    assert digests(tmp_path / "shards") == before  # what was left out is known from what is there


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_pictures_stop(workers: int, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data")
    names = [f"train/bee/{number:03}" for number in range(1, 6)]
    spoil(folder, *names)
    root = tmp_path / "shards"
    with pytest.raises(DataError) as refusal:
        prepare(folder, root, 2000, workers, size=12)
    first, *rest = str(refusal.value).splitlines()
    assert "more than 3 of the 34 train pictures are broken" in first and str(root / "skipped.jsonl") in first
    assert len(rest) in (4, 5) and rest[0].startswith(f"  {folder / 'train' / 'bee' / '00'}")
    assert not (root / DOCUMENT).exists()
    listed = [json.loads(line)["name"] for line in (root / "skipped.jsonl").read_text().splitlines()]
    assert len(listed) == len(rest) and all(name.startswith("train/bee/00") for name in listed)
    with pytest.raises(DataError, match="more than 3 of the 34"):
        prepare(folder, root, 2000, workers, size=12)


def test_what_has_no_label_is_listed_too(folder: Path, tmp_path: Path) -> None:
    dataset = datasets.open_dataset(folder)
    train = dataclasses.replace(dataset.train, left_out=[LeftOut("train/x.jpg", "it has no label")])
    dataset = dataclasses.replace(dataset, train=train)
    dataset = Preparation(dataset, tmp_path / "shards", *choose(dataset, size=12)).run(Listener(), 0)
    assert dataset.skipped == {"train": 1, "test": 0}
    (line,) = (tmp_path / "shards" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line) == {"split": "train", "name": "train/x.jpg", "reason": "it has no label"}


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_in_tars(workers: int, folder: Path, tmp_path: Path) -> None:
    """They are stretches of files. The same pictures as those of the folder, in their order."""
    for split, classes in COUNTS.items():
        (tmp_path / "tars" / split).mkdir(parents=True)
        for label, name in enumerate(classes):
            with tarfile.open(tmp_path / "tars" / split / f"{name}.tar", "w") as tar:
                for file in sorted((folder / split / name).iterdir()):
                    for suffix, content in (("jpg", file.read_bytes()), ("cls", str(label).encode())):
                        member = tarfile.TarInfo(f"{name}-{file.stem}.{suffix}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
    dataset = prepare(tmp_path / "tars", tmp_path / "shards", SHARD_BYTES, workers, size=20, raw=True)
    assert dataset.origin == "webdataset"
    ours, theirs = data.open_source(tmp_path / "shards"), data.open_source(folder, 20)
    for one, other in ((ours.train, theirs.train), (ours.test, theirs.test)):
        for mine, its in zip(one.read(np.arange(len(one))), other.read(np.arange(len(one))), strict=True):
            assert np.array_equal(mine, its)
    assert "ant-000" in ours.train.file(0)


def test_a_picture_that_would_become_huge_is_broken() -> None:
    thin = np.zeros((2, 60_000, 3), np.uint8)
    with pytest.raises(BrokenImage, match="more than 67,108,864"):
        resize_shorter(thin, 256)
    assert resize_shorter(thin, 4).shape == (4, 120_000, 3) and MAX_PIXELS > 4 * 120_000
    assert resize_shorter(np.zeros((3, 4, 1), np.uint8), 6).shape == (6, 8, 1)


@pytest.mark.skipif(not LINUX, reason="file names are bytes on Linux")
def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data")
    file = folder / "test" / "bee" / "000.jpeg"
    strange = file.with_name(os.fsdecode(b"\xff\xe9 \n.jpeg"))
    file.rename(strange)
    prepare(folder, tmp_path / "shards", size=12, workers=1)
    source = data.open_source(tmp_path / "shards")
    names = [source.test.file(index) for index in range(9)]
    assert names.count("test/bee/%DCFF%DCE9 %A.jpeg") == 1
    strange.write_bytes(b"")
    prepare(folder, tmp_path / "without", size=12, workers=1)
    (line,) = (tmp_path / "without" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "test/bee/%DCFF%DCE9 %A.jpeg"


def test_a_source_file_that_goes_away_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data")
    work = preparation(folder, tmp_path / "shards", size=12)
    (folder / "train" / "bee" / "003.jpeg").unlink()
    with pytest.raises(DataError, match=r"003\.jpeg cannot be read: No such file"):
        work.run(Listener(), 1)


# ---- what is chosen --------------------------------------------------------------------------------------


def test_sizes_that_are_chosen(folder: Path, tmp_path: Path) -> None:
    assert choose(datasets.open_dataset(folder))[0].size == 256
    small = datasets.open_dataset(make_folder(tmp_path / "small", sides=(24, 30)))
    assert choose(small)[0].size == 24
    large = datasets.open_dataset(make_folder(tmp_path / "large", {"train": {"a": 3}}, sides=(300, 400)))
    assert choose(large)[0].size == 256
    digits = choose(datasets.open_dataset("digits"))[0]
    assert (digits.size, digits.encoding) == (None, "raw")
    assert choose(datasets.open_dataset("digits"), quality=80)[0].encoding == "jpeg"
    assert choose(small)[0].encoding == "jpeg" and choose(small, raw=True)[0].encoding == "raw"
    assert choose(small)[0].unchanged and not choose(small, quality=90)[0].unchanged


@pytest.mark.parametrize("raw", [True, False])
def test_the_size_said_beforehand_is_about_what_it_becomes(raw: bool, folder: Path, tmp_path: Path) -> None:
    work = preparation(folder, tmp_path / "shards", size=24, raw=raw)
    dataset = work.run(Listener(), 0)
    length = sum(file.bytes for name, file in dataset.files.items() if name.endswith(".bin"))
    said = work.survey.bytes[dataset.encoding] * work.total
    assert 0.9 * length <= said <= 1.1 * length
    text = work.describe()[-1]
    assert text.count("about") == 2 and sized(said) in text


def test_broken_pictures_are_not_what_is_measured(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data")
    spoil(folder, "train/ant/000", "train/ant/001")
    assert choose(datasets.open_dataset(folder))[1].count == 32
    for file in folder.rglob("*.*g"):
        file.write_bytes(b"no picture")
    with pytest.raises(DataError, match="not one of the pictures looked at can be decoded; the first is"):
        choose(datasets.open_dataset(folder))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--size", "0"], "--size must be at least 1, not 0"),
        (["--size", "9000"], "--size must be at most 8192, not 9000"),
        (["--quality", "101"], "--quality must be at most 100, not 101"),
        (["--quality", "90", "--raw"], "--quality is of JPEGs"),
        (["--shard-mb", "0"], "--shard-mb must be above 0, not 0"),
        (["--workers", "-1"], "--workers must be at least 0, not -1"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, folder: Path, tmp_path: Path) -> None:
    done = run("data", "prepare", folder, tmp_path / "shards", *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "shards").exists()


def test_wrong_folders(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x")
    for dst, message in (
        (folder / "shards", "is inside"),
        (folder, "is inside"),
        (tmp_path / "file", "is no folder"),
        (tmp_path / "full", "is not empty and contains no shards"),
    ):
        done = run("data", "prepare", folder, dst)
        assert done.returncode == 2 and message in done.stderr and str(dst) in done.stderr
    done = run("data", "prepare", tmp_path / "nothing", tmp_path / "shards")
    assert done.returncode == 2 and "there is no" in done.stderr


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"size": 21}, "was begun with size 20, not 21"),
        ({"raw": True}, "was begun with encoding jpeg, not raw"),
        ({"quality": 50}, "was begun with quality 90, not 50"),
        ({"whole": True}, "was begun with whole False, not True"),
        ({"shard_bytes": 9000}, "--shard-mb that gave pictures per shard of"),
    ],
)
def test_other_options_are_refused(
    change: dict[str, Any], message: str, finished: bool, folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "shards"
    if finished:
        prepare(folder, root, SHARD_BYTES, size=20)
    else:
        unfinished(folder, root)
    before = digests(root)
    options: dict[str, Any] = {"shard_bytes": SHARD_BYTES, "size": 20, **change}
    work = preparation(folder, root, **options)
    with pytest.raises(DataError, match=message):
        work.complete()
        work.run(Listener(), 0)
    assert digests(root) == before


@pytest.mark.parametrize("change", ["touched", "renamed", "added", "moved"])
def test_other_data_is_refused(change: str, tmp_path: Path) -> None:
    folder, root = make_folder(tmp_path / "data"), tmp_path / "shards"
    prepare(folder, root, SHARD_BYTES, size=20)
    file = folder / "test" / "bee" / "000.jpeg"
    if change == "touched":
        os.utime(file, (1, 1))
    elif change == "renamed":
        file.rename(file.with_name("0.jpeg"))
    elif change == "added":
        shutil.copy(file, file.with_name("1.jpeg"))
    else:
        file.rename(folder / "test" / "ant" / "xyz.jpeg")
    work = preparation(folder, root, SHARD_BYTES, size=20)
    with pytest.raises(DataError, match="was begun with other data, or a file of pictures data has changed"):
        work.complete()


def test_a_complete_folder_is_left_alone(folder: Path, expected: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "shards"
    arguments = ["prepare", folder, root, "--size", "20", "--shard-mb", SHARD_BYTES / 2**20]
    done = run("data", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pictures pictures: 3 classes, 34 train and 9 test pictures of" in done.stdout
    assert f"{root}: 34 train and 9 test pictures in" in done.stdout
    assert digests(root) == expected
    times = {entry.name: entry.stat().st_mtime_ns for entry in root.iterdir()}
    done = run("data", *arguments)
    assert (done.returncode, done.stderr) == (0, "") and f"{root} is already complete" in done.stdout
    assert {entry.name: entry.stat().st_mtime_ns for entry in root.iterdir()} == times
    assert not (root / JOURNAL).exists()
    assert data.open_source(root).classes == list(COUNTS["train"])


# ---- what goes wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize("small_disk", ["200k"], indirect=True)
def test_a_disk_that_is_too_small_is_known_beforehand(small_disk: Path, folder: Path) -> None:
    done = run("data", "prepare", folder, small_disk / "shards", "--size", "64", "--raw")
    assert done.returncode == 1
    assert f"error: {small_disk / 'shards'}: about 528 kB are needed, " in done.stderr
    assert not list((small_disk / "shards").glob("*.bin"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("small_disk", ["300k"], indirect=True)
def test_a_disk_that_fills_up(
    small_disk: Path, workers: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else fills it. What is finished stays; with room the same command goes on."""
    options: dict[str, Any] = {"shard_bytes": 50_000, "size": 64, "raw": True}
    work = preparation(folder, small_disk / "shards", **options)
    monkeypatch.setattr(Preparation, "_check_room", lambda *a: None)
    with pytest.raises(OSError, match=r"No space left on device: about .* more are needed") as failure:
        work.run(Listener(), workers)
    assert failure.value.errno == errno.ENOSPC and failure.value.filename == str(small_disk / "shards")
    assert not list((small_disk / "shards").glob(".*.partial"))
    assert list((small_disk / "shards").glob("*.bin"))
    moved = Path(shutil.copytree(small_disk / "shards", tmp_path / "shards"))
    prepare(folder, moved, **options)
    prepare(folder, tmp_path / "expected", **options)
    assert digests(moved) == digests(tmp_path / "expected")


def test_a_worker_that_dies(
    folder: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(writer_pool.ProcessMaker):
        def make(self, part: journal.Part, tell: writer_pool.Report) -> None:
            if part.name == "train-00002.bin":
                self.process.kill()
            super().make(part, tell)

    monkeypatch.setattr(preparing, "ProcessMaker", Dying)
    with pytest.raises(WorkerError, match=r"was killed by SIGKILL .* while it made train-00002\.bin"):
        prepare(folder, tmp_path / "shards", SHARD_BYTES, 1, size=20)
    monkeypatch.undo()
    prepare(folder, tmp_path / "shards", SHARD_BYTES, 1, size=20)
    assert digests(tmp_path / "shards") == expected


def test_two_at_once_do_not_mix(
    folder: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "shards"
    monkeypatch.setattr(journal, "_SECONDS_FOR_OTHERS_TO_END", 0.0)
    refusals: list[str] = []

    class Second(Listener):
        def begin(self, what: str, total: int, done: int = 0) -> None:
            try:
                prepare(folder, root, SHARD_BYTES, size=20)
            except DataError as error:
                refusals.append(str(error))

    preparation(folder, root, SHARD_BYTES, size=20).run(Second(), 0)
    assert refusals and all("is being written by another `cconvnet data prepare`" in one for one in refusals)
    assert digests(root) == expected


def test_a_second_ctrl_c_ends_it_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while the workers are being closed, as when `timeout -s INT` sends two."""
    workers: list[writer_pool.ProcessMaker] = []

    class Interrupted(writer_pool.ProcessMaker):
        def close(self) -> None:
            workers.append(self)
            raise KeyboardInterrupt

    class First(Listener):
        def step(self, *told: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(preparing, "ProcessMaker", Interrupted)
    before = set(threading.enumerate())
    try:
        with pytest.raises(KeyboardInterrupt):
            preparation(folder, tmp_path / "shards", SHARD_BYTES, size=20).run(First(), 1)
        assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    finally:
        for worker in workers:
            writer_pool.ProcessMaker.close(worker)


def test_a_second_one_that_waits_finds_it_made(
    folder: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first takes the lock's file away when it ends."""
    root, waiting, sleep = tmp_path / "shards", threading.Event(), time.sleep
    found: list[object] = []

    def second() -> None:
        try:
            found.append(prepare(folder, root, SHARD_BYTES, size=20).pictures)
        except Exception as error:
            found.append(error)

    def sleeping(seconds: float) -> None:
        waiting.set()
        sleep(seconds)

    thread = threading.Thread(target=second)

    class First(Listener):
        def begin(self, what: str, total: int, done: int = 0) -> None:
            if what == "preparing":
                thread.start()
                assert waiting.wait(60)

    monkeypatch.setattr(preparing.time, "sleep", sleeping)
    preparation(folder, root, SHARD_BYTES, size=20).run(First(), 0)
    thread.join(timeout=200)
    assert found == [{"train": 34, "test": 9}]
    assert digests(root) == expected and not (root / JOURNAL).exists()


def test_a_disk_without_locks(
    folder: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("cconvnet.system.locks.fcntl.flock", flock)
    prepare(folder, tmp_path / "shards", SHARD_BYTES, size=20)
    assert digests(tmp_path / "shards") == expected


@pytest.mark.skipif(not LINUX, reason="processes are listed by Linux's /proc")
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", {"train": {"a": 400}}, sides=(400, 400))
    process = subprocess.Popen(
        [sys.executable, "-m", "cconvnet", "data", "prepare", str(folder), str(tmp_path / "shards"),
         "--workers", "2", "--size", "300"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list((tmp_path / "shards").glob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)
    children = _children(process.pid)
    assert children
    process.kill()
    process.wait(timeout=200)
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not list((tmp_path / "shards").glob("*.bin"))


def _children(parent: int) -> list[str]:
    tasks = Path(f"/proc/{parent}/task")
    return [child for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def test_the_disk_is_believed_only_after_reading_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte that changes between writing and the statistics is found before dataset.json is written."""
    work = preparation(folder, tmp_path / "shards", SHARD_BYTES, size=20, raw=True)
    make = Preparation._make

    def spoiling(self: Preparation, *arguments: Any) -> None:
        make(self, *arguments)
        file = tmp_path / "shards" / "train-00001.bin"
        content = bytearray(file.read_bytes())
        content[7] ^= 1
        file.write_bytes(content)

    monkeypatch.setattr(Preparation, "_make", spoiling)
    with pytest.raises(DataError, match=r"cannot be read back: its bytes in .*train-00001.bin have changed"):
        work.run(Listener(), 0)
    assert not (tmp_path / "shards" / DOCUMENT).exists()


def test_a_stop_in_this_process_ends_its_thread(folder: Path, tmp_path: Path) -> None:
    before = threading.active_count()
    work = preparation(folder, tmp_path / "shards", SHARD_BYTES, size=20)

    class Stopping(Listener):
        def step(self, *arguments: Any, **options: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work.run(Stopping(), 0)
    assert threading.active_count() == before


def test_sizes_in_words() -> None:
    texts = [sized(count) for count in (0, 999, 1000, 12_345, 1.5e6, 2e9, 7.5e12)]
    assert texts == ["0 bytes", "999 bytes", "1 kB", "12.3 kB", "1.5 MB", "2 GB", "7.5 TB"]


def test_what_dataset_json_says(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path / "shards", size=20, quality=70)
    document = json.loads((tmp_path / "shards" / "dataset.json").read_text())
    assert document["format"] == "cconvnet shards" and document["version"] == 2
    assert document["preprocessing"] == {"orientation": "exif", "jpeg": "full", "resize": "antialiased"}
    expected = {
        "origin": "pictures", "size": 20, "whole": False, "encoding": "jpeg", "quality": 70, "channels": 3,
        "classes": ["ant", "bee", "cat"], "pictures": {"train": 34, "test": 9},
    }  # fmt: skip
    assert {name: document[name] for name in expected} == expected
    dataset = read_shard_set(tmp_path / "shards")
    for name, file in dataset.files.items():
        assert (tmp_path / "shards" / name).stat().st_size == file.bytes
    assert set(dataset.files) == digests(tmp_path / "shards").keys() - {"dataset.json"}
