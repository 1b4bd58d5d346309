"""WebDataset tars: samples, labels, and tars that are refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.tar_files import FORMATS, Members, check_within, member, picture, samples, shard, told
from PIL import Image

from cconvnet import data
from cconvnet.data import DataError, datasets
from cconvnet.data.datasets import imagenet


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["train/a.tar", "train/b.tar"], "test/c.tar"),
        (["train-0000.tar", "train-0001.tar"], "val-0000.tar"),
        (["set-train-{0}.tar", "set-train-{1}.tar"], "set-validation-00.tar"),
        (["imagenet_training.tar", "x.train.1.tar"], "TEST.tar"),
        (["00000.tar", "00001.tar"], None),
    ],
)
def test_webdataset(tmp_path: Path, train: list[str], test: str | None, form: int) -> None:
    for number, name in enumerate(train):
        shard(tmp_path / name, samples([2, 0, 1], 3 * number), form)
    if test is not None:
        shard(tmp_path / test, samples([1, 2], 50), form)
    (tmp_path / "notes.txt").write_text("ignored")
    dataset = datasets.open_dataset(tmp_path)
    check_within(dataset)
    assert dataset.kind == "webdataset" and dataset.classes == ["0", "1", "2"]
    assert dataset.train.names[0] == f"{train[0]}/s000" and dataset.folder == tmp_path
    source = data.open_source(tmp_path)
    images, labels = source.train.read(np.arange(6))
    assert told(images) == [(2, 0), (0, 1), (1, 2), (2, 3), (0, 4), (1, 5)]
    assert labels.tolist() == [2, 0, 1, 2, 0, 1]
    if test is None:
        assert source.test is source.train and any("no test tars" in note for note in source.notes)
    else:
        assert told(source.test.read([0, 1])[0]) == [(1, 50), (2, 51)]
        assert source.test.labels.tolist() == [1, 2]


def test_webdatasets_labels(tmp_path: Path) -> None:
    """Members of a sample need not lie together, names may have folders, endings may have more parts."""
    members: Members = [
        ("d/a.b.txt", b"of no use"),
        ("d/a.jpg", picture(1, 0)),
        ("./d/b.PNG", picture(0, 1)),
        ("d/a.json", b'{"caption": "x", "label": 1}'),
        ("c.jpeg", picture(2, 2)),
        ("d/b.cls", b" 0\n"),
        ("d/b.json", b"no JSON, but .cls says it"),
        ("c.json", b'{"class": "zebra"}'),
        ("e.seg.png", picture(5, 5)),
        ("e.png", picture(1, 3)),
        ("e.json", b'{"cls": "cock"}'),
        ("._e.png", b"a Mac's"),
        ("readme", b"of no sample"),
    ]
    shard(tmp_path / "train.tar", members)
    (tmp_path / "classes.txt").write_text("ant\ncock\nzebra\n\n")
    dataset = datasets.open_dataset(tmp_path)
    assert dataset.classes == ["ant", "cock", "zebra"] and dataset.train.left_out == []
    assert dataset.train.labels.tolist() == [1, 0, 2, 1]
    assert told(data.open_source(tmp_path).train.read(np.arange(4))[0]) == [(1, 0), (0, 1), (2, 2), (1, 3)]
    for text in ("", "ant\n\ncock\n", "ant\nant\n"):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=r"classes\.txt must name a class in each line"):
            datasets.open_dataset(tmp_path)


UNLABELLED: dict[str, Members] = {
    "no label (.cls or .json)": [],
    "its label is 'one'": [("x.cls", b"one")],
    "its label is ''": [("x.cls", b"")],
    "its label is '-1'": [("x.cls", b"-1")],
    "its label is '1.0'": [("x.cls", b"1.0")],
    "its label is '²'": [("x.cls", "²".encode())],
    "its label is 3; it must be from 0 to 2": [("x.cls", b"3")],
    "its label is 999999999; it": [("x.cls", b"999999999")],
    "its label is '9999999999999": [("x.cls", b"9" * 300)],
    "its .json cannot be read": [("x.json", b"{")],
    "its .json cannot": [("x.json", b"[" * 100_000)],
    "its .json has none of label": [("x.json", b"[1]")],
    "its .json has none": [("x.json", b"{}")],
    "its .json has 1,048,577 bytes": [("x.json", b" " * (2**20 + 1))],
    "its label is 'True'": [("x.json", b'{"label": true}')],
    "its label is '1.5'": [("x.json", b'{"label": 1.5}')],
    "its label is 'None'": [("x.json", b'{"label": null}')],
    "its label is -1; it": [("x.json", b'{"label": -1}')],
    "an earlier member of this name": [("x.cls", b"1"), ("x.cls", b"2")],
    "its sample has two members .cls": [("x.cls", b"1"), ("x.CLS", b"2")],
    "a link, which is not read": [(member("x.cls", tarfile.LNKTYPE, linkname="s001.cls"), b"")],
}


@pytest.mark.parametrize("reason", UNLABELLED)
def test_a_sample_without_a_label_is_left_out_and_none_shifts(tmp_path: Path, reason: str) -> None:
    labels = [number % 3 for number in range(30)]
    bad: Members = [("x.png", picture(1, 200)), *UNLABELLED[reason]]
    shard(tmp_path / "train.tar", [*samples(labels[:10]), *bad, *samples(labels[10:], 10)])
    (tmp_path / "classes.txt").write_text("ant\ncock\nzebra\n")
    source = data.open_source(tmp_path)
    images, read = source.train.read(np.arange(30))
    assert told(images) == [(label, number) for number, label in enumerate(labels)]
    assert read.tolist() == labels
    assert source.account is not None
    assert any("not used: 1 " in line and "(train.tar/x" in line for line in source.account.lines())
    (skip,) = source.report()
    assert skip.split == "train" and skip.file.startswith("train.tar/x") and reason in skip.reason


def test_labels_with_a_gap(tmp_path: Path) -> None:
    """Without names nothing else tells a label that is wrong, or counts from 1."""
    shard(tmp_path / "train.tar", samples([1, 2, 5]))
    with pytest.raises(
        DataError, match=r"labels up to 5, but no training pictures of 0, 3, 4; .*classes\.txt"
    ):
        datasets.open_dataset(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\nf\n")
    assert len(datasets.open_dataset(tmp_path).classes) == 6


def test_a_label_without_a_picture(tmp_path: Path) -> None:
    shard(tmp_path / "train.tar", [*samples([0, 1] * 5), ("x.cls", b"1"), ("y.txt", b"")])
    (left,) = datasets.open_dataset(tmp_path).train.left_out
    assert left.name == "train.tar/x" and left.reason.startswith("no picture (.jpg")


def test_too_many_without_a_label(tmp_path: Path) -> None:
    """They count together with what cannot be decoded."""
    good = samples([0, 1] * 20)
    for count in (3, 6):
        bad: Members = [(f"x{number}.png", picture(0, 0)) for number in range(count)]
        shard(tmp_path / "train.tar", [*good, *bad])
        if count == 3:
            assert len(datasets.open_dataset(tmp_path).train.left_out) == 3
        else:
            with pytest.raises(
                DataError, match=r"6 of the 46 training .* more than 4; the first are:\n.*/x0"
            ):
                datasets.open_dataset(tmp_path)
    shard(tmp_path / "train.tar", [*good, *bad[:3], ("y0.png", b"1"), ("y0.cls", b"1")])
    assert len(data.open_source(tmp_path).report()) == 4
    shard(
        tmp_path / "train.tar",
        [*good, *bad[:3], *((f"y{n}.{e}", b"1") for n in "01" for e in ("png", "cls"))],
    )
    with pytest.raises(DataError, match="more than 4 of the 42 train images are broken"):
        data.open_source(tmp_path)


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (["train.tar.gz"], r"gunzip .*train\.tar\.gz"),
        (["train-0.tar", "train-1.tgz"], r"train-1\.tgz is compressed.*gunzip"),
        (["train/0.tar.zst"], r"unzstd --rm .*0\.tar\.zst"),
        (["test-0.tar"], r"tars for testing \(test-0\.tar\) but none for training"),
        (["train-0.tar", "test-0.tar"], "no samples of a picture and a label for testing"),
    ],
)
def test_tars_that_will_not_do(tmp_path: Path, files: list[str], what: str) -> None:
    for name in files:
        shard(tmp_path / name, [] if name == "test-0.tar" else samples([0, 1]))
    with pytest.raises(DataError, match=what):
        datasets.open_dataset(tmp_path)


def test_tars_of_neither_part_are_told(tmp_path: Path) -> None:
    for name in ("train-0.tar", "test-0.tar", "val-0.tar", "extra.tar"):
        shard(tmp_path / name, samples([0, 1]))
    notes = "\n".join(datasets.open_dataset(tmp_path).notes)
    assert "extra.tar not used" in notes and "tars of val are not used" in notes


@pytest.mark.parametrize("name", ["train-0.tar", imagenet.TRAIN, "train.tgz"])
def test_archives_beside_what_they_were_unpacked_to(tmp_path: Path, name: str) -> None:
    (tmp_path / "train" / "ant").mkdir(parents=True)
    (tmp_path / "train" / "ant" / "0.png").write_bytes(picture(0, 0))
    shard(tmp_path / name, samples([0]))
    assert datasets.open_dataset(tmp_path).kind == "pictures"


def test_statistics_are_kept_beside_tars(tmp_path: Path) -> None:
    from cconvnet.data.statistics import gather, statistics_file

    shard(tmp_path / "train.tar", samples([0, 1] * 5))
    source = data.open_source(tmp_path)
    mean = gather(source).mean
    file = statistics_file(source)
    assert mean is not None and file is not None and file.parent == tmp_path
    said: list[str] = []
    gather(data.open_source(tmp_path), say=said.append)
    assert "are read from" in said[0]
    shard(tmp_path / "train.tar", samples([1, 0] * 5))
    said.clear()
    gather(data.open_source(tmp_path), say=said.append)
    assert "are saved in" in said[0]


def test_a_picture_of_another_size_is_named(tmp_path: Path) -> None:
    other = io.BytesIO()
    Image.new("RGB", (7, 5)).save(other, "PNG")
    file = shard(tmp_path / "train.tar", [*samples([0, 1]), ("x.png", other.getvalue()), ("x.cls", b"1")])
    at = file.read_bytes().index(other.getvalue())
    with pytest.raises(DataError, match=rf"train\.tar at byte {at:,} has 5x7 pixels .* other images 5x5"):
        data.open_source(tmp_path)
