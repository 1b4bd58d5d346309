"""ILSVRC-2012's tars: the dataset found equals the one that unpacking would give."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.tar_files import (
    CLASSES,
    FORMATS,
    IDS,
    check_within,
    devkit,
    make_imagenet,
    member,
    packed,
    told,
    train_members,
    unchanged,
    val_members,
)
from PIL import Image

from cconvnet import data
from cconvnet.data import DataError, datasets
from cconvnet.data.datasets import imagenet
from cconvnet.formats import matlab


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
    dataset = datasets.open_dataset(root)
    check_within(dataset)
    assert (dataset.kind, dataset.classes) == ("imagenet tars", CLASSES)
    assert dataset.titles == ["ant, emmet", "cock", "zebra"]
    assert dataset.train.names[:2] == ["n01000002/n01000002_0.JPEG", "n01000002/n01000002_1.JPEG"]
    for cache_bytes in (0, 2**20):
        ours, theirs = (data.open_source(path, cache_bytes=cache_bytes) for path in (root, folder))
        assert told(ours.test.read(np.arange(4))[0]) == [(2, 0), (1, 1), (0, 2), (2, 3)]
        assert ours.test.labels.tolist() == [2, 1, 0, 2]
        assert ours.titles == dataset.titles and theirs.titles is None
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
    dataset = datasets.open_dataset(root)
    assert dataset.titles == ["ant, emmet", "cock", "zebra"]
    assert dataset.test is not None and dataset.test.labels.tolist() == [2, 1, 0, 2]
    for text, what in (
        ("\n".join(lines[:3]), r"val\.txt has no label for ILSVRC2012_val_00000004\.JPEG"),
        (lines[0] + "\nx", "val.txt, line 2: 'x' is not a file and a number from 0 to 2"),
        ("x.JPEG 3", "line 1: 'x.JPEG 3' is not"),
        ("x.JPEG -1", "line 1"),
        ("x.JPEG ²", "line 1"),
    ):
        (root / "val.txt").write_text(text)
        with pytest.raises(DataError, match=what):
            datasets.open_dataset(root)
    for text in ("cat a cat", "n01000002 a\nn01000002 b"):
        (root / "synset_words.txt").write_text(text)
        with pytest.raises(DataError, match=r"synset_words\.txt, line \d: .*WordNet id"):
            datasets.open_dataset(root)


@pytest.mark.parametrize("name", [imagenet.TRAIN, imagenet.VAL, imagenet.DEVKIT])
def test_a_missing_archive_is_named(tmp_path: Path, name: str) -> None:
    root = make_imagenet(tmp_path)
    (root / name).unlink()
    with pytest.raises(DataError, match=rf"lacks {name}.*image-net\.org"):
        datasets.open_dataset(root)


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
            datasets.open_dataset(root)
    file.write_bytes(content)
    assert len(datasets.open_dataset(root).train) == 12


def test_archives_that_do_not_fit_together(tmp_path: Path) -> None:
    for number, (changed, what) in enumerate(
        (
            ({"kit": devkit(truth="3\n1\n2\n")}, "contains 4 pictures, but .*devkit_t12.tar.gz has 3 labels"),
            ({"kit": devkit(truth="3\n1\n2\n9\n")}, "line 4: b'9' is no class's number"),
            ({"kit": devkit(truth="3\n1\n2\nx\n")}, "line 4: b'x' is no class's number"),
            ({"kit": devkit(truth="3\n1\n2\n4\n")}, "pictures of n09999999, of which .*train.tar has none"),
            ({"kit": devkit(ids=["../..", *IDS[1:]])}, "is no new number and WordNet id"),
            ({"kit": devkit()[:-1]}, r"contains no data/ILSVRC2012_validation_ground_truth\.txt"),
            ({"kit": [*devkit()[:-2], ("x/data/meta.mat", b"MATLAB 5.0")]}, "is not the table of classes"),
            ({"train": {CLASSES[0]: [("readme", b"")]}}, "no pictures of n01000002"),
            ({"train": {"x": train_members(0)}}, "contains no tars of classes"),
            ({"val": [("readme", b"")]}, "contains no pictures"),
            ({"val": [*val_members(), (member("x.JPEG", tarfile.SYMTYPE), b"")]}, "x.JPEG: a link"),
        )
    ):
        root = make_imagenet(tmp_path / str(number), **changed)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=what):
            datasets.open_dataset(root)


def test_a_devkit_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_imagenet(tmp_path)
    monkeypatch.setattr(imagenet, "MAX_DEVKIT", 10_000)
    (root / imagenet.DEVKIT).write_bytes(gzip.compress(bytes(10_001)))
    with pytest.raises(DataError, match="no devkit: unpacked it has more than 10,000 bytes"):
        datasets.open_dataset(root)


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
            ("u", "text", "contains no u"),
            ("t", "y", "no field y"),
            ("after", "y", "no structure array"),
        ):
            with pytest.raises(ValueError, match=what):
                matlab.table(file.getvalue(), name, (field,))


def test_a_table_that_unpacks_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    table = devkit()[2][1]
    monkeypatch.setattr(matlab, "MAX_TABLE_BYTES", 100)
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
            check_within(datasets.open_dataset(root))
        except DataError as error:
            assert imagenet.DEVKIT in str(error)
            refused += 1
    assert 0 < refused < count


def test_what_else_lies_there_is_told(tmp_path: Path) -> None:
    train = {name: [*train_members(label), ("notes.txt", b"")] for label, name in enumerate(CLASSES)}
    root = make_imagenet(tmp_path, train=train, val=[*val_members(), ("list.txt", b"")])
    (root / "ILSVRC2012_img_train_t3.tar").write_bytes(b"dogs")
    seen: list[tuple[int, int]] = []
    dataset = datasets.open_dataset(root, lambda *state: seen.append(state))
    assert dataset.beside.names == {"not a picture": ["ILSVRC2012_img_train_t3.tar"]}
    assert dataset.train.ignored.names == {"not a picture": [f"{name}/notes.txt" for name in CLASSES]}
    assert dataset.test is not None
    assert dataset.test.ignored.names == {"not a picture": ["ILSVRC2012_img_val.tar/list.txt"]}
    assert seen == [(1, 3), (2, 3), (3, 3)]
