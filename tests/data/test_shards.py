"""Shards return what was stored; no damage is missed, and none stops training."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.commands import Listener, run
from helpers.made_pictures import COUNTS, encoded, make_folder, photo, prepare
from PIL import Image

from cconvnet import data, runs
from cconvnet.data import datasets, inspection, statistics
from cconvnet.data.byte_ranges import ByteRange
from cconvnet.data.images import BrokenImage, decode_image, read_raw, resize_image
from cconvnet.data.shards.format import JOURNAL, File, Names, read_shard_set, shard_name, write_document
from cconvnet.data.shards.reader import RawSplit
from cconvnet.data.shards.verify import verify, verify_decoding
from cconvnet.data.shards.writer import Picture, packed_array, write_file, write_shard
from cconvnet.data.statistics import gather
from cconvnet.errors import DataError
from cconvnet.training.options import Options
from cconvnet.training.session import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def raw_shards(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "raw"
    prepare(folder, root, 5000, size=16, raw=True)
    return root


@pytest.fixture(scope="module")
def jpeg_shards(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "jpeg"
    prepare(folder, root, 3000, size=16)
    return root


@pytest.fixture
def raw(raw_shards: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(raw_shards, tmp_path / "raw"))


@pytest.fixture
def jpeg(jpeg_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(jpeg_shards, tmp_path / "jpeg"))


def everything(source: data.Source) -> list[npt.NDArray[Any]]:
    return [array for split in (source.train, source.test) for array in split.read(np.arange(len(split)))]


def assert_equal(ours: list[npt.NDArray[Any]], theirs: list[npt.NDArray[Any]]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)


# ---- what is put in comes out ----------------------------------------------------------------------------


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_raw_shards_are_the_folder_decoded(folder: Path, raw_shards: Path, cache_bytes: int) -> None:
    ours = data.open_source(raw_shards, cache_bytes=cache_bytes)
    theirs = data.open_source(folder, 16)
    assert_equal(everything(ours), everything(theirs))
    assert ours.classes == theirs.classes == list(COUNTS["train"])
    assert ours.image_shape == (16, 16, 3) and ours.name == "shards of pictures pictures"
    assert ours.train.file(0) == "train/ant/000.jpeg" and ours.test.file(8) == "test/cat/003.jpeg"
    assert len(read_shard_set(raw_shards).shards("train")) == 6  # more than one was tried


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_raw_shards_gives_the_folders_batches(
    folder: Path, raw_shards: Path, workers: int
) -> None:
    ours = data.open_source(raw_shards, cache_bytes=0).train
    assert isinstance(ours, RawSplit)
    theirs = data.open_source(folder, 16, cache_bytes=0).train
    options: dict[str, Any] = {"crop": (12, 13), "random_crop": True, "mirror": True, "workers": workers}
    with data.Loader(ours, 8, 3, **options) as a, data.Loader(theirs, 8, 3, **options) as b:
        for epoch, start in ((0, 0), (1, 0), (5, 2)):
            pairs = list(zip(a.epoch(epoch, start), b.epoch(epoch, start), strict=True))
            assert len(pairs) == 4 - start
            for one, other in pairs:
                assert_equal(list(vars(one).values()), list(vars(other).values()))


@pytest.mark.parametrize("raw", [True, False])
def test_shards_read_at_another_size(raw: bool, raw_shards: Path, jpeg_shards: Path) -> None:
    """By the rule for files of the size they are stored in."""
    root = raw_shards if raw else jpeg_shards
    stored, read = data.open_source(root), data.open_source(root, 11, cache_bytes=0)
    assert read.image_shape == (11, 11, 3)
    expected = [resize_image(picture, 11) for picture in stored.train.read(np.arange(34))[0]]
    assert np.array_equal(read.train.read(np.arange(34))[0], expected)


def test_jpegs_of_the_right_size_stay_as_they_are(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", sides=(24, 24))
    dataset = prepare(folder, tmp_path / "shards")
    assert dataset.size == 24 and dataset.unchanged
    files = sorted((folder / "train").rglob("*.jpeg"))
    assert (tmp_path / "shards" / "train-00000.bin").read_bytes() == b"".join(
        file.read_bytes() for file in files
    )
    assert_equal(everything(data.open_source(tmp_path / "shards")), everything(data.open_source(folder)))
    again = prepare(folder, tmp_path / "again", quality=40)
    assert not again.unchanged and again.files["train-00000.bin"] != dataset.files["train-00000.bin"]


@pytest.mark.parametrize("codec", ["simplejpeg", "pillow"])
def test_jpegs_are_nearly_the_pictures(folder: Path, tmp_path: Path, codec: str) -> None:
    if codec == "simplejpeg":
        pytest.importorskip("simplejpeg")
    prepare(folder, tmp_path / "good", size=32, quality=95, codec=codec)
    dataset = prepare(folder, tmp_path / "small", size=32, quality=30, codec=codec)
    expected, _ = data.open_source(folder, 32).train.read(np.arange(34))
    errors = []
    for name in ("good", "small"):
        pictures, labels = data.open_source(tmp_path / name).train.read(np.arange(34))
        errors.append(np.abs(pictures.astype(int) - expected).mean())
        assert np.array_equal(labels, np.repeat([0, 1, 2], [9, 14, 11]))
    assert errors[0] < 3 and errors[0] < errors[1] < 12
    assert codec in dataset.encoder.lower() and dataset.quality == 30
    lengths = [(tmp_path / name / "train-00000.bin").stat().st_size for name in ("good", "small")]
    assert lengths[1] < 0.8 * lengths[0]
    one = decode_image((tmp_path / "small" / "train-00000.bin").read_bytes(), None)
    assert one.shape == (32, 32, 3)
    image = Image.open(io.BytesIO((tmp_path / "small" / "train-00000.bin").read_bytes()))
    assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]


def write_mnist(root: Path, counts: dict[str, int]) -> Path:
    root.mkdir()
    for prefix, count in counts.items():
        pictures = np.random.default_rng(count).integers(0, 256, (count, 5, 4), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            (root / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return root


@pytest.mark.parametrize("size", [None, 8])
def test_grey_arrays(tmp_path: Path, size: int | None) -> None:
    """They keep their size, their one channel and every bit, if nothing else is asked for."""
    mnist = write_mnist(tmp_path / "mnist", {"train": 40, "t10k": 20})
    dataset = prepare(mnist, tmp_path / "shards", 300, size=size)
    assert (dataset.encoding, dataset.channels, dataset.size) == ("raw", 1, size)
    assert len(dataset.shards("train")) > 1
    for cache_bytes in (0, 2**30):
        ours = data.open_source(tmp_path / "shards", cache_bytes=cache_bytes)
        assert ours.image_shape == ((5, 4, 1) if size is None else (8, 8, 1))
        assert_equal(everything(ours), everything(data.open_source(mnist, size)))
    assert ours.classes == list("0123456789")


def test_grey_arrays_as_jpegs_become_rgb(tmp_path: Path) -> None:
    prepare("digits", tmp_path / "shards", size=16, quality=100)
    ours, _ = data.open_source(tmp_path / "shards").train.read(np.arange(50))
    theirs, _ = data.open_source("digits", 16).train.read(np.arange(50))
    assert ours.shape == (50, 16, 16, 3)
    assert np.abs(ours.astype(int) - theirs).max() <= 4


@pytest.mark.parametrize("raw", [True, False])
def test_whole_pictures(folder: Path, tmp_path: Path, raw: bool) -> None:
    """The index has their sizes; training has their centre squares."""
    dataset = prepare(folder, tmp_path / "shards", size=16, whole=True, raw=raw)
    sides = dataset.records("train")[["height", "width"]].tolist()
    files = [file for name in COUNTS["train"] for file in sorted((folder / "train" / name).iterdir())]
    for file, (height, width) in zip(files, sides, strict=True):
        image = Image.open(file)
        shorter = min(image.size)
        assert (width, height) == tuple(round(side * 16 / shorter) for side in image.size)
    assert len({tuple(side) for side in sides}) > 5
    ours = data.open_source(tmp_path / "shards", cache_bytes=0)
    assert ours.image_shape == (16, 16, 3)
    pictures, _ = ours.train.read(np.arange(34))
    squares, _ = data.open_source(folder, 16).train.read(np.arange(34))
    # Cut after the whole was resized: the cut falls on whole pixels of the result, up to half of one beside.
    # Other pictures differ by about 90.
    assert np.abs(pictures.astype(int) - squares).mean() < (4 if raw else 10)
    assert data.open_source(tmp_path / "shards", 8).image_shape == (8, 8, 3)


def test_shards_of_shards(raw_shards: Path, jpeg_shards: Path, tmp_path: Path) -> None:
    """Prepared again at another size, or once more as they are."""
    prepare(raw_shards, tmp_path / "again", raw=True)
    assert_equal(everything(data.open_source(tmp_path / "again")), everything(data.open_source(raw_shards)))
    prepare(jpeg_shards, tmp_path / "jpeg", workers=1)
    assert_equal(everything(data.open_source(tmp_path / "jpeg")), everything(data.open_source(jpeg_shards)))
    prepare(raw_shards, tmp_path / "small", size=8, workers=1, raw=True)
    expected = [resize_image(one, 8) for one in data.open_source(raw_shards).train.read(np.arange(34))[0]]
    assert np.array_equal(data.open_source(tmp_path / "small").train.read(np.arange(34))[0], expected)


def test_names_of_any_kind() -> None:
    names = ["a", "", "n\udce9", "日本/é.jpg", "x\ny", "with\0zero"]
    read = Names(Names.packed(names))
    assert list(read) == [*names[:-1], "with?zero"] and len(read) == 6
    assert read[-2] == "x\ny" and list(read[1:3]) == names[1:3]
    with pytest.raises(IndexError):
        read[6]
    assert list(Names(b"")) == []


# ---- statistics ------------------------------------------------------------------------------------------


def test_statistics_come_with_shards(folder: Path, raw_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gather(data.open_source(folder, 16, cache_bytes=0), colors=True)
    for name in ("mean_image", "color_components"):
        monkeypatch.setattr(statistics, name, lambda *a: pytest.fail("it was computed"))
    found = gather(data.open_source(raw_shards), colors=True)
    assert found.mean is not None and found.colors is not None
    assert expected.mean is not None and expected.colors is not None
    assert found.mean.tobytes() == expected.mean.tobytes()
    assert found.colors.tobytes() == expected.colors.tobytes()


def test_statistics_of_another_size_are_kept_beside(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = data.open_source(raw, 8)
    assert source.mean is None and source.colors is None
    found = gather(source, colors=True)
    assert found.mean is not None and found.mean.shape == (8, 8, 3)
    monkeypatch.setattr(statistics, "mean_image", lambda *a: pytest.fail("it was computed again"))
    kept = gather(data.open_source(raw, 8, cache_bytes=0))
    assert kept.mean is not None and kept.mean.tobytes() == found.mean.tobytes()
    assert verify(raw) == []


# ---- training --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def run(where: Path, steps: int = 10, out: Path | None = None, **options: Any) -> Path:
        out = out or tmp_path_factory.mktemp("runs") / "run"
        train(
            Options(
                **{
                    "net": "cifar-quick", "data": str(where), "size": 32, "devices": ["cpu:0"], "batch": 8,
                    "epochs": 3, "seed": 7, "steps": steps, "out": out, "color_noise": 0.1,
                    "log_every": 2, **options,
                }
            ),
            Listener(),
        )  # fmt: skip
        return out

    return run


def weights(run: Path) -> dict[str, bytes]:
    _, checkpoint, _ = runs.find_checkpoint(run)
    return {name: tensor.tobytes() for name, tensor in checkpoint.tensors.items()}


def test_training_from_raw_shards_is_training_from_the_folder(
    folder: Path, tmp_path: Path, trained: Callable[..., Path]
) -> None:
    """Bitwise, with crops, mirror images, colour noise and the mean that comes with the shards."""
    prepare(folder, tmp_path / "shards", 20_000, size=32, raw=True)
    ours, theirs = trained(tmp_path / "shards"), trained(folder)
    assert weights(ours) == weights(theirs)
    logs = [[line["loss"] for line in runs.read_log(run) if "loss" in line] for run in (ours, theirs)]
    assert logs[0] == logs[1] and len(logs[0]) == 5


def test_training_from_shards_resumes_in_the_middle_of_an_epoch(
    folder: Path, tmp_path: Path, trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read while training: an epoch has 4 steps, and step 6 is in the second."""
    prepare(folder, tmp_path / "shards", 20_000, size=32)
    opened = data.open_source
    monkeypatch.setattr(data, "open_source", lambda *a, **k: opened(*a, **{**k, "cache_bytes": 0}))
    whole = trained(tmp_path / "shards")
    out = trained(tmp_path / "shards", steps=6, out=tmp_path / "stopped")
    train(Options(devices=["cpu:0"], resume=out, steps=10), Listener())
    assert weights(out) == weights(whole)


# ---- damage while training -------------------------------------------------------------------------------


def flip(file: Path, at: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_changed_byte_is_a_broken_picture(kind: str, workers: int, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(kind)
    row = read_shard_set(root).records("train")[11]
    before, labels = data.open_source(root).train.read(np.arange(34))
    flip(root / shard_name("train", int(row["file"])), int(row["offset"]) + 100)
    split = data.open_source(root, cache_bytes=0).train
    with data.Loader(split, 34, shuffle=False, drop_last=False, workers=workers) as loader:
        (batch,) = loader.epoch(0)
    others = np.delete(np.arange(34), 11)
    assert np.array_equal(batch.images, before[others]) and np.array_equal(batch.labels, labels[others])
    assert list(split.skipped) == [11] and "checksum differs" in split.skipped[11]
    assert f"train-{row['file']:05}.bin" in split.skipped[11] and split.file(11).startswith("train/bee/")


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_a_shard_cut_while_it_is_read(kind: str, request: pytest.FixtureRequest) -> None:
    """Its last picture is broken, and nothing else happens: no signal kills the process."""
    root: Path = request.getfixturevalue(kind)
    split = data.open_source(root, cache_bytes=0).train
    rows = read_shard_set(root).records("train")
    name = shard_name("train", int(rows["file"][-1]))
    os.truncate(root / name, (root / name).stat().st_size - 1)
    pictures, labels = split.read(np.arange(34))
    assert len(pictures) == 33 and labels.tolist() == rows["label"][:-1].tolist()
    assert list(split.skipped) == [33] and f"{name} ends within it" in split.skipped[33]


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_goes_away_is_named(kind: str, workers: int, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(kind)
    split = data.open_source(root, cache_bytes=0).train
    with data.Loader(split, 4, workers=workers) as loader:
        next(iter(loader.epoch(0)))
        (root / "train-00001.bin").unlink()
        with pytest.raises(DataError, match=r"train-00001\.bin cannot be read: No such file"):
            list(loader.epoch(1))


def test_too_much_damage_stops(raw: Path) -> None:
    split = data.open_source(raw, cache_bytes=0).train
    for name in read_shard_set(raw).shards("train"):
        (raw / name).write_bytes(bytes((raw / name).stat().st_size))
    with pytest.raises(DataError, match="more than 3 of the 34 train images are broken"):
        split.read(np.arange(34))


# ---- damage that is found when they are opened -----------------------------------------------------------


def refused(root: Path) -> str:
    with pytest.raises(DataError) as refusal:
        data.open_source(root)
    message = str(refusal.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["train-00000.bin", "test.npy", "train.names", "mean.npy", "skipped.jsonl"])
def test_a_missing_file_is_named(raw: Path, name: str) -> None:
    (raw / name).unlink()
    message = refused(raw)
    assert f"{raw / name} is missing" in message and "`cconvnet data prepare`" in message


def test_a_shard_of_another_length(raw: Path) -> None:
    length = (raw / "test-00000.bin").stat().st_size
    os.truncate(raw / "test-00000.bin", length - 5)
    message = refused(raw)
    assert f"test-00000.bin has {length - 5:,} bytes instead of {length:,}" in message


@pytest.mark.parametrize("name", ["train.npy", "train.names", "mean.npy", "colors.npy", "dataset.json"])
def test_a_changed_byte_of_what_is_read_first(raw: Path, name: str) -> None:
    chance = random.Random(name)
    for _ in range(8):
        content = (raw / name).read_bytes()
        flip(raw / name, chance.randrange(len(content)), chance.randrange(8))
        assert str(raw / name) in refused(raw)
        (raw / name).write_bytes(content)
    data.open_source(raw)


def test_a_cut_dataset_json(raw: Path) -> None:
    content = (raw / "dataset.json").read_bytes()
    for length in (0, 1, 60, 70, len(content) // 2, len(content) - 1):
        (raw / "dataset.json").write_bytes(content[:length])
        assert "dataset.json is damaged" in refused(raw)


def test_an_unfinished_folder(raw: Path) -> None:
    (raw / "dataset.json").unlink()
    assert "is unfinished: it has no dataset.json" in refused(raw)
    (raw / JOURNAL).mkdir()
    for file in raw.glob("*-0*.bin"):
        file.unlink()
    assert "is unfinished" in refused(raw)
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        read_shard_set(raw / "nowhere")


@pytest.mark.parametrize("value", [{"version": 3}, {"format": "of somebody else"}, {"version": "1"}])
def test_another_format_is_refused(raw: Path, value: dict[str, Any]) -> None:
    document = json.loads((raw / "dataset.json").read_text())
    write_document(raw / "dataset.json", {**document, **value, "more": 1})
    assert "this cconvnet reads 'cconvnet shards', versions 1 and 2" in refused(raw)


def rewrite(root: Path, name: str, content: bytes, **changes: Any) -> None:
    """As somebody would who knows the format: with the right checksums."""
    dataset = read_shard_set(root)
    (root / name).write_bytes(content)
    files = {**dataset.files, name: write_file(root / name, content)}
    dataclasses.replace(dataset, files=files, **changes).write()


@pytest.mark.parametrize(
    "field, value",
    [
        ("file", 99), ("file", -1), ("offset", -1), ("offset", 2**62), ("length", 2**30), ("length", -1),
        ("length", 0), ("height", 0), ("width", -16), ("height", 2**30), ("label", 3),
        ("label", -1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_an_index_that_lies(kind: str, field: str, value: int, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(kind)
    rows = read_shard_set(root).records("train")
    rows[field][5] = value
    rewrite(root, "train.npy", packed_array(rows))
    assert "train.npy: record 5 is impossible" in refused(root)


def test_nothing_is_unpickled(raw: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    for name in ("train.npy", "mean.npy"):
        content = (raw / name).read_bytes()
        rewrite(raw, name, buffer.getvalue())
        assert f"{name} is no array" in refused(raw)
        rewrite(raw, name, content)
    for array in (np.zeros(34), np.zeros((34, 7), np.int64)):
        rewrite(raw, "train.npy", packed_array(array))
        assert "train.npy has the shape" in refused(raw)


def test_a_dataset_json_that_does_not_fit(raw: Path) -> None:
    dataset = read_shard_set(raw)
    names = b"".join(f"{number}\0".encode() for number in range(33))
    rewrite(raw, "train.names", names)
    assert "train.names has 33 names; dataset.json lists 34" in refused(raw)
    for changes in (
        {"files": {**dataset.files, "../evil": File(1, "")}},
        {"files": {name: file for name, file in dataset.files.items() if name != "mean.npy"}},
        {"files": {name: file for name, file in dataset.files.items() if name != "train-00001.bin"}},
        {"encoding": "gif"},
        {"channels": 4},
        {"classes": "abc"},
        {"pictures": {"test": 9}},
        {"pictures": {"train": "34", "test": 9}},
        {"size": "16"},
    ):
        dataclasses.replace(dataset, **changes).write()
        assert "dataset.json is not cconvnet's" in refused(raw)


# ---- verify ----------------------------------------------------------------------------------------------


def found_damage(root: Path) -> list[str]:
    try:
        return verify(root, workers=1)
    except DataError as error:
        return [str(error)]


@pytest.mark.parametrize("kind", ["raw_shards", "jpeg_shards"])
def test_sound_shards(kind: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(kind)
    seen: list[tuple[int, int]] = []
    assert verify(root, progress=lambda *counts: seen.append(counts)) == []
    assert len(seen) > 2 and seen[-1][0] <= seen[-1][1]
    seen.clear()
    assert verify_decoding(root, workers=0, progress=lambda *counts: seen.append(counts)) == []
    assert seen[-1] == (43, 43)


def check_flips(root: Path, times: int) -> None:
    chance = random.Random(times)
    files = sorted(entry for entry in root.iterdir() if entry.is_file() and entry.stat().st_size)
    for _ in range(times):
        file = chance.choice(files)
        content = file.read_bytes()
        flip(file, chance.randrange(len(content)), chance.randrange(8))
        assert any(str(file) in line for line in found_damage(root)), file
        file.write_bytes(content)
    assert found_damage(root) == []


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_every_flipped_bit_is_found(kind: str, request: pytest.FixtureRequest) -> None:
    check_flips(request.getfixturevalue(kind), 20)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_300_flipped_bits_are_found(kind: str, request: pytest.FixtureRequest) -> None:
    check_flips(request.getfixturevalue(kind), 300)


def test_every_truncation_is_found(raw: Path) -> None:
    chance = random.Random(4)
    for file in sorted(entry for entry in raw.iterdir() if entry.is_file() and entry.stat().st_size):
        content = file.read_bytes()
        for length in (0, chance.randrange(len(content)), len(content) - 1):
            file.write_bytes(content[:length])
            assert any(str(file) in line for line in found_damage(raw)), (file, length)
        file.write_bytes(content + b"\0")
        assert any(str(file) in line for line in found_damage(raw)), file
        file.write_bytes(content)
    assert found_damage(raw) == []


def test_what_is_damaged_is_named(raw: Path) -> None:
    row = read_shard_set(raw).records("train")[20]
    name = shard_name("train", int(row["file"]))
    flip(raw / name, int(row["offset"]))
    (raw / "test-00000.bin").unlink()
    found = verify(raw)
    assert found == [
        f"{raw / name}: picture train/bee/011.jpeg of class bee is damaged",
        f"{raw / 'test-00000.bin'} is missing",
    ]


def test_shards_are_checked_without_their_index(raw: Path) -> None:
    flip(raw / "train.npy", 200)
    flip(raw / "train-00001.bin", 3)
    index, shard = verify(raw)
    assert f"{raw / 'train.npy'} is damaged" in index
    assert shard == f"{raw / 'train-00001.bin'} is damaged: its SHA-256 differs"


def test_a_picture_that_cannot_be_decoded(tmp_path: Path) -> None:
    """Its bytes are those that were stored, so only decoding tells."""
    folder = make_folder(tmp_path / "data", sides=(16, 16))
    dataset = prepare(folder, tmp_path / "shards")
    rows = dataset.records("test")
    content = bytearray((tmp_path / "shards" / "test-00000.bin").read_bytes())
    start, length = int(rows["offset"][4]), int(rows["length"][4])
    content[start : start + length] = b"\xff\xd8\xff" + bytes(length - 3)

    rows["crc32"][4] = zlib.crc32(content[start : start + length])
    rewrite(tmp_path / "shards", "test.npy", packed_array(rows))
    rewrite(tmp_path / "shards", "test-00000.bin", bytes(content))
    assert verify(tmp_path / "shards") == []
    (line,) = verify_decoding(tmp_path / "shards", workers=0)
    assert line.startswith(f"{tmp_path / 'shards' / 'test'}: test/bee/001.jpeg: ")


def test_verify_as_a_command(raw: Path) -> None:
    done = run("data", "verify", raw, "--decode")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{raw} is sound: 16 files, 43 pictures" in done.stdout
    flip(raw / "train-00002.bin", 3)
    done = run("data", "verify", raw)
    assert (done.returncode, done.stderr) == (1, "")
    assert "train-00002.bin: picture train/" in done.stdout and "`cconvnet data prepare`" in done.stdout
    flip(raw / "dataset.json", 3)
    done = run("data", "verify", raw)
    assert (done.returncode, done.stdout) == (2, "") and "dataset.json is damaged" in done.stderr


# ---- inspect ---------------------------------------------------------------------------------------------


def test_inspection(folder: Path, raw_shards: Path) -> None:
    found = inspection.inspect(datasets.open_dataset(folder))
    assert {split: counts.tolist() for split, counts in found.counts.items()} == {
        "train": [9, 14, 11],
        "test": [3, 2, 4],
    }
    assert found.bytes == sum(file.stat().st_size for file in folder.rglob("*.*g"))
    lines = "\n".join(inspection.lines(found))
    assert "train: 34 pictures, from 9 (ant) to 14 (bee) of a class" in lines
    assert inspection.table(found) == [["ant", "9", "3"], ["bee", "14", "2"], ["cat", "11", "4"]]
    assert found.as_json()["classes"][1] == {"name": "bee", "train": 14, "test": 2}
    of_shards = inspection.inspect(datasets.open_dataset(raw_shards))
    assert of_shards.smallest == of_shards.largest == (16, 16) and of_shards.bytes == 43 * 768


def test_a_sheet_shows_each_class_with_its_name(tmp_path: Path) -> None:
    """Flat pictures tell by their colour where they went."""
    colors = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
    for name, color in colors.items():
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{number}.png").write_bytes(encoded(Image.new("RGB", (30, 20), color), "PNG"))
    (tmp_path / "red" / "0.png").write_bytes(b"not a picture")
    drawn = np.asarray(inspection.sheet(datasets.open_dataset(tmp_path)))
    counts = {name: int((drawn == color).all(axis=2).sum()) for name, color in colors.items()}
    assert counts == {"red": 3 * 90 * 60, "green": 4 * 90 * 60, "blue": 4 * 90 * 60}
    dark = (drawn < 120).all(axis=2).sum()
    assert dark > 12 * 20  # names, and "broken" in a place of its own
    other = np.asarray(inspection.sheet(datasets.open_dataset(tmp_path), seed=1))
    assert other.shape == drawn.shape


def test_inspect_as_a_command(folder: Path, tmp_path: Path) -> None:
    done = run(
        "data", "inspect", folder, "--sheet", tmp_path / "sheet.png", "--json", tmp_path / "counts.json"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "pictures pictures: pictures, 3 classes" in done.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000
    assert json.loads((tmp_path / "counts.json").read_text())["splits"] == {"train": 34, "test": 9}
    done = run("data", "inspect", folder, "--json", "-")
    assert json.loads(done.stdout)["kind"] == "pictures"
    done = run("data", "inspect", folder, "--sheet", tmp_path / "sheet.gif")
    assert done.returncode == 2 and "--sheet must end with .png or .jpg" in done.stderr


def test_reading_straight_into_an_array_checks_its_bytes(tmp_path: Path) -> None:
    pixels = np.asarray(photo(5, 6, 1))
    shard = write_shard(tmp_path / "a.bin", [Picture(b"xyz", 1, 1), Picture(pixels.tobytes(), 5, 6)])
    (length, height, width, crc) = shard.pictures[1]
    assert (length, height, width) == (90, 5, 6) and shard.file.bytes == 93
    out = np.zeros((5, 6, 3), np.uint8)
    read_raw(ByteRange(str(tmp_path / "a.bin"), 3, 90, crc), out)
    assert np.array_equal(out, pixels)
    with pytest.raises(BrokenImage, match="checksum differs"):
        read_raw(ByteRange(str(tmp_path / "a.bin"), 2, 90, crc), out)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_501, "1 MB"),
        (5e13, "50 TB"),
    ],
)
def test_sizes_have_three_digits_and_a_unit(count: float, text: str) -> None:
    assert inspection.sized(count) == text
