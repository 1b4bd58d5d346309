"""The account of pictures: every file in a folder is used, or counted and listed with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import Listener
from helpers.commands import run as cconvnet
from helpers.made_pictures import make_folder, prepare

from cconvnet import data
from cconvnet.data import datasets
from cconvnet.data.account import MAX_NAMES, Account, Unused
from cconvnet.data.listing import NO_TARGET, READ_ALREADY
from cconvnet.evaluate import evaluate_runs
from cconvnet.runs.data_record import read_data
from cconvnet.training.options import Options
from cconvnet.training.session import train

COUNTS = {"train": {"ant": 12, "bee": 12}, "test": {"ant": 4, "bee": 4}}


def account(root: Path) -> Account:
    return datasets.open_dataset(root).account()


def make_cluttered(root: Path) -> Path:
    """A folder with one or more of everything that is no picture to be used."""
    make_folder(root, COUNTS, (8, 8))
    ant = root / "train" / "ant"
    picture = (ant / "000.jpeg").read_bytes()
    (ant / "young" / "red").mkdir(parents=True)
    (ant / "young" / "a.JPG").write_bytes(picture)
    (ant / "young" / "red" / "b.jpg").write_bytes(picture)
    (ant / "empty" / "deeper").mkdir(parents=True)
    (ant / ".cache").mkdir()
    (ant / ".cache" / "c.jpg").write_bytes(picture)
    (ant / "._000.jpeg").write_bytes(b"\0")
    (ant / "d.webp").write_bytes(picture)
    (ant / "young" / "e.TIFF").write_bytes(picture)
    (ant / "list").write_text("")
    (root / "train" / "loose.jpg").write_bytes(picture)
    (root / "train" / "labels.csv").write_text("")
    (root / "train" / "lost class").symlink_to(root / "nowhere")
    (root / "extra").mkdir()
    (root / "README").write_text("")
    (root / ".cconvnet-8x8x3.npz").write_bytes(b"")  # our own
    bee = root / "test" / "bee"
    (bee / "gone.png").symlink_to("nowhere.png")
    (bee / "odd\nname.jpg").write_bytes(picture)
    (bee / "notes").symlink_to("nowhere")
    return root


def test_everything_is_used_or_named_with_the_reason(tmp_path: Path) -> None:
    dataset = datasets.open_dataset(make_cluttered(tmp_path / "set"))
    found = dataset.account()
    assert {name: (split.found, split.used) for name, split in found.splits.items()} == {
        "train": (34, 26),
        "test": (11, 9),
    }
    assert found.splits["train"].unused.names == {
        "hidden": ["train/ant/.cache", "train/ant/._000.jpeg"],
        "of a kind that is not read, .webp": ["train/ant/d.webp"],
        "not a picture": ["train/ant/list", "train/labels.csv"],
        "of a kind that is not read, .tiff": ["train/ant/young/e.TIFF"],
        "outside of any class folder": ["train/loose.jpg"],
        "a link to nothing, or no file": ["train/lost class"],
    }
    assert found.splits["test"].unused.names == {
        "a link to nothing, or no file": ["test/bee/gone.png", "test/bee/notes"]
    }
    assert found.beside.names == {"not a picture": ["README"], "another folder": ["extra"]}
    assert json.loads(json.dumps(found.as_json()))["splits"]["train"]["found"] == 34
    assert any("2 pictures are in subfolders" in note and "ant/young" in note for note in dataset.notes)


def test_pictures_in_subfolders_belong_to_the_class_and_no_label_shifts(tmp_path: Path) -> None:
    flat = make_folder(tmp_path / "flat", {"train": {"ant": 5, "bee": 6, "cat": 7}}, (8, 8))
    for number in (1, 3, 5):
        below = flat / "train" / "bee" / "x" / f"{number % 2}"
        below.mkdir(parents=True, exist_ok=True)
        (flat / "train" / "bee" / f"{number:03}.jpeg").rename(below / f"{number:03}.jpeg")
    source = data.open_source(flat)
    names = [Path(source.train.file(index)).relative_to(flat / "train") for index in range(18)]
    assert [source.classes[label] for label in source.train.labels] == [name.parts[0] for name in names]
    assert source.train.labels.tolist() == [0] * 5 + [1] * 6 + [2] * 7


def links_in_circles(root: Path) -> None:
    (root / "ant" / "itself").symlink_to(root / "ant")
    (root / "bee" / "up").symlink_to(root)


def links_to_links(root: Path) -> None:
    """Two links in each of many folders to the next: ways without number."""
    for number in range(30):
        folder = root / "bee" / f"deep{number}"
        folder.mkdir()
        for name in "xy":
            (folder / name).symlink_to(root / "bee" / f"deep{number + 1}")


def links_to_themselves(root: Path) -> None:
    (root / "ant" / "self").symlink_to("self")
    (root / "self").symlink_to("self")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")


@pytest.mark.parametrize("make", [links_in_circles, links_to_links, links_to_themselves])
def test_links_neither_stop_nor_repeat_anything(tmp_path: Path, make: object) -> None:
    make_folder(tmp_path, {"train": {"ant": 12, "bee": 12}}, (8, 8))
    assert callable(make)
    make(tmp_path / "train")
    found = account(tmp_path)
    names = datasets.open_dataset(tmp_path).train.names
    assert found.splits["train"].used == 24
    assert len(set(names)) == len(names)
    reason = NO_TARGET if make is links_to_themselves else READ_ALREADY
    assert found.splits["train"].unused.counts[reason] >= 2


def test_a_picture_that_is_a_link_to_itself_is_left_out(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"ant": 12, "bee": 12}}, (8, 8))
    (tmp_path / "train" / "bee" / "self.jpg").symlink_to("self.jpg")
    source = data.open_source(tmp_path)
    (left,) = source.report()
    assert left.file == str(tmp_path / "train" / "bee" / "self.jpg") and "link to nothing" in left.reason
    assert source.train.labels.tolist() == [0] * 12 + [1] * 12


def test_many_files_are_counted_and_the_first_named() -> None:
    one, other = (Unused((f"{part}{i}", "hidden") for i in range(800)) for part in "ab")
    one.update(other)
    one.add("c", "odd")
    assert one.counts == {"hidden": 1600, "odd": 1} and len(one) == 1601
    assert len(one.names["hidden"]) == MAX_NAMES and one.names["hidden"][800] == "b0"
    assert str(one) == "1,600 hidden (a0, a1, a2, ...); 1 odd (c)"
    assert Unused.from_json(json.loads(json.dumps(one.as_json()))) == one
    assert one.below("x").names["odd"] == ["x/c"]


@pytest.mark.parametrize("kind", ["mnist", "cifar10", "batches", "shards"])
def test_what_lies_beside_files_of_each_kind(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "set"
    images, labels = np.zeros((10, 28, 28), np.uint8), np.arange(10, dtype=np.uint8) % 10
    if kind == "mnist":
        root.mkdir()
        for prefix in ("train", "t10k"):
            for name, array in (("images-idx3", images), ("labels-idx1", labels)):
                sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
                content = bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()
                (root / f"{prefix}-{name}-ubyte").write_bytes(content)
    elif kind == "shards":
        prepare(make_folder(tmp_path / "photos", COUNTS, (8, 8)), root)
    elif kind == "cifar10":
        root.mkdir()
        for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
            rows = np.zeros((10, 3073), np.uint8)
            rows[:, 0] = labels
            (root / name).write_bytes(rows.tobytes())
        (root / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    else:
        import pickle

        root.mkdir()
        batch = {"data": np.zeros((10, 3072), np.uint8), "labels": labels.tolist()}
        for name in ("data_batch_1", "test_batch"):
            (root / name).write_bytes(pickle.dumps(batch))
        (root / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    (root / "readme.html").write_text("")
    (root / ".DS_Store").write_text("")
    (root / "loop").symlink_to("loop")
    found = account(root)
    assert found.kind == kind and found.splits["train"].used == found.splits["train"].found
    assert found.beside.names == {
        "hidden": [".DS_Store"],
        "a link to nothing, or no file": ["loop"],
        "not a picture": ["readme.html"],
    }


def test_shards_keep_the_account_of_what_they_were_made_of(tmp_path: Path) -> None:
    source = make_cluttered(tmp_path / "set")
    (source / "train" / "bee" / "003.jpeg").write_bytes(b"junk")
    prepare(source, tmp_path / "shards")
    found = account(tmp_path / "shards")
    expected = account(source).without({"train": ["train/bee/003.jpeg"]})
    assert (expected.splits["train"].found, expected.splits["train"].used) == (34, 25)
    assert found.source == json.loads(json.dumps(expected.as_json()))
    assert found.splits["train"].used == 25 and found.splits["train"].found == 25
    text = "\n".join(found.lines())
    assert "d.webp" in text and "train/bee/003.jpeg" in text and "README" in text


# ---- said by the commands, and kept in the run ------------------------------------------------------------


def make_broken(root: Path) -> Path:
    make_folder(root, COUNTS, (28, 28))
    (root / "train" / "ant" / "001.jpeg").write_bytes(b"")
    (root / "test" / "bee" / "002.jpeg").write_bytes(b"\xff\xd8\xff\xe0junk")
    (root / "train" / "bee" / "x.gif").write_bytes(b"GIF89a")
    return root


def test_train_and_evaluate_name_what_they_skip(tmp_path: Path) -> None:
    root, run = make_broken(tmp_path / "set"), tmp_path / "run"
    listener = Listener()
    train(Options(data=str(root), size=28, batch=4, epochs=2, devices=["cpu:0"], out=run), listener)
    text = "\n".join(listener.lines)
    for name in ("001.jpeg: the file is empty", "002.jpeg", "x.gif", str(run / "data.json")):
        assert text.count(name) == 1, name  # once, not in each epoch
    kept = read_data(run)
    unreadable = [(one["split"], Path(one["file"]).name) for one in kept["unreadable"]]
    assert unreadable == [("train", "001.jpeg"), ("test", "002.jpeg")]
    assert kept["account"]["splits"]["train"] == {
        "found": 25,
        "used": 24,
        "not_used": [
            {"reason": "of a kind that is not read, .gif", "count": 1, "names": ["train/bee/x.gif"]}
        ],
    }
    said: list[str] = []
    found = evaluate_runs([run], devices=["cpu:0"], say=said.append)
    assert found.images == 7 and any("x.gif" in line for line in said)
    assert [Path(one.file).name for one in found.source.unreadable()] == ["002.jpeg"]


def test_a_resumed_run_keeps_what_was_found_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run that decodes while reading may not read every image again."""
    from cconvnet.data import sources

    monkeypatch.setattr(
        sources, "math", type("Large", (), {"prod": staticmethod(lambda shape: 2**40)})
    )  # no split fits into memory
    root, run = make_broken(tmp_path / "set"), tmp_path / "run"
    first, second = Listener(), Listener()
    train(Options(data=str(root), size=28, batch=4, epochs=1, devices=["cpu:0"], out=run), first)
    assert "whenever they are read" in "\n".join(first.lines)
    assert "\n".join(first.lines).count("001.jpeg") == 1
    before = read_data(run)["unreadable"]
    (root / "train" / "bee" / "004.jpeg").write_bytes(b"")
    train(Options(resume=run, epochs=2, devices=["cpu:0"]), second)
    after = read_data(run)["unreadable"]
    assert len(before) == 2 and after[:2] == before and len(after) == 3
    text = "\n".join(second.lines)
    assert "001.jpeg" not in text and text.count("004.jpeg: the file is empty") == 1


def test_the_commands_say_what_is_not_used(tmp_path: Path) -> None:
    root = make_broken(tmp_path / "set")
    inspected = cconvnet("data", "inspect", root, "--json", "found.json", cwd=tmp_path)
    prepared = cconvnet("data", "prepare", root, "shards", "--workers", "0", cwd=tmp_path)
    for done in (inspected, prepared):
        assert done.returncode == 0 and "x.gif" in done.stdout, done.stdout + done.stderr
    assert "001.jpeg" in inspected.stdout
    assert "train/ant/001.jpeg: the file is empty" in prepared.stdout
    values = json.loads((tmp_path / "found.json").read_text())
    assert values["account"]["splits"]["test"] == {"found": 8, "used": 8, "not_used": []}
    again = cconvnet("data", "inspect", "shards", cwd=tmp_path)
    assert "x.gif" in again.stdout and "002.jpeg" in again.stdout
