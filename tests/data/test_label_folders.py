"""Folders of pictures with label images: what is read, what moves together, and what is refused."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.label_folders import CLASSES, make_label_folder, pair, save_labels
from PIL import Image

import cconvnet as cc
from cconvnet import data
from cconvnet.data import DataError, Loader, datasets, inspection
from cconvnet.data.fingerprint import fingerprints
from cconvnet.data.images import decode_labels
from cconvnet.data.label_images import CANVAS, IGNORED, palette

SIZES = [(20, 12), (9, 30), (16, 16), (24, 24), (5, 6), (17, 13)]


def network(side: int = 16) -> cc.NetSpec:
    x = cc.image(side, side, 3)
    return x.conv(8, 3, pad=1).relu().conv(3, 1).softmax("blocks", per_pixel=True, ignore=IGNORED)


@pytest.mark.parametrize(("cache_bytes", "workers"), [(0, 0), (0, 1), (2**20, 0)])
def test_pictures_and_labels_are_placed_cropped_and_mirrored_together(
    tmp_path: Path, cache_bytes: int, workers: int
) -> None:
    root = make_label_folder(tmp_path / "cows", SIZES, SIZES[:2])
    source = data.open_source(root, 16, cache_bytes=cache_bytes, workers=workers)
    assert source.classes == list(CLASSES) and source.image_shape == (16, 16, 3)
    assert source.account is not None and source.account.lines() == [
        "6 training and 2 test pictures of 3 classes"
    ]
    assert (
        "train: pictures are not resized, but placed on 16x16 pixels: of 6 pictures 4 are larger and lose "
        "their borders and 4 are smaller and are padded, ignored there"
    ) in source.notes
    given: dict[str, Any] = {"crop": (12, 12), "random_crop": True, "mirror": True, "pad": 2}
    seen = set()
    with Loader(source.train, 6, seed=3, workers=workers, **given) as loader:
        for epoch in range(4):
            for batch in loader.epoch(epoch):
                for image, labels, top, left, mirror, index in zip(*vars(batch).values(), strict=True):
                    own, truth = pair(SIZES[index], index)
                    y, x = (SIZES[index][0] - 16) // 2, (SIZES[index][1] - 16) // 2
                    for i in range(12):
                        for j in range(12):
                            # Of the crop, of the canvas, and of the picture.
                            row, column = top + i, left + (11 - j if mirror else j)
                            inside = 0 <= row < 16 and 0 <= column < 16
                            there = row + y, column + x
                            known = inside and all(
                                0 <= a < b for a, b in zip(there, SIZES[index], strict=True)
                            )
                            assert labels[i, j] == (truth[there] if known else IGNORED)
                            if inside:
                                assert tuple(image[row, column]) == (tuple(own[there]) if known else CANVAS)
                    seen.add((top, left, mirror))
    assert len(seen) > 10 and {mirror for *_, mirror in seen} == {0, 1}


def test_a_folder_trains_to_the_bits_of_its_arrays(tmp_path: Path) -> None:
    root = make_label_folder(tmp_path / "cows", [(16, 16)] * 8, [(16, 16)] * 3)
    pairs = [pair((16, 16), seed) for seed in range(11)]
    x, y = (np.stack([one[k] for one in pairs]) for k in (0, 1))
    given: dict[str, Any] = {"epochs": 3, "batch": 4, "lr": 0.1, "mirror": True, "quiet": True}
    arrays = cc.train(network(), ((x[:8], y[:8]), (x[8:], y[8:])), out=tmp_path / "arrays", **given)
    run = cc.train(network(), root, out=tmp_path / "folder", **given)
    for name, value in arrays.network().state().items():
        assert value.tobytes() == run.network().state()[name].tobytes(), name
    assert run.summary["test_error_top1"] == arrays.summary["test_error_top1"]
    part = cc.train(network(), root, out=tmp_path / "part", **{**given, "epochs": 1})
    assert part.train(epochs=3, quiet=True).network().state()["conv1.weight"].tobytes() == (
        run.network().state()["conv1.weight"].tobytes()
    )
    found = run.evaluate(quiet=True)
    assert found.images == 3 * 255 and found.classes == list(CLASSES)


def test_pictures_of_one_size_keep_it_and_others_need_a_canvas(tmp_path: Path) -> None:
    root = make_label_folder(tmp_path / "cows", [(12, 20)] * 3, [(12, 20)])
    assert data.open_source(root).image_shape == (12, 20, 3)
    mixed = make_label_folder(tmp_path / "mixed", [(12, 20), (12, 22), (9, 9)], [(12, 20)])
    with pytest.raises(DataError, match=r"001\.png has 12x22 .* 12x20; give a size, the side of a canvas"):
        data.open_source(mixed)


def test_folders_below_and_other_tests(tmp_path: Path) -> None:
    root = make_label_folder(tmp_path / "cows", [(8, 8)] * 3, [(8, 8)] * 2)
    for name in ("images", "labels"):
        (root / "train" / name / "bern").mkdir()
        (root / "train" / name / "002.png").rename(root / "train" / name / "bern" / "002.png")
    (root / "test").rename(root / "val")
    (root / "train" / "notes.txt").write_text("not a picture")
    dataset = datasets.open_dataset(root)
    assert [Path(name).name for name in dataset.train.names] == ["000.png", "001.png", "002.png"]
    assert dataset.test is not None and len(dataset.test) == 2
    assert dataset.account().splits["train"].unused.names == {"not a picture": ["train/notes.txt"]}
    shutil.rmtree(root / "val")
    assert any("no test pictures" in note for note in datasets.open_dataset(root).notes)


def test_pascal_voc_as_it_comes(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation", "Annotations"):
        (root / name).mkdir(parents=True)
    for number in range(5):
        picture, labels = pair((20, 30), number)
        Image.fromarray(picture).save(root / "JPEGImages" / f"2007_{number}.jpg")
        if number < 4:
            save_labels(root / "SegmentationClass" / f"2007_{number}.png", labels)
    lists = root / "ImageSets/Segmentation"
    lists.joinpath("train.txt").write_text("2007_3\n2007_0\n2007_1\n")
    lists.joinpath("val.txt").write_text("2007_2\n")
    source = data.open_source(root, 32)
    assert len(source.classes) == 21 and source.classes[12] == "dog"
    assert [Path(source.train.file(i)).stem for i in range(3)] == ["2007_3", "2007_0", "2007_1"]
    assert source.test.read([0])[1][0, 6:26, 1:31].tobytes() == pair((20, 30), 2)[1].tobytes()
    assert f"pictures of {root / 'JPEGImages'} in neither list: 1" in source.notes
    with pytest.raises(DataError, match=r"VOCdevkit has no data itself, but .*VOC2012 has \(pictures with"):
        root.rename(tmp_path / "it")
        (tmp_path / "VOCdevkit").mkdir()
        (tmp_path / "it").rename(tmp_path / "VOCdevkit" / "VOC2012")
        datasets.open_dataset(tmp_path / "VOCdevkit")
    lists = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    lists.joinpath("val.txt").write_text("2007_4\n")
    with pytest.raises(DataError, match=r"SegmentationClass lacks 2007_4, which .*val\.txt names"):
        datasets.open_dataset(tmp_path / "VOCdevkit/VOC2012")


def _jpeg(file: Path) -> None:
    Image.open(file).convert("L").save(file, "JPEG")


def _larger(file: Path) -> None:
    save_labels(file, np.zeros((9, 8), np.uint8))


def _beyond(file: Path) -> None:
    save_labels(file, np.full((8, 8), 3, np.uint8))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


BAD_LABELS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a JPEG": (_jpeg, "is no label image: it is a JPEG, which does not keep values exactly"),
    "cut": (_cut, "is no label image: "),
    "no PNG": (lambda file: file.write_bytes(b"no picture at all"), "is no label image: it is not a PNG"),
    "empty": (lambda file: file.write_bytes(b""), "is no label image: the file is empty"),
    "colour": (
        lambda file: Image.open(file).convert("RGB").save(file),
        "is no label image: it is a PNG in colour; labels need one of 8-bit grey",
    ),
    "16 bits": (
        lambda file: Image.fromarray(np.zeros((8, 8), np.uint16)).save(file),
        "is no label image: it is a PNG of 16-bit grey",
    ),
    "1 bit": (
        lambda file: Image.fromarray(np.zeros((8, 8), bool)).save(file),
        "is no label image: it is a PNG of 1-bit grey",
    ),
    "beyond": (_beyond, "has the label 3, beyond the 3 classes from 0 to 2; 255 is ignored"),
    "another size": (_larger, r"has 9x8 pixels \(height x width\), its picture .*001\.png 8x8"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_label_images_that_cannot_be_used_are_named(tmp_path: Path, name: str) -> None:
    damage, text = BAD_LABELS[name]
    root = make_label_folder(tmp_path / "cows", [(8, 8)] * 3, [(8, 8)])
    file = root / "train" / "labels" / "001.png"
    damage(file)
    wanted = f"{file} {text}"
    with pytest.raises(DataError, match=wanted):
        data.open_source(root, 8)
    source = data.open_source(root, 8, cache_bytes=0)
    assert len(source.train.read([0, 2])[0]) == 2
    with pytest.raises(DataError, match=wanted):
        source.train.read([1])
    with pytest.raises(DataError, match=wanted):
        inspection.inspect(datasets.open_dataset(root))
    with pytest.raises(ValueError, match=wanted):
        cc.train(network(8), root, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def _both(root: Path) -> None:
    shutil.copy(root / "train/images/001.png", root / "train/images/001.jpg")


BAD_FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no label image": (
        lambda root: (root / "train/labels/001.png").unlink(),
        r"train/labels has no label image of .*train/images/001\.png; both have one name",
    ),
    "no picture": (
        lambda root: (root / "test/images/000.png").unlink(),
        r"test/images has no picture of .*test/labels/000\.png; both have one name",
    ),
    "two of a name": (_both, r"images/001\.jpg and .*images/001\.png have the same name but for the ending"),
    "no classes": (
        lambda root: (root / "classes.txt").unlink(),
        r"classes\.txt is missing; it has the name of a class in each line, .* are 1, 2, 255$",
    ),
    "a class without a name": (
        lambda root: (root / "classes.txt").write_text("a\n\nb\n"),
        "must have the name of a class in each line",
    ),
    "too many classes": (
        lambda root: (root / "classes.txt").write_text("\n".join(map(str, range(256)))),
        "has 256 classes; labels of 8 bits tell 255 apart",
    ),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_folders_that_cannot_be_used_are_named(tmp_path: Path, name: str) -> None:
    damage, text = BAD_FOLDERS[name]
    root = make_label_folder(tmp_path / "cows", [(8, 8)] * 3, [(8, 8)])
    damage(root)
    with pytest.raises(DataError, match=text):
        datasets.open_dataset(root)


def test_unreadable_pictures_are_skipped_with_their_labels(tmp_path: Path) -> None:
    root = make_label_folder(tmp_path / "cows", [(8, 8)] * 20, [(8, 8)])
    (root / "train" / "images" / "004.png").write_bytes(b"no picture")
    source = data.open_source(root, 8, cache_bytes=0)
    with Loader(source.train, 10, workers=0, shuffle=False) as loader:
        batch, _ = loader.epoch(0)
    assert batch.indices.tolist() == [0, 1, 2, 3, 5, 5, 6, 7, 8, 9]
    assert batch.labels[4].tobytes() == batch.labels[5].tobytes()
    assert [one.file for one in source.unreadable()] == [str(root / "train" / "images" / "004.png")]


def test_palettes_of_few_bits_are_indices() -> None:
    for bits in (1, 2, 4, 8):
        labels = np.arange(64, dtype=np.uint8).reshape(8, 8) % np.uint8(2**bits - 1)
        image, buffer = Image.fromarray(labels, "P"), io.BytesIO()
        image.putpalette([value * 7 % 256 for value in range(3 * 2**bits)])
        image.save(buffer, "PNG", bits=bits)
        content = buffer.getvalue()
        assert content[24] == bits and (decode_labels(content) == labels).all()


def test_labels_are_part_of_a_fingerprint(tmp_path: Path) -> None:
    root = make_label_folder(tmp_path / "cows", [(8, 8)] * 3, [(8, 8)])
    before = fingerprints(datasets.open_dataset(root))
    assert fingerprints(datasets.open_dataset(root)) == before
    save_labels(root / "train/labels/001.png", np.zeros((8, 8), np.uint8))
    after = fingerprints(datasets.open_dataset(root))
    assert after["train"] != before["train"] and after["test"] == before["test"]


def test_inspection_counts_pixels_and_draws_labels(tmp_path: Path) -> None:
    root = make_label_folder(tmp_path / "cows", SIZES, SIZES[:1])
    dataset = datasets.open_dataset(root)
    found = inspection.inspect(dataset)
    truth = np.concatenate([pair(sides, seed)[1].ravel() for seed, sides in enumerate(SIZES)])
    assert found.counts["train"].tolist() == np.bincount(truth)[:3].tolist()
    assert found.ignored == {"train": 6, "test": 1}
    assert any("6 pictures of 1,593 pixels, 0.38% of them ignored" in one for one in inspection.lines(found))
    assert inspection.table(found)[0][0] == "sky" and "%" in inspection.table(found)[0][1]
    assert found.as_json()["splits"] == {"train": 6, "test": 1}
    shown = {tuple(colour) for colour in np.asarray(inspection.sheet(dataset)).reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in palette()[[1, 2, IGNORED]].tolist()} <= shown


def test_the_palette_is_that_of_pascal_voc() -> None:
    colours = palette()[[0, 1, 2, 3, 4, 15, 20, 255]].tolist()
    assert colours[:5] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert colours[5:] == [[192, 128, 128], [0, 64, 128], [224, 224, 192]]
