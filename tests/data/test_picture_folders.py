"""Folders of pictures: the pictures found, those left out, and the reasons."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.batches import evaluation, training
from helpers.flat_pictures import CLASSES, JPEG, PNG, make_broken_set, make_pictures, told

from cconvnet import data
from cconvnet.errors import DataError


@pytest.mark.parametrize("test_name", ["test", "val"])
@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_picture_folder(tmp_path: Path, test_name: str, cache_bytes: int) -> None:
    make_pictures(tmp_path / "train", dict.fromkeys(CLASSES, 5))
    make_pictures(tmp_path / test_name, dict.fromkeys(CLASSES, 2))
    (tmp_path / "train" / "ant" / "notes.txt").write_text("ignored")
    (tmp_path / "train" / ".hidden").mkdir()
    seen: list[tuple[int, int]] = []
    source = data.open_source(tmp_path, cache_bytes=cache_bytes, progress=lambda *state: seen.append(state))
    assert source.classes == CLASSES and source.image_shape == (6, 6, 3)
    account = source.account
    assert account is not None
    assert account.lines() == [
        "15 training and 6 test pictures of 3 classes",
        "train: 17 files found, 15 used; "
        "not used: 1 not a picture (train/ant/notes.txt); 1 hidden (train/.hidden)",
    ]
    for split, count in ((source.train, 5), (source.test, 2)):
        read, labels = split.read(np.arange(len(split)))
        assert told(read) == [(label, number) for label in range(3) for number in range(count)]
        assert labels.tolist() == [label for label, _ in told(read)]
    assert seen == ([(15, 21), (21, 21)] if cache_bytes else [])
    assert source.report() == []


@pytest.mark.parametrize("folder", ["train", "."])
def test_pictures_without_a_test(tmp_path: Path, folder: str) -> None:
    make_pictures(tmp_path / folder, dict.fromkeys(CLASSES, 3))
    source = data.open_source(tmp_path)
    assert source.test is source.train and len(source.train) == 9
    assert any("no test pictures" in note for note in source.notes)


def test_val_is_said_to_be_unused(tmp_path: Path) -> None:
    for name in ("train", "test", "val"):
        make_pictures(tmp_path / name, {"a": 2 if name == "test" else 3})
    source = data.open_source(tmp_path)
    assert len(source.test) == 2 and any(f"{tmp_path / 'val'} is not used" in n for n in source.notes)


def test_test_pictures_without_labels_are_not_used(tmp_path: Path) -> None:
    """As ImageNet's are, unpacked."""
    for name, count in (("train", 3), ("val", 2)):
        make_pictures(tmp_path / name, dict.fromkeys(CLASSES, count))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(JPEG)
    source = data.open_source(tmp_path)
    assert len(source.test) == 6 and any(f"{tmp_path / 'test'} is not used" in note for note in source.notes)


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_test_folders(tmp_path: Path, name: str) -> None:
    make_pictures(tmp_path / "train", dict.fromkeys(CLASSES, 3))
    make_pictures(tmp_path / name, dict.fromkeys(CLASSES, 2))
    assert len(data.open_source(tmp_path).test) == 6


def test_what_macos_puts_beside_pictures_is_ignored(tmp_path: Path) -> None:
    for file in make_pictures(tmp_path, dict.fromkeys(CLASSES, 3)).values():
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
    source = data.open_source(tmp_path)
    assert len(source.train) == 9 and not source.report()
    assert source.account is not None
    assert source.account.splits["train"].unused.counts == {"hidden": 9}


def test_links_are_followed_and_those_to_nothing_left_out(tmp_path: Path) -> None:
    files = make_pictures(tmp_path / "elsewhere", {"ant": 30, "bee": 30})
    root = tmp_path / "data"
    (root / "bee").mkdir(parents=True)
    (root / "ant").symlink_to(tmp_path / "elsewhere" / "ant")
    for number in range(30):
        file = files[1, number]
        (root / "bee" / file.name).symlink_to(file if number != 4 else tmp_path / "lost.png")
    source = data.open_source(root)
    assert len(source.train) == 59
    assert told(source.train.read([0, 34])[0]) == [(0, 0), (1, 5)]
    (left,) = source.report()
    assert left.file == str(root / "bee" / "0004.png") and "link to nothing" in left.reason


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_classes_whose_names_are_no_text(tmp_path: Path) -> None:
    names = [b"caf\xe9", b"line\nfeed", b"plain"]
    for name in names:
        (tmp_path / os.fsdecode(name)).mkdir()
        (tmp_path / os.fsdecode(name) / "a.png").write_bytes(PNG)
    assert data.open_source(tmp_path).classes == ["caf%DCE9", "line%Afeed", "plain"]


def test_sizes(tmp_path: Path) -> None:
    make_pictures(tmp_path / "a", {"x": 2}, (6, 6))
    make_pictures(tmp_path / "b", {"y": 2}, (8, 6))
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "a" / "x").rename(root / "x")
    (tmp_path / "b" / "y").rename(root / "y")
    with pytest.raises(DataError, match=r"0000\.png has 8x6 .* 6x6; give a size"):
        data.open_source(root)
    streamed = data.open_source(root, cache_bytes=0)
    with pytest.raises(DataError, match=r"0000\.png has 8x6"):
        streamed.train.read([2])
    assert data.open_source(root, size=4).image_shape == (4, 4, 3)


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*nowhere"):
        data.open_source(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no class folders with pictures; a data folder is one of"):
        data.open_source(tmp_path)
    (tmp_path / "archive.tar").write_bytes(b"")
    with pytest.raises(DataError, match="not a folder; unpack"):
        data.open_source(tmp_path / "archive.tar")
    make_pictures(tmp_path / "a" / "train", {"x": 1, "y": 1, "only here": 1})
    make_pictures(tmp_path / "a" / "test", {"x": 1, "y": 1, "only there": 1})
    with pytest.raises(DataError, match=r"only .*train has only here only .*test has only there"):
        data.open_source(tmp_path / "a")
    make_pictures(tmp_path / "b", {"x": 1, "nothing": 0})
    with pytest.raises(DataError, match=r"no pictures .* of nothing"):
        data.open_source(tmp_path / "b")
    for arguments in ({"size": 0}, {"decoder": "fast"}, {"workers": -1}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            data.open_source(tmp_path / "a" / "train", **arguments)


def test_nothing_can_be_decoded(tmp_path: Path) -> None:
    for file in make_pictures(tmp_path, {"x": 2}).values():
        file.write_bytes(b"")
    for size in (None, 8):
        with pytest.raises(DataError, match=r"0000\.png"):
            data.open_source(tmp_path, size)


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
@pytest.mark.parametrize("workers", [0, 2])
def test_broken_pictures_are_skipped_and_no_label_shifts(
    tmp_path: Path, cache_bytes: int, workers: int
) -> None:
    broken = make_broken_set(tmp_path)
    source = data.open_source(tmp_path, cache_bytes=cache_bytes, workers=workers)
    assert len(source.train) == 90 and len(source.test) == 30
    for split, name in ((source.train, "train"), (source.test, "test")):
        files = [file for file in broken if file.parts[-3] == name]
        for pairs in (split.read(np.arange(len(split))), *evaluation(split, workers)):
            read, labels = pairs
            assert len(read) == len(split) - len(files)
            assert labels.tolist() == [label for label, _ in told(read)]
            assert len(set(told(read))) == len(read)
        with data.Loader(split, 1, shuffle=False, drop_last=False, workers=0) as loader:
            assert [len(batch) for batch in loader.epoch(0)] == [1] * (len(split) - len(files))
        for batch in training(split, workers):
            assert len(batch) == 8
            assert batch.labels.tolist() == [label for label, _ in told(batch.images)]
            assert np.array_equal(batch.labels, split.labels[batch.indices])
    assert [(skip.split, skip.file) for skip in source.report()] == [
        (file.parts[-3], str(file)) for file in broken
    ]
    assert all(skip.reason for skip in source.report())


def test_too_many_broken_pictures(tmp_path: Path) -> None:
    assert [data.broken_allowed(n) for n in (1, 2, 19, 20, 100, 5000, 50_000)] == [0, 1, 1, 2, 10, 10, 50]
    broken = [*make_pictures(tmp_path, {"a": 40}).values()][10:15]
    for file in broken[:4]:
        file.write_bytes(b"")
    assert len(data.open_source(tmp_path).report()) == 4
    broken[4].write_bytes(b"text")
    with pytest.raises(DataError, match="more than 4 of the 40 train images are broken") as caught:
        data.open_source(tmp_path)
    for file in broken:
        assert str(file) in str(caught.value)
    streamed = data.open_source(tmp_path, cache_bytes=0)
    with (
        data.Loader(streamed.train, 8, workers=0) as loader,
        pytest.raises(DataError, match="more than 4 of the 40"),
    ):
        list(loader.epoch(0))
