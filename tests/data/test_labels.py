"""Labels of every kind of dataset are checked, class names compared, and pictures recognised."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import Listener
from helpers.made_pictures import make_folder, prepare
from PIL import Image

from cconvnet import data
from cconvnet.data import DataError, datasets
from cconvnet.data.byte_ranges import ByteRanges
from cconvnet.data.dataset import Pictures
from cconvnet.data.fingerprint import differences, fingerprints
from cconvnet.evaluate import evaluate_runs
from cconvnet.runs import RunError
from cconvnet.training.options import Options
from cconvnet.training.session import train


def make_mnist(root: Path, train: list[int], test: list[int] | None = None) -> Path:
    root.mkdir()
    for prefix, labels in (("train", train), ("t10k", test)):
        if labels is None:
            continue
        images = np.repeat(np.array(labels, np.uint8), 64).reshape(-1, 8, 8)
        for name, array in (("images-idx3", images), ("labels-idx1", np.array(labels, np.uint8))):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            content = bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()
            (root / f"{prefix}-{name}-ubyte").write_bytes(content)
    return root


def make_batches(root: Path, train: list[int], test: list[int], names: str) -> Path:
    root.mkdir()
    for name, labels in (("data_batch_1", train), ("test_batch", test)):
        images = np.zeros((len(labels), 3 * 64), np.uint8)
        (root / name).write_bytes(pickle.dumps({"data": images, "labels": labels}))
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": list(names)}))
    return root


def make_bin(root: Path, train: list[int], test: list[int], names: str) -> Path:
    root.mkdir()
    for number, part in enumerate([*np.array_split(np.array(train), 5), np.array(test)], 1):
        rows = np.zeros((len(part), 3073), np.uint8)
        rows[:, 0] = part
        (root / (f"data_batch_{number}.bin" if number < 6 else "test_batch.bin")).write_bytes(rows.tobytes())
    (root / "batches.meta.txt").write_text("\n".join(names))
    return root


# ---- labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test", "notes"),
    [
        ([*range(10)] * 2, [*range(10)], []),
        ([*range(1, 21)] * 2, [*range(1, 21)], ["no training pictures of label 0; labels are 1 to 20"]),
        (
            [0, 1, 4, 6, 7] * 2,
            [0, 1, 4],
            [
                "no training pictures of label 2, 3, 5; labels are 0, 1, 4, 6, 7",
                "no test pictures of label 6, 7",
            ],
        ),
        ([0, 2] * 9, [0, 1, 1, 2], ["no training pictures of label 1", "2 test pictures are of label 1, of"]),
        (
            [*range(10)] * 40 + [12],
            [*range(10)],
            ["labels are 0 to 9, 12; few have label 12 (1), the first is train image 400", "label 12"],
        ),
        ([0] * 9, [0], ["all training pictures are of one class, 0"]),
    ],
)
def test_gaps_in_numbers_are_told(
    tmp_path: Path, train: list[int], test: list[int], notes: list[str]
) -> None:
    found = datasets.open_dataset(make_mnist(tmp_path / "set", train, test)).notes
    assert len(found) == len(notes)
    for note, part in zip(found, notes, strict=True):
        assert part in note


@pytest.mark.parametrize(
    ("train", "test", "what"),
    [
        ([*range(10)] * 3 + [255], [*range(10)], r"train image 30 has label 255, .* of label 10 to 254"),
        ([*range(10)] * 3 + [77] * 2, [*range(10)], r"image 30 has label 77, .*; 2 have label 77"),
        ([*range(10)] * 3, [3, 10], r"t10k image 1 has label 10, .* labels are 0 to 9"),
        ([*range(5, 10)] * 3, [3, 200], r"t10k image 1 has label 200, .* labels are 5 to 9"),
    ],
)
def test_labels_that_can_only_be_wrong(tmp_path: Path, train: list[int], test: list[int], what: str) -> None:
    with pytest.raises(DataError, match=what):
        datasets.open_dataset(make_mnist(tmp_path / "set", train, test))


@pytest.mark.parametrize("make", [make_batches, make_bin, "shards"])
def test_named_classes_without_pictures_are_told(tmp_path: Path, make: object) -> None:
    train, test = [0, 1, 3] * 5, [0, 2, 1]
    if callable(make):
        root = make(tmp_path / "set", train, test, "abcd")
    else:
        root = tmp_path / "shards"
        prepare(make_batches(tmp_path / "set", train, test, "abcd"), root)
    notes = datasets.open_dataset(root).notes
    for note in (
        "no training pictures of c",
        "1 test pictures are of c, of which there are no training pictures",
        "no test pictures of d",
    ):
        assert note in notes


def test_classes_of_one_name_are_told(tmp_path: Path) -> None:
    root = make_batches(tmp_path / "set", [0, 1, 2] * 5, [0, 1, 2], "aba")
    assert "several classes have the same name: a" in datasets.open_dataset(root).notes


# ---- Unicode's forms --------------------------------------------------------------------------------------

NAMES = ["caf\u00e9", "\u00c5ngstr\u00f6m", "\ud55c\uae00", "zoo"]


def make_forms(root: Path, train: str, test: str) -> Path:
    for split, form in (("train", train), ("test", test)):
        for label, name in enumerate(NAMES):
            folder = root / split / unicodedata.normalize(form, name)
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8), (label * 60, number, 0)).save(folder / f"{number}.png")
    return root


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_one_class_in_two_forms(tmp_path: Path, forms: tuple[str, str]) -> None:
    """The order of classes and pictures is the same too, and so is what the pictures are known by."""
    plain = data.open_source(make_forms(tmp_path / "plain", "NFC", "NFC"))
    source = data.open_source(make_forms(tmp_path / "set", *forms))
    assert source.classes == plain.classes == sorted(NAMES)
    assert source.fingerprints == plain.fingerprints
    for split in (source.train, source.test):
        images, labels = split.read(np.arange(len(split)))
        red = [source.classes[label] for label in labels]
        assert [NAMES[value // 60] for value in images[:, 0, 0, 0].tolist()] == red


def test_two_folders_of_one_name_in_two_forms(tmp_path: Path) -> None:
    make_forms(tmp_path, "NFC", "NFC")
    (tmp_path / "train" / unicodedata.normalize("NFD", NAMES[0])).mkdir()
    with pytest.raises(DataError, match=r"'cafe\\u0301' \(NFD\) and 'caf\\xe9' \(NFC\)"):
        datasets.open_dataset(tmp_path)


# ---- the same pictures? -----------------------------------------------------------------------------------

COUNTS = {"train": {"ant": 8, "bee": 8}, "test": {"ant": 4, "bee": 4}}


def known(root: Path) -> dict[str, str]:
    return fingerprints(datasets.open_dataset(root))


def test_the_same_pictures_are_known_elsewhere_and_others_are_not(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "one", COUNTS, (28, 28))
    before = known(root)
    assert len(set(before.values())) == 2
    moved = tmp_path / "a" / "another name"
    shutil.copytree(root, moved, copy_function=shutil.copyfile)  # with times of its own
    assert known(moved) == before

    file = moved / "train" / "bee" / "005.jpeg"
    file.write_bytes((moved / "train" / "ant" / "001.jpeg").read_bytes())
    changed = known(moved)
    assert changed["train"] != before["train"] and changed["test"] == before["test"]
    file.write_bytes((root / "train" / "bee" / "005.jpeg").read_bytes())
    assert known(moved) == before
    (moved / "test" / "bee" / "000.jpeg").rename(moved / "test" / "bee" / "renamed.jpeg")
    assert known(moved)["test"] != before["test"]

    shards = tmp_path / "shards"
    prepare(root, shards, size=16)
    made = known(shards)
    assert {name: made[name] for name in before} == before and "16 pixels" in made["form"]
    (line,) = differences(before, made, "these")
    assert line.startswith("the same pictures as these, in another form: shards, ")
    prepare(shards, tmp_path / "again", size=8)
    assert {name: known(tmp_path / "again")[name] for name in before} == before


def test_labels_alone_make_other_pictures(tmp_path: Path) -> None:
    one = datasets.open_dataset(make_mnist(tmp_path / "set", [0, 1, 2] * 4, [0, 1, 2]))
    labels = one.train.labels.copy()
    labels[[0, 1]] = labels[[1, 0]]
    other = dataclasses.replace(one, train=dataclasses.replace(one.train, labels=labels))
    assert fingerprints(one)["train"] != fingerprints(other)["train"]


def test_of_very_many_pictures_some_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the limit says, however many there are."""
    from cconvnet.data import fingerprint

    count, read = 100_000, []
    monkeypatch.setattr(fingerprint, "_beginning", lambda stored: read.append(stored.path) or b"")
    monkeypatch.setattr(fingerprint, "_length", lambda stored: read.append(stored.path) or b"")
    names = [f"{tmp_path}/a/{number}.jpg" for number in range(count)]
    pictures = Pictures(names, np.zeros(count, np.int32), ByteRanges.whole(names))
    dataset = datasets.Dataset("pictures", "many", ["a"], pictures, None, folder=tmp_path)
    assert set(fingerprints(dataset)) == {"train"}
    assert len(read) == fingerprint.MAX_READ + fingerprint.MAX_LENGTHS
    assert names[0] in read and names[-1] in read


def test_a_run_says_that_its_pictures_are_others(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "one", COUNTS, (28, 28))
    moved, other, run = tmp_path / "moved", tmp_path / "other", tmp_path / "run"
    for copy in (moved, other):
        shutil.copytree(root, copy)
    for split in ("train", "test"):  # the classes' pictures change places: all names and counts are the same
        (other / split / "ant").rename(other / "ant")
        (other / split / "bee").rename(other / split / "ant")
        (other / "ant").rename(other / split / "bee")

    def resumed(where: Path, epochs: int) -> str:
        listener = Listener()
        train(Options(resume=run, data=str(where), epochs=epochs, devices=["cpu:0"]), listener)
        return "\n".join(listener.lines)

    listener = Listener()
    train(Options(data=str(root), size=28, batch=4, epochs=1, devices=["cpu:0"], out=run), listener)
    assert "other pictures" not in "\n".join(listener.lines)
    assert f"data: {moved} from here on, it was {root}: the same pictures" in resumed(moved, 2)
    text = resumed(other, 3)
    assert "data: other pictures than this run began with (fingerprints of training pictures: " in text
    assert "test pictures: " in text and f"{other} from here on" in text
    assert "other pictures" in resumed(other, 4)  # it began with those of the beginning
    assert "the same pictures" in resumed(root, 5)

    said: list[str] = []
    evaluate_runs([run], str(other), devices=["cpu:0"], say=said.append)
    assert sum("other pictures than" in line for line in said) == 1
    said.clear()
    evaluate_runs([run], str(moved), devices=["cpu:0"], say=said.append)
    assert not any("other pictures" in line for line in said)
    (other / "train" / "bee").rename(other / "train" / "cow")
    (other / "test" / "bee").rename(other / "test" / "cow")
    with pytest.raises(RunError, match="classes"):
        resumed(other, 6)
