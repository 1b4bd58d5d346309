"""Data in archives: what is found is what unpacking would give, and no archive leads out of itself.

Pictures made here are flat and lossless, their colour says which they are: a label that goes to the wrong
picture cannot hide.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cconvnet import data
from cconvnet.data import DataError, datasets
from cconvnet.data.byte_ranges import Stored
from cconvnet.data.datasets import Origin, imagenet, tars
from cconvnet.data.images import BrokenImage, read_stored
from cconvnet.formats import matlab

IDS = ["n02000001", "n01000002", "n03000003"]  # in the devkit's order, which is not theirs
WORDS = ["cock", "ant, emmet", "zebra"]
CLASSES = sorted(IDS)
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def picture(label: int, number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 5), (label * 40, number, 7)).save(file, kind)
    return file.getvalue()


def told(pictures: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
    """The (label, number) that flat pictures tell by their colour."""
    assert (pictures == pictures[:, :1, :1]).all() and (pictures[..., 2] == 7).all()
    return [(int(red) // 40, int(green)) for red, green in pictures[:, 0, 0, :2]]


def member(name: str, kind: bytes = tarfile.REGTYPE, **values: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in values.items():
        setattr(info, key, value)
    return info


Members = list[tuple[str | tarfile.TarInfo, bytes]]


def packed(members: Members, form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for info, content in members:
            info = member(info) if isinstance(info, str) else info
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def unchanged(root: Path) -> Callable[[], bool]:
    """Whether there is still nothing under the folder but what is now."""

    def state() -> list[tuple[str, int, int]]:
        return sorted(
            (str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in root.rglob("*") if f.is_file()
        )

    before = state()
    return lambda: state() == before


def check_within(origin: Origin) -> None:
    """Every stretch lies within its file, every label is a class's, every name is another and printable."""
    for pictures in (origin.train, origin.test):
        if pictures is None:
            continue
        extents = pictures.extents
        assert extents is not None
        sizes = np.array([Path(file).stat().st_size for file in extents.files])
        assert (extents.offset >= 0).all() and (extents.length >= 0).all()
        assert (extents.offset + extents.length <= sizes[extents.file]).all()
        assert len(pictures.names) == len(extents) == len(set(pictures.names))
        assert all(name.isprintable() for name in pictures.names)
        assert pictures.labels.dtype == np.int32
        assert (pictures.labels >= 0).all() and (pictures.labels < len(origin.classes)).all()


# ---- ImageNet's ------------------------------------------------------------------------------------------


def devkit(ids: list[str] = IDS, words: list[str] = WORDS, truth: str = "3\n1\n2\n3\n") -> Members:
    """As the true one: the classes' table, which goes on with what is no class, and the labels of val."""
    io_module = pytest.importorskip("scipy.io")
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number + 1, *row, 0) for number, row in enumerate(zip(ids, words, strict=True))]
    table = np.array([*rows, (len(ids) + 1, "n09999999", "whole", 2)], fields).reshape(-1, 1)
    meta = io.BytesIO()
    io_module.savemat(meta, {"synsets": table}, do_compression=True)
    root = "ILSVRC2012_devkit_t12"
    return [
        (member(f"{root}/data", tarfile.DIRTYPE), b""),
        (f"{root}/readme.txt", b"hello"),
        (f"{root}/{imagenet.META}", meta.getvalue()),
        (f"{root}/{imagenet.TRUTH}", truth.encode()),
    ]


def train_members(label: int, count: int = 4) -> Members:
    # Not in the order of their names.
    names = [f"{CLASSES[label]}_{number}.JPEG" for number in range(count)]
    return [(names[number], picture(label, number)) for number in [*range(1, count), 0]]


def val_members(truth: str = "3\n1\n2\n3\n") -> Members:
    labels = [CLASSES.index(IDS[int(line) - 1]) for line in truth.split()]
    files = [(f"ILSVRC2012_val_{n + 1:08}.JPEG", picture(label, n)) for n, label in enumerate(labels)]
    return [*files[1:], *files[:1]]


def make_imagenet(
    root: Path,
    form: int = tarfile.GNU_FORMAT,
    train: dict[str, Members] | None = None,
    val: Members | None = None,
    kit: Members | None = None,
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    train = train or {name: train_members(label) for label, name in enumerate(CLASSES)}
    inner: Members = [(f"{name}.tar", packed(members, form)) for name, members in train.items()]
    (root / imagenet.TRAIN).write_bytes(packed(inner[1:] + inner[:1], form))
    (root / imagenet.VAL).write_bytes(packed(val_members() if val is None else val, form))
    (root / imagenet.DEVKIT).write_bytes(gzip.compress(packed(kit or devkit(), form)))
    return root


@pytest.mark.parametrize("form", FORMATS)
def test_imagenet_is_what_it_would_be_unpacked(tmp_path: Path, form: int) -> None:
    root = make_imagenet(tmp_path / "tars", form)
    folder = tmp_path / "folder"
    for label, name in enumerate(CLASSES):
        for file, content in train_members(label):
            (folder / "train" / name).mkdir(parents=True, exist_ok=True)
            (folder / "train" / name / str(file)).write_bytes(content)
    for (file, content), label in zip(sorted(val_members(), key=str), (2, 1, 0, 2), strict=True):
        (folder / "val" / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        (folder / "val" / CLASSES[label] / str(file)).write_bytes(content)
    same = unchanged(root)
    origin = datasets.find(root)
    check_within(origin)
    assert (origin.kind, origin.classes) == ("imagenet tars", CLASSES)
    assert origin.titles == ["ant, emmet", "cock", "zebra"]
    assert origin.train.names[:2] == ["n01000002/n01000002_0.JPEG", "n01000002/n01000002_1.JPEG"]
    for cache_bytes in (0, 2**20):
        ours, theirs = (data.open_source(path, cache_bytes=cache_bytes) for path in (root, folder))
        assert told(ours.test.read(np.arange(4))[0]) == [(2, 0), (1, 1), (0, 2), (2, 3)]
        assert ours.test.labels.tolist() == [2, 1, 0, 2]
        assert ours.titles == origin.titles and theirs.titles is None
        for arrays in zip(ours.train.read(np.arange(12)), theirs.train.read(np.arange(12)), strict=True):
            assert np.array_equal(*arrays)
        batches = [
            [vars(batch) for batch in loader.epoch(1)]
            for source in (ours, theirs)
            for loader in [data.Loader(source.train, 4, 1, workers=0)]
        ]
        for one, other in zip(*batches, strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)
    assert same()


def test_imagenets_odd_files(tmp_path: Path) -> None:
    """One of its files is a PNG, 22 are CMYK; both come back."""
    cmyk = io.BytesIO()
    Image.new("CMYK", (5, 5), (0, 200, 200, 0)).save(cmyk, "JPEG", quality=95)
    train = {name: train_members(label) for label, name in enumerate(CLASSES)}
    train[CLASSES[0]].append(("n01000002_9.JPEG", cmyk.getvalue()))
    source = data.open_source(make_imagenet(tmp_path, train=train))
    (image,), (label,) = source.train.read([4])
    assert label == 0 and np.abs(image.astype(int) - (255, 55, 55)).max() < 8
    assert source.report() == []


def test_imagenets_labels_from_texts(tmp_path: Path) -> None:
    root = make_imagenet(tmp_path)
    (root / imagenet.DEVKIT).unlink()
    (root / "synset_words.txt").write_text("n01000002 ant, emmet\nn02000001 cock\nn03000003 zebra\n")
    lines = ["ILSVRC2012_val_00000002.JPEG 1", "ILSVRC2012_val_00000001.JPEG 2"]
    lines += ["val/ILSVRC2012_val_00000003.JPEG 0", "ILSVRC2012_val_00000004.JPEG 2"]
    (root / "val.txt").write_text("\n".join(lines) + "\n")
    origin = datasets.find(root)
    assert origin.titles == ["ant, emmet", "cock", "zebra"]
    assert origin.test is not None and origin.test.labels.tolist() == [2, 1, 0, 2]
    for text, what in (
        ("\n".join(lines[:3]), r"val\.txt has no label for ILSVRC2012_val_00000004\.JPEG"),
        (lines[0] + "\nx", "val.txt, line 2: 'x' is not a file and a number from 0 to 2"),
        ("x.JPEG 3", "line 1: 'x.JPEG 3' is not"),
        ("x.JPEG -1", "line 1"),
        ("x.JPEG ²", "line 1"),
    ):
        (root / "val.txt").write_text(text)
        with pytest.raises(DataError, match=what):
            datasets.find(root)
    for text in ("cat a cat", "n01000002 a\nn01000002 b"):
        (root / "synset_words.txt").write_text(text)
        with pytest.raises(DataError, match=r"synset_words\.txt, line \d: .*WordNet id"):
            datasets.find(root)


@pytest.mark.parametrize("name", [imagenet.TRAIN, imagenet.VAL, imagenet.DEVKIT])
def test_a_missing_archive_is_named(tmp_path: Path, name: str) -> None:
    root = make_imagenet(tmp_path)
    (root / name).unlink()
    with pytest.raises(DataError, match=rf"lacks {name}.*image-net\.org"):
        datasets.find(root)


@pytest.mark.parametrize("name", [imagenet.TRAIN, imagenet.VAL, imagenet.DEVKIT])
def test_an_archive_that_is_cut_off_is_named(tmp_path: Path, name: str) -> None:
    root = make_imagenet(tmp_path)
    file = root / name
    content = file.read_bytes()
    end = len(content) if name == imagenet.DEVKIT else len(content.rstrip(b"\0"))
    end = end if name == imagenet.DEVKIT else -(-end // 512) * 512
    for length in {*range(0, end, 512), 1, 511, end // 2 + 7, end - 1}:
        file.write_bytes(content[:length])
        with pytest.raises(
            DataError, match=rf"{name}( is cut off| cannot be unpacked|.* is cut off or damaged)"
        ):
            datasets.find(root)
    file.write_bytes(content)
    assert len(datasets.find(root).train) == 12


def test_archives_that_do_not_fit_together(tmp_path: Path) -> None:
    for number, (changed, what) in enumerate(
        (
            ({"kit": devkit(truth="3\n1\n2\n")}, "holds 4 pictures, but .*devkit_t12.tar.gz has 3 labels"),
            ({"kit": devkit(truth="3\n1\n2\n9\n")}, "line 4: b'9' is no class's number"),
            ({"kit": devkit(truth="3\n1\n2\nx\n")}, "line 4: b'x' is no class's number"),
            ({"kit": devkit(truth="3\n1\n2\n4\n")}, "pictures of n09999999, of which .*train.tar has none"),
            ({"kit": devkit(ids=["../..", *IDS[1:]])}, "is no new number and WordNet id"),
            ({"kit": devkit()[:-1]}, r"holds no data/ILSVRC2012_validation_ground_truth\.txt"),
            ({"kit": [*devkit()[:-2], ("x/data/meta.mat", b"MATLAB 5.0")]}, "is not the table of classes"),
            ({"train": {CLASSES[0]: [("readme", b"")]}}, "no pictures of n01000002"),
            ({"train": {"x": train_members(0)}}, "holds no tars of classes"),
            ({"val": [("readme", b"")]}, "holds no pictures"),
            ({"val": [*val_members(), (member("x.JPEG", tarfile.SYMTYPE), b"")]}, "x.JPEG: a link"),
        )
    ):
        root = make_imagenet(tmp_path / str(number), **changed)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=what):
            datasets.find(root)


def test_a_devkit_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_imagenet(tmp_path)
    monkeypatch.setattr(imagenet, "MOST_DEVKIT", 10_000)
    (root / imagenet.DEVKIT).write_bytes(gzip.compress(bytes(10_001)))
    with pytest.raises(DataError, match="no devkit: unpacked it has more than 10,000 bytes"):
        datasets.find(root)


def test_tables_are_what_scipy_reads() -> None:
    io_module = pytest.importorskip("scipy.io")
    fields = [("number", "O"), ("text", "O"), ("other", "O"), ("small", "O")]
    rows = [(n, t, np.arange(n), np.uint8(n)) for n, t in ((1, "ä, b"), (2.5, "x" * 99), (250, "漢"))]
    for compressed in (False, True):
        file = io.BytesIO()
        values = {"before": np.eye(3), "t": np.array(rows, fields), "after": "x"}
        io_module.savemat(file, values, do_compression=compressed)
        theirs = io_module.loadmat(io.BytesIO(file.getvalue()), squeeze_me=True)["t"]
        found = matlab.table(file.getvalue(), "t", ("text", "number", "small", "other"))
        assert [row[:3] for row in found] == [(str(t), float(n), float(s)) for n, t, _, s in theirs]
        assert found[1][3] is None
        for name, field, what in (
            ("u", "text", "holds no u"),
            ("t", "y", "no field y"),
            ("after", "y", "no structure array"),
        ):
            with pytest.raises(ValueError, match=what):
                matlab.table(file.getvalue(), name, (field,))


def test_a_table_that_unpacks_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    table = devkit()[2][1]
    monkeypatch.setattr(matlab, "MOST", 100)
    with pytest.raises(ValueError, match="unpacks to more than 100 bytes"):
        matlab.table(table, "synsets", ("WNID",))


@pytest.mark.parametrize(
    ("seed", "count"), [(1, 60), *(pytest.param(s, 100, marks=pytest.mark.long) for s in range(2, 12))]
)
def test_flipped_bytes_in_the_table_of_classes(tmp_path: Path, seed: int, count: int) -> None:
    """Packed or not: the labels are those of the devkit, or an error."""
    io_module = pytest.importorskip("scipy.io")
    rng = np.random.default_rng(seed)
    kit = devkit()
    name, packed_table = kit[2]
    plain = io.BytesIO()
    io_module.savemat(plain, {"synsets": io_module.loadmat(io.BytesIO(packed_table))["synsets"]})
    root = make_imagenet(tmp_path)
    refused = 0
    for number in range(count):
        table = bytearray(packed_table if number % 2 else plain.getvalue())
        for _ in range(rng.integers(1, 4)):
            table[rng.integers(128, len(table))] = rng.integers(256)
        content = packed([*kit[:2], (name, bytes(table)), kit[3]])
        (root / imagenet.DEVKIT).write_bytes(gzip.compress(content, 1))
        try:
            check_within(datasets.find(root))
        except DataError as error:
            assert imagenet.DEVKIT in str(error)
            refused += 1
    assert 0 < refused < count


def test_what_else_lies_there_is_told(tmp_path: Path) -> None:
    train = {name: [*train_members(label), ("notes.txt", b"")] for label, name in enumerate(CLASSES)}
    root = make_imagenet(tmp_path, train=train, val=[*val_members(), ("list.txt", b"")])
    (root / "ILSVRC2012_img_train_t3.tar").write_bytes(b"dogs")
    seen: list[tuple[int, int]] = []
    origin = datasets.find(root, lambda *state: seen.append(state))
    assert origin.beside.names == {"not a picture": ["ILSVRC2012_img_train_t3.tar"]}
    assert origin.train.ignored.names == {"not a picture": [f"{name}/notes.txt" for name in CLASSES]}
    assert origin.test is not None
    assert origin.test.ignored.names == {"not a picture": ["ILSVRC2012_img_val.tar/list.txt"]}
    assert seen == [(1, 3), (2, 3), (3, 3)]


# ---- WebDataset ------------------------------------------------------------------------------------------


def samples(labels: list[int], first: int = 0) -> Members:
    members: Members = []
    for number, label in enumerate(labels, first):
        members += [(f"s{number:03}.png", picture(label, number)), (f"s{number:03}.cls", str(label).encode())]
    return members


def shard(file: Path, members: Members, form: int = tarfile.PAX_FORMAT) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(packed(members, form))
    return file


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
    origin = datasets.find(tmp_path)
    check_within(origin)
    assert origin.kind == "webdataset" and origin.classes == ["0", "1", "2"]
    assert origin.train.names[0] == f"{train[0]}/s000" and origin.folder == tmp_path
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
    origin = datasets.find(tmp_path)
    assert origin.classes == ["ant", "cock", "zebra"] and origin.train.left_out == []
    assert origin.train.labels.tolist() == [1, 0, 2, 1]
    assert told(data.open_source(tmp_path).train.read(np.arange(4))[0]) == [(1, 0), (0, 1), (2, 2), (1, 3)]
    for text in ("", "ant\n\ncock\n", "ant\nant\n"):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=r"classes\.txt must name a class in each line"):
            datasets.find(tmp_path)


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
        datasets.find(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\nf\n")
    assert len(datasets.find(tmp_path).classes) == 6


def test_a_label_without_a_picture(tmp_path: Path) -> None:
    shard(tmp_path / "train.tar", [*samples([0, 1] * 5), ("x.cls", b"1"), ("y.txt", b"")])
    (left,) = datasets.find(tmp_path).train.left_out
    assert left.name == "train.tar/x" and left.reason.startswith("no picture (.jpg")


def test_too_many_without_a_label(tmp_path: Path) -> None:
    """They count together with what cannot be decoded."""
    good = samples([0, 1] * 20)
    for count in (3, 6):
        bad: Members = [(f"x{number}.png", picture(0, 0)) for number in range(count)]
        shard(tmp_path / "train.tar", [*good, *bad])
        if count == 3:
            assert len(datasets.find(tmp_path).train.left_out) == 3
        else:
            with pytest.raises(
                DataError, match=r"6 of the 46 training .* more than 4; the first are:\n.*/x0"
            ):
                datasets.find(tmp_path)
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
        datasets.find(tmp_path)


def test_tars_of_neither_part_are_told(tmp_path: Path) -> None:
    for name in ("train-0.tar", "test-0.tar", "val-0.tar", "extra.tar"):
        shard(tmp_path / name, samples([0, 1]))
    notes = "\n".join(datasets.find(tmp_path).notes)
    assert "extra.tar not used" in notes and "tars of val are not used" in notes


@pytest.mark.parametrize("name", ["train-0.tar", imagenet.TRAIN, "train.tgz"])
def test_archives_beside_what_they_were_unpacked_to(tmp_path: Path, name: str) -> None:
    (tmp_path / "train" / "ant").mkdir(parents=True)
    (tmp_path / "train" / "ant" / "0.png").write_bytes(picture(0, 0))
    shard(tmp_path / name, samples([0]))
    assert datasets.find(tmp_path).kind == "pictures"


def test_statistics_are_kept_beside_tars(tmp_path: Path) -> None:
    from cconvnet.data.statistics import gather, statistics_file

    shard(tmp_path / "train.tar", samples([0, 1] * 5))
    source = data.open_source(tmp_path)
    mean = gather(source).mean
    file = statistics_file(source)
    assert mean is not None and file is not None and file.parent == tmp_path
    said: list[str] = []
    gather(data.open_source(tmp_path), say=said.append)
    assert "are from" in said[0]
    shard(tmp_path / "train.tar", samples([1, 0] * 5))
    said.clear()
    gather(data.open_source(tmp_path), say=said.append)
    assert "are kept in" in said[0]


def test_a_picture_of_another_size_is_named(tmp_path: Path) -> None:
    other = io.BytesIO()
    Image.new("RGB", (7, 5)).save(other, "PNG")
    file = shard(tmp_path / "train.tar", [*samples([0, 1]), ("x.png", other.getvalue()), ("x.cls", b"1")])
    at = file.read_bytes().index(other.getvalue())
    with pytest.raises(DataError, match=rf"train\.tar at byte {at:,} has 5x7 pixels .* other images 5x5"):
        data.open_source(tmp_path)


# ---- hostile archives ------------------------------------------------------------------------------------


def with_header(content: bytes, at: int, **fields: bytes) -> bytes:
    """A tar whose header at `at` has other fields and the sum that belongs to them."""
    places = {"name": 0, "size": 124, "kind": 156, "magic": 257, "prefix": 345, "extended": 482}
    header = bytearray(content[at : at + 512])
    for field, value in fields.items():
        header[places[field] : places[field] + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:at] + bytes(header) + content[at + 512 :]


MEMBERS: dict[str, tuple[tarfile.TarInfo, str]] = {
    "absolute": (member("/etc/passwd.png"), "leads out of the archive"),
    "above": (member("a/../../x.png"), "leads out of the archive"),
    "above on Windows": (member("..\\x.png"), "leads out of the archive"),
    "symbolic link": (member("x.png", tarfile.SYMTYPE, linkname="/etc/passwd"), "a link"),
    "hard link": (member("x.png", tarfile.LNKTYPE, linkname="s000.png"), "a link"),
    "character device": (member("x.png", tarfile.CHRTYPE, devmajor=1, devminor=5), "a device"),
    "block device": (member("x.png", tarfile.BLKTYPE, devmajor=8), "a device"),
    "pipe": (member("x.png", tarfile.FIFOTYPE), "a device"),
    "again": (member("s003.png"), "an earlier member of this name"),
    "another kind": (member("x.png", b"V"), "a member, which is not read"),
    "sparse by pax": (member("x.png", pax_headers={"GNU.sparse.size": "9"}), "a sparse file"),
}


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("kind", ["webdataset", "imagenet"])
def test_a_hostile_member_is_left_out(tmp_path: Path, kind: str, name: str) -> None:
    info, reason = MEMBERS[name]
    contents = b"" if info.type not in (b"0", b"V") else picture(1, 250)
    evil = (info, contents)
    root = tmp_path / "data"
    if kind == "webdataset":
        shard(root / "train.tar", [*samples([0, 1] * 10), evil, *samples([1, 0] * 10, 20)])
        count = 40 - (name == "again")  # its picture may be either
    else:
        train = {name: train_members(label, 20) for label, name in enumerate(CLASSES)}
        if name == "again":
            info = member(f"{CLASSES[1]}_3.JPEG")
        train[CLASSES[1]][7:7] = [(info, contents)]
        make_imagenet(root, train=train, form=tarfile.PAX_FORMAT)
        count = 60
    same = unchanged(tmp_path)
    origin = datasets.find(root)
    check_within(origin)
    (left,) = origin.train.left_out
    assert reason in left.reason and left.name.isprintable() and info.name in left.name
    source = data.open_source(root, cache_bytes=0)
    images, labels = source.train.read(np.arange(len(source.train)))
    assert len(images) == count and [label for label, _ in told(images)] == labels.tolist()
    assert 250 not in [number for _, number in told(images)]
    assert [skip.file for skip in source.report()] == [left.name]
    assert same()


def test_a_name_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    shard(tmp_path / "train.tar", [*samples([0, 1] * 5), ("\x1b[2Jx.png", b""), ("\x1b[2Jx.cls", b"x")])
    (left,) = datasets.find(tmp_path).train.left_out
    assert left.name == "train.tar/%1B[2Jx"


def pax_header(records: bytes, size: int | None = None) -> bytes:
    info = member("PaxHeader", tarfile.XHDTYPE, size=len(records) if size is None else size)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


GOOD = packed(samples([0, 1] * 10), tarfile.USTAR_FORMAT)
DAMAGED = {
    "empty": b"",
    "a text": b"no tar" * 1000,
    "compressed with gzip": gzip.compress(GOOD),
    "a wrong sum": GOOD[:20] + b"x" + GOOD[21:],
    "a wrong sum later": GOOD[:1044] + b"x" + GOOD[1045:],
    "a size beyond the file": with_header(GOOD, 0, size=b"77777777777\0"),
    "a size of 2^95": with_header(GOOD, 0, size=b"\x80" + b"\xff" * 11),
    "a size below zero": with_header(GOOD, 0, size=b"\xff" * 12),
    "a size of -1": with_header(GOOD, 0, size=b"-0000000001\0"),
    "a size of 0x10": with_header(GOOD, 0, size=b"0x10\0"),
    "a size of 1_0": with_header(GOOD, 0, size=b"1_0\0"),
    "a size below zero of what is empty": with_header(member("a.png").tobuf(), 0, size=b"\xff" * 12) + GOOD,
    "a size that hides a header": with_header(GOOD, 0, size=b"%011o\0" % (len(GOOD) - 512)),
    "a long name without end": with_header(GOOD, 0, kind=b"L", size=b"77777777777\0"),
    "a long name of 2 MiB": with_header(GOOD, 0, kind=b"L", size=b"%011o\0" % 2**21) + bytes(2**21),
    "a long name that is cut off": with_header(GOOD[:1024], 0, kind=b"L", size=b"%011o\0" % 4096),
    "records without end": pax_header(b"", 2**30) + GOOD,
    "records of no length": pax_header(b"0 path=x\n") + GOOD,
    "records without numbers": pax_header(b"xx path=x\n") + GOOD,
    "records longer than all": pax_header(b"99 path=x\n") + GOOD,
    "records without =": pax_header(b"10 path+x\n") + GOOD,
    "records that end early": pax_header(b"8 path=x\n") + GOOD,
    "a record of a size below zero": pax_header(b"11 size=-1\n") + GOOD,
    "a record of a huge size": pax_header(b"30 size=99999999999999999999\n") + GOOD,
    "a record of a long size": pax_header(b"110 size=" + b"9" * 100 + b"\n") + GOOD,
    "a sparse file without end": with_header(GOOD, 0, kind=b"S", extended=b"\1") + b"\1" * 1024,
    "one name for all": with_header(pax_header(b"10 path=x\n"), 0, kind=b"g") + GOOD,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_tar_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / "train.tar"
    file.write_bytes(DAMAGED[name])
    with pytest.raises(DataError, match=r"train\.tar") as caught:
        datasets.find(tmp_path)
    if "gzip" in name:
        assert "compressed with gzip" in str(caught.value) and "gunzip" in str(caught.value)
    if "beyond" in name:
        assert "should have 8,589,934,591 bytes, of which 8,589," in str(caught.value)


@pytest.mark.parametrize("name", ["sound", *DAMAGED])
def test_nothing_outside_a_tar_is_read(name: str) -> None:
    """Not even of the tar that it is in, of which what follows may be a member too."""
    content = DAMAGED.get(name, GOOD)
    whole = b"\x55" * 2048 + content + GOOD
    end = 2048 + len(content)

    def read(offset: int, length: int) -> bytes:
        assert offset >= 2048 and offset + length <= end
        return whole[offset : offset + length]

    found = []
    with contextlib.suppress(DataError):
        for member in tars.members(read, 2048, end, name):
            found.append(member)
            assert member.offset >= 2048 and 0 <= member.size <= end - member.offset
    assert (len(found) == 40) == (name == "sound")


def test_sizes_of_what_has_no_contents(tmp_path: Path) -> None:
    """A link's size says nothing of the tar; nor does one that an extended header overrules."""
    link = with_header(member("x.png", tarfile.SYMTYPE).tobuf(), 0, size=b"77777777777\0")
    (tmp_path / "train.tar").write_bytes(link + GOOD)
    (left,) = datasets.find(tmp_path).train.left_out
    assert left.name == "train.tar/x.png"
    size = len(samples([0])[0][1])
    record = b"%d size=%d\n" % (len(str(size)) + 9, size)
    for said in (0, 8**11 - 1):
        content = pax_header(record) + with_header(GOOD, 0, size=b"%011o\0" % said)
        (tmp_path / "train.tar").write_bytes(content)
        assert told(data.open_source(tmp_path).train.read([0, 5])[0]) == [(0, 0), (1, 5)]


def test_tars_of_old(tmp_path: Path) -> None:
    """Without a magic word, with a folder that only its slash tells, with sizes in binary and long names."""
    old = with_header(GOOD, 0, magic=bytes(8), kind=b"\0")
    folder = with_header(member("d").tobuf(), 0, name=b"d/", kind=b"\0", magic=bytes(8))
    size = len(samples([0])[0][1])
    binary = with_header(old, 0, size=b"\x80" + struct.pack(">11s", size.to_bytes(11, "big")))
    sparse = with_header(member("x.bin").tobuf(tarfile.GNU_FORMAT), 0, kind=b"S", extended=b"\1") + bytes(512)
    for content in (
        old,
        folder + old,
        binary,
        sparse + old,
        GOOD + b"what comes after the end does not count",
    ):
        (tmp_path / "train.tar").write_bytes(content)
        origin = datasets.find(tmp_path)
        check_within(origin)
        assert origin.train.labels.tolist() == [0, 1] * 10
        assert told(data.open_source(tmp_path).train.read([0, 5])[0]) == [(0, 0), (1, 5)]
    name = "/".join(["long" * 20] * 5)
    for form in FORMATS[1:]:
        shard(tmp_path / "train.tar", [(f"{name}.png", picture(0, 0)), (f"{name}.cls", b"0")], form)
        assert datasets.find(tmp_path).train.names == [f"train.tar/{name}"]


def test_walking_finds_what_tarfile_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for number in range(12):
        names = [
            "/".join("ab" * int(rng.integers(1, 40)) for _ in range(rng.integers(1, 5))) for _ in range(9)
        ]
        files: Members = [(f"{n}{i}", rng.bytes(int(rng.integers(0, 1500)))) for i, n in enumerate(names)]
        form = FORMATS[number % 3]
        if form == tarfile.USTAR_FORMAT:
            files = [(str(name)[-90:], content) for name, content in files]
        file = shard(tmp_path / "x.tar", files, form)
        with tars.TarFile(file) as ours, tarfile.open(file) as theirs:
            found = [(m.name, m.offset, m.size) for m in ours.members()]
            assert found == [(m.name, m.offset_data, m.size) for m in theirs.getmembers()]


def check_flips(root: Path, file: Path, content: bytes, headers: list[int], seed: int, count: int) -> None:
    """Each of `count` tars with changed bytes in headers is an Origin within its files, or an error.

    Half of the headers get the sum that belongs to them, or the sum would tell all of them.
    """
    rng = np.random.default_rng(seed)
    found = 0
    for number in range(count):
        bad = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            at = headers[rng.integers(len(headers))]
            for _ in range(rng.integers(1, 4)):
                bad[at + rng.choice([rng.integers(512), rng.integers(124, 157)])] = rng.integers(256)
            if number % 2:
                bad = bytearray(with_header(bytes(bad), at))
        if number % 10 == 0:
            del bad[rng.integers(len(bad)) :]
        file.write_bytes(bad)
        try:
            origin = datasets.find(root)
        except DataError as error:
            assert file.name in str(error) or "pictures" in str(error)
            continue
        found += 1
        check_within(origin)
        for stored in origin.train.extents.stored(np.arange(len(origin.train))):  # type: ignore[union-attr]
            try:
                read_stored(stored)
            except BrokenImage as error:
                assert "empty" in str(error)
    assert 0 < found < count


@pytest.mark.parametrize("kind", ["webdataset", "imagenet"])
@pytest.mark.parametrize(
    ("seed", "count"), [(1, 40), *(pytest.param(s, 100, marks=pytest.mark.long) for s in range(2, 22))]
)
def test_flipped_bytes_in_headers(tmp_path: Path, kind: str, seed: int, count: int) -> None:
    root = tmp_path / "data"
    if kind == "webdataset":
        file = shard(root / "train.tar", samples([0, 1] * 50))
    else:
        train = {name: train_members(label, 20) for label, name in enumerate(CLASSES)}
        file = make_imagenet(root, train=train) / imagenet.TRAIN
    content = file.read_bytes()
    headers = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    assert len(headers) > 60
    check_flips(root, file, content, headers, seed, count)
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_real_photographs_within_their_tar() -> None:
    """Read where they lie they are what tarfile unpacks."""
    folder = os.environ.get("CCONVNET_TEST_DATA")
    if not folder:
        pytest.skip("CCONVNET_TEST_DATA is not set")
    file = Path(folder, "imagenet-100-photos.tar")
    with tars.TarFile(file) as ours, tarfile.open(file) as theirs:
        found, left_out = tars.usable(ours.members(), file.name)
        assert len(found) >= 100 and not left_out
        for name, place in found.items():
            unpacked = theirs.extractfile(name if name in theirs.getnames() else f"./{name}")
            assert unpacked is not None
            assert read_stored(Stored(str(file), place.offset, place.size)) == unpacked.read()
