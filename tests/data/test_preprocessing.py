"""One file gives the same upright pixels in every command; runs and shards record the rules."""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.commands import Listener
from helpers.commands import run as command
from helpers.damaged_pictures import chunk
from helpers.made_pictures import digests, encoded, photo
from PIL import Image, ImageOps, PngImagePlugin

from cconvnet import data, nets
from cconvnet.data import datasets, decode_image, inspection, resize_image
from cconvnet.data.containers import of_pixels, orientation, turned
from cconvnet.data.images import DECODERS, fit_image, image_sides, simplejpeg
from cconvnet.data.preprocessing import CURRENT, UNRECORDED, Preprocessing
from cconvnet.data.shards.encoding import choose
from cconvnet.data.shards.format import DOCUMENT, ShardSet, read_shard_set, write_document
from cconvnet.data.shards.prepare import Preparation
from cconvnet.data.statistics import fingerprint
from cconvnet.errors import DataError
from cconvnet.evaluate import evaluate_runs, load_trained, not_turned, predict
from cconvnet.network import Network
from cconvnet.plots import analysis, augmentation
from cconvnet.plots.curve import differences
from cconvnet.runs import checkpoint, comparison
from cconvnet.runs.history import History
from cconvnet.training.options import Options
from cconvnet.training.session import train

Pixels = npt.NDArray[np.uint8]

SIDE = 28
INSTALLED = [name for name in DECODERS if name == "pillow" or simplejpeg is not None]


def exif(value: int, big: bool = False, kind: int = 3, before: int = 0) -> bytes:
    """EXIF data with an orientation, after `before` other entries."""
    order = ">" if big else "<"
    entries = [struct.pack(f"{order}HHII", 0x0100 + i, 4, 1, 6) for i in range(before)]
    size = {1: "Bxxx", 3: "Hxx", 4: "I"}[kind]
    entries.append(struct.pack(f"{order}HHI{size}", 0x0112, kind, 1, value))
    entries.append(struct.pack(f"{order}HHII", 0x0128, 3, 1, 2))
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(f"{order}IH", 8, len(entries))
    return head + b"".join(entries) + b"\0\0\0\0"


def with_exif(content: bytes, data: bytes) -> bytes:
    """A JPEG or PNG with this EXIF data in front."""
    if content.startswith(b"\xff\xd8"):
        segment = b"Exif\0\0" + data
        return content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]
    return content[:33] + chunk(b"eXIf", data) + content[33:]


# ---- orientation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_orientation_is_found_and_turned(kind: str, value: int) -> None:
    plain = encoded(photo(19, 31, seed=value), kind)
    for big, type_, before in itertools.product((False, True), (1, 3, 4), (0, 3)):
        content = with_exif(plain, exif(value, big, type_, before))
        assert orientation(content) == value
    content = with_exif(plain, exif(value))
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
        stored = np.asarray(image)
    assert np.array_equal(turned(stored, value), expected)
    assert image_sides(content) == (expected.shape[1], expected.shape[0])
    assert image_sides(content, UNRECORDED) == (31, 19)
    for decoder in INSTALLED:
        found = decode_image(content, None, decoder)
        assert np.abs(found.astype(int) - expected).max() <= (2 if kind == "JPEG" else 0)
        assert np.array_equal(turned(decode_image(plain, None, decoder), value), found)
        # As though it had been stored upright: also where the centre lies between two pixels.
        for size in (19, 12, 40):
            assert np.array_equal(decode_image(content, size, decoder), decode_image_of(found, size))


def decode_image_of(pixels: Pixels, size: int) -> Pixels:
    return decode_image(encoded(Image.fromarray(pixels), "PNG"), size)


def test_orientation_among_other_segments() -> None:
    jpeg = encoded(photo(10, 12, seed=1))
    turned_ = with_exif(jpeg, exif(6))
    xmp = b"\xff\xe1" + struct.pack(">H", 33) + b"http://ns.adobe.com/xap/1.0/\0xx"
    first = len(jpeg[:2])
    assert orientation(turned_[:first] + xmp + turned_[first:]) == 6
    assert orientation(turned_[:first] + b"\xff\xff\xff" + turned_[first:]) == 6  # fill bytes
    assert orientation(turned_[:first] + b"\0\0" + turned_[first:]) == 6  # stray bytes, which are passed over
    assert orientation(with_exif(turned_, exif(3))) == 3  # of two the first
    scan = jpeg.index(b"\xff\xda")
    assert orientation(jpeg[:scan] + b"\xff\xd9" + with_exif(jpeg, exif(6))[2:]) == 1
    png = encoded(photo(10, 12, seed=1), "PNG")
    after = png[:-12] + chunk(b"eXIf", exif(8)) + png[-12:]
    assert orientation(after) == 8  # it may follow the pixels
    assert orientation(png[:-12] + chunk(b"eXIf", b"Exif\0\0" + exif(8)) + png[-12:]) == 8
    wrong = bytearray(with_exif(png, exif(8)))
    wrong[wrong.index(b"eXIf") + 12] ^= 1
    assert orientation(bytes(wrong)) == 1


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_is_none_says_nothing(value: int) -> None:
    assert orientation(with_exif(encoded(photo(8, 9, seed=2)), exif(value, kind=4))) == 1


def test_damaged_exif_never_fails() -> None:
    chance = np.random.default_rng(3)
    found = set()
    for number in range(3000):
        kind = "PNG" if number % 3 else "JPEG"
        content = with_exif(SMALL[kind], exif(6, bool(number % 2), before=2))
        damaged = bytearray(content)
        for _ in range(chance.integers(1, 5)):
            damaged[chance.integers(2 if kind == "JPEG" else 8, 120)] = chance.integers(256)
        found.add(orientation(bytes(damaged[: chance.integers(3, len(damaged) + 1)])))
    assert found >= {1, 6} and found <= set(range(1, 9))
    # A directory that lies outside of the data, and one of 65,535 entries that are not there.
    for directory in (0, 7, 2**32 - 1, 10**6):
        moved = b"II*\0" + struct.pack("<I", directory) + exif(6)[8:]
        assert orientation(with_exif(SMALL["JPEG"], moved)) == 1
    assert orientation(with_exif(SMALL["JPEG"], exif(6)[:8] + b"\xff\xff" + exif(6)[10:])) == 6


SMALL = {kind: encoded(photo(8, 9, seed=2), kind) for kind in ("JPEG", "PNG")}


# ---- one picture, every command --------------------------------------------------------------------------


def odd_pictures() -> dict[str, bytes]:
    """Files that are easily read differently, by name."""
    large = photo(451, 630, seed=3)
    small = photo(40, 57, seed=4)
    grey16 = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) << 8 | 0x3C)
    long = PngImagePlugin.PngInfo()
    long.add_text("prompt", "a" * 1_100_000, zip=True)
    palette = io.BytesIO()
    small.quantize(20).save(palette, "PNG", transparency=3)
    texts = io.BytesIO()
    photo(57, 40, seed=10).save(texts, "PNG", pnginfo=long)
    return {
        "turned.jpg": with_exif(encoded(large), exif(6)),
        "mirrored.jpg": with_exif(encoded(photo(90, 60, seed=5)), exif(7)),
        "exact.jpg": with_exif(encoded(photo(SIDE, SIDE, seed=6)), exif(8)),
        "ink.jpg": with_exif(encoded(small.convert("CMYK")), exif(5)),
        "grey.jpg": encoded(photo(200, 211, seed=7).convert("L")),
        "palette.png": with_exif(palette.getvalue(), exif(3)),
        "deep.png": with_exif(encoded(grey16, "PNG"), exif(2)),
        "alpha.png": encoded(small.convert("RGBA"), "PNG"),
        "texts.png": texts.getvalue(),
        "upright.jpg": encoded(photo(64, 80, seed=8)),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class of odd pictures and one of others, of which two are for testing."""
    root = tmp_path_factory.mktemp("odd")
    for split in ("train", "test"):
        (root / split / "odd").mkdir(parents=True)
        (root / split / "plain").mkdir()
        for name, content in odd_pictures().items():
            (root / split / "odd" / name).write_bytes(content)
        for number in range(2):
            content = encoded(photo(40, 50, seed=20 + number), "PNG")
            (root / split / "plain" / f"{number}.png").write_bytes(content)
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train(options(folder, path), Listener())
    return path


def options(folder: Path, path: Path, **more: Any) -> Options:
    asked = {"net": "lenet", "data": str(folder), "size": SIDE, "batch": 6, "steps": 4, "devices": ["cpu:0"]}
    return Options(**{**asked, "out": path, **more})


def reference(rules: Preprocessing = CURRENT) -> dict[str, bytes]:
    """Decode each odd image, and return the bytes of its pixels."""
    return {
        name: decode_image(content, SIDE, preprocessing=rules).tobytes()
        for name, content in odd_pictures().items()
    }


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[bytes]]:
    """The images that networks were given since the last call."""
    found: set[bytes] = set()
    load = Network.load

    def recording(network: Network, images: Any, *arguments: Any, **more: Any) -> None:
        found.update(image.tobytes() for image in np.asarray(images))
        load(network, images, *arguments, **more)

    def taken() -> set[bytes]:
        images = set(found)
        found.clear()
        return images

    monkeypatch.setattr(Network, "load", recording)
    return taken


def test_reference_is_what_pillow_shows() -> None:
    for name, content in odd_pictures().items():
        with Image.open(io.BytesIO(of_pixels(content))) as image:
            value = orientation(content)
            pixels = np.asarray(image)
        if name == "deep.png":
            rgb = np.repeat((pixels >> 8).astype(np.uint8)[..., None], 3, axis=2)
        else:
            rgb = np.asarray(image.convert("RGB"))
        expected = resize_image(np.ascontiguousarray(turned(rgb, value)), SIDE)
        found = np.frombuffer(reference()[name], np.uint8).reshape(SIDE, SIDE, 3)
        assert np.abs(found.astype(int) - expected).max() <= 2, name


def seen_by_the_sheet(rows: list[Any], split: data.Split, numbers: Any, *more: Any) -> list[Any]:
    """Note the images that a sheet would augment, and return them."""
    images, _ = split.read(numbers)
    rows.extend(images)
    return [images]


def test_every_command_sees_the_same_pixels(
    folder: Path,
    run: Path,
    tmp_path: Path,
    loaded: Callable[[], set[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = reference()
    odd = set(expected.values())
    assert len(odd) == len(expected)

    train(options(folder, tmp_path / "again"), Listener())
    assert loaded() >= odd, "train"
    for workers in (0, 1):
        source = data.open_source(folder, SIDE, cache_bytes=0, workers=workers)
        with data.Loader(source.train, 4, shuffle=False, drop_last=False, workers=workers) as loader:
            read = {image.tobytes() for batch in loader.epoch(0) for image in batch.images}
        assert read >= odd, f"decoded when they are read, {workers} workers"
    evaluate_runs([run], devices=["cpu:0"])
    assert loaded() >= odd, "evaluate"
    evaluate_runs([run, run], str(folder), devices=["cpu:0"])
    assert loaded() >= odd, "evaluate, averaged"

    trained = load_trained(run, devices=["cpu:0"])
    files = [folder / "test" / "odd" / name for name in expected]
    predict(trained, files)
    assert loaded() == odd, "predict"
    test = analysis.open_test(trained, None)
    shown = analysis.look(trained, test, pictures=files, among=4)
    assert [one.image.tobytes() for one in shown.seen] == list(expected.values()), "plot predictions"
    for file in files:
        assert analysis.one_image(trained, file, None)[1].tobytes() == expected[file.name], "plot activations"

    rows: list[Pixels] = []
    monkeypatch.setattr(augmentation, "augmented", functools.partial(seen_by_the_sheet, rows))
    spec = nets.build("lenet", image_shape=source.image_shape, classes=2)
    augmentation.write_sheet(tmp_path / "sheet.png", source, spec, images=len(source.train), epochs=1)
    assert {row.tobytes() for row in rows} >= odd, "augment"

    prepare(folder, tmp_path / "raw", raw=True)
    loaded()
    evaluate_runs([run], str(tmp_path / "raw"), devices=["cpu:0"])
    assert loaded() >= odd, "data prepare"


def test_commands_say_once_that_fewer_workers_do(folder: Path, tmp_path: Path) -> None:
    listener = Listener()
    train(options(folder, tmp_path / "run", steps=1, workers=60), listener)
    told = [line for line in listener.lines if line.startswith("workers: ")]
    assert told == ["workers: 1 instead of 60: 12 pictures keep no more busy"]
    listener = Listener()
    dataset = datasets.open_dataset(folder)
    Preparation(dataset, tmp_path / "shards", *choose(dataset, size=SIDE)).run(listener, 60)
    told = [line for line in listener.lines if line.startswith("workers: ")]
    assert told == ["workers: 1 instead of 60: 24 pictures keep no more busy"]


def test_a_sheet_of_broken_pictures_shows_the_next_good_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        target = tmp_path / "some" / "a" / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encoded(photo(SIDE, SIDE, seed=number), "PNG") if number else b"broken")
    source = data.open_source(tmp_path / "some", SIDE, cache_bytes=0)
    rows: list[Pixels] = []
    monkeypatch.setattr(augmentation, "augmented", functools.partial(seen_by_the_sheet, rows))
    spec = nets.build("lenet", image_shape=source.image_shape, classes=2)
    augmentation.write_sheet(tmp_path / "sheet.png", source, spec, images=1, epochs=1)
    assert np.array_equal(rows, source.train.read([1])[0])


def prepare(folder: Path, to: Path, **asked: Any) -> ShardSet:
    dataset = datasets.open_dataset(folder)
    return Preparation(dataset, to, *choose(dataset, size=SIDE, **asked)).run(Listener(), 1)


def test_whole_pictures_in_shards_are_upright_too(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path / "whole", raw=True, whole=True)
    opened = datasets.open_dataset(tmp_path / "whole")
    assert opened.train.raw is not None
    sides = {
        Path(name).name: (int(height), int(width))
        for name, height, width in zip(
            opened.train.names, opened.train.raw.height, opened.train.raw.width, strict=True
        )
    }
    assert sides["turned.jpg"] == (round(630 * SIDE / 451), SIDE)
    assert sides["ink.jpg"] == (round(57 * SIDE / 40), SIDE)
    assert sides["grey.jpg"] == (SIDE, round(211 * SIDE / 200))


def test_jpegs_of_the_right_size_stay_unless_they_are_turned(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "x").mkdir(parents=True)
    stays = encoded(photo(SIDE, SIDE, seed=1))
    (tmp_path / "a" / "x" / "stays.jpg").write_bytes(stays)
    (tmp_path / "a" / "x" / "turned.jpg").write_bytes(odd_pictures()["exact.jpg"])
    prepare(tmp_path / "a", tmp_path / "b")
    stored = (tmp_path / "b" / "train-00000.bin").read_bytes()
    assert stays in stored and b"Exif" not in stored
    source = data.open_source(tmp_path / "b", SIDE)
    images = source.train.read(np.arange(len(source.train)))[0]
    expected = np.frombuffer(reference()["exact.jpg"], np.uint8).reshape(SIDE, SIDE, 3)
    assert min(np.abs(image.astype(int) - expected).mean() for image in images) < 4


def test_images_that_are_not_square(tmp_path: Path) -> None:
    """A network of pictures of 20 x 30 gets one of that size as it is, and of others the largest part."""
    pixels = np.asarray(photo(20, 30, seed=9))
    content = encoded(Image.fromarray(pixels), "PNG")
    assert np.array_equal(fit_image(content, (20, 30)), pixels)
    assert np.array_equal(fit_image(with_exif(content, exif(3)), (20, 30)), pixels[::-1, ::-1])
    larger = np.asarray(photo(81, 90, seed=9))
    expected = Image.fromarray(larger).resize((30, 20), Image.Resampling.BILINEAR, box=(0, 10.5, 90, 70.5))
    found = fit_image(encoded(Image.fromarray(larger), "PNG"), (20, 30)).astype(int)
    assert np.abs(found - np.asarray(expected)).max() <= 1


# ---- records ---------------------------------------------------------------------------------------------


def test_a_run_records_the_rules(run: Path) -> None:
    rules = {"orientation": "exif", "jpeg": "full", "resize": "antialiased"}
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["preprocessing"] == rules
    assert load_trained(run, devices=["cpu:0"]).checkpoint.settings["preprocessing"] == rules


def unrecorded(run: Path, to: Path) -> Path:
    """The run as a version without records would have left it."""
    (to / "checkpoints").mkdir(parents=True)
    for file in run.rglob("*"):
        if not file.is_file() or file.name == "lock":
            continue
        target = to / file.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            kept = checkpoint.load(file)
            kept.settings.pop("preprocessing")
            checkpoint.save(target, dataclasses.replace(kept))
        else:
            target.write_bytes(file.read_bytes())
    config = json.loads((to / "config.json").read_text())
    del config["settings"]["preprocessing"]
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_a_run_without_a_record_reads_as_it_did(
    folder: Path, run: Path, tmp_path: Path, loaded: Callable[[], set[bytes]]
) -> None:
    old = unrecorded(run, tmp_path / "old")
    expected = reference(UNRECORDED)
    differ = {name for name, image in reference().items() if image != expected[name]}
    assert differ >= {"turned.jpg", "mirrored.jpg", "exact.jpg", "ink.jpg", "palette.png", "deep.png"}
    evaluate_runs([old], devices=["cpu:0"])
    assert loaded() >= set(expected.values())
    trained = load_trained(old, devices=["cpu:0"])
    predict(trained, [folder / "test" / "odd" / name for name in expected])
    assert loaded() == set(expected.values())
    listener = Listener()
    train(Options(resume=old, steps=6, devices=["cpu:0"]), listener)
    assert loaded() >= set(expected.values())
    note = "data: pictures are not turned upright by their EXIF data: the run was begun without that"
    assert note in listener.lines
    # On shards, which are upright, it cannot.
    prepare(folder, tmp_path / "upright", raw=True)
    said: list[str] = []
    evaluate_runs([old], str(tmp_path / "upright"), devices=["cpu:0"], say=said.append)
    trained_on = (
        "the network was trained on pictures not turned by EXIF, large JPEGs decoded at reduced scale"
    )
    told = [line for line in said if line.startswith("pictures: ")]
    assert told == [f"pictures: turned upright by EXIF, large JPEGs decoded at reduced scale; {trained_on}"]
    loaded()
    # Of an old run and a new one, each sees the pictures as it learnt them.
    evaluate_runs([old, run], devices=["cpu:0"])
    assert loaded() >= set(expected.values()) | set(reference().values())


def test_old_and_new_runs_beside_each_other(run: Path, folder: Path, tmp_path: Path) -> None:
    old = unrecorded(run, tmp_path / "old")
    found = comparison.compare([old, run])
    assert found["settings"]["preprocessing"] == [UNRECORDED.record(), CURRENT.record()]
    assert any(
        "orientation stored, jpeg reduced" in cell for row in comparison.tables(found)[1][2] for cell in row
    )
    assert differences([History(old), History(run)]) == ["old", "run"]
    assert differences([History(run), History(old)]) == ["run", "old"]
    oriented = folder / "test" / "odd" / "turned.jpg"
    plain = folder / "test" / "odd" / "upright.jpg"
    for path, note in ((old, "note: the EXIF orientation of 1 of the pictures is ignored"), (run, "")):
        done = command("predict", "--run", path, oriented, plain, "--device", "cpu:0")
        assert done.returncode == 0 and done.stderr.startswith(note) and bool(done.stderr) == bool(note)
    assert not_turned([plain], UNRECORDED) == not_turned([oriented], CURRENT) == ""


@pytest.mark.parametrize(
    "record", [{"orientation": "sideways"}, {"jpeg": 2}, {"resize": "lanczos"}, {"tone": "mapped"}]
)
def test_a_record_of_unknown_rules_is_refused(record: dict[str, Any], run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(must be one of|unknown entry)"):
        Preprocessing.recorded({**CURRENT.record(), **record})
    assert Preprocessing.recorded(CURRENT.record()) == CURRENT


@pytest.fixture
def version_1(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """Shards as a version without records made them."""
    dataset = datasets.open_dataset(folder)
    recipe, survey = choose(dataset, size=SIDE)
    old = dataclasses.replace(recipe, preprocessing=UNRECORDED)
    root = tmp_path / "version 1"
    Preparation(dataset, root, old, survey).run(Listener(), 1)
    document = json.loads((root / DOCUMENT).read_text())
    del document["preprocessing"], document["sha256"]
    write_document(root / DOCUMENT, {**document, "version": 1})
    yield root


def test_older_shards_mean_what_they_meant(
    version_1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = data.open_source(version_1)
    assert source.preprocessing == Preprocessing(orientation="stored")
    assert any("were made before pictures were turned upright" in note for note in source.notes)
    stored = {
        Path(source.train.file(i)).name: source.train.read([i])[0][0].astype(int)
        for i in range(len(source.train))
    }
    for name, image in reference(UNRECORDED).items():
        expected = np.frombuffer(image, np.uint8).reshape(SIDE, SIDE, 3)
        # The file that stayed as it was, with its EXIF data, is exactly what it was.
        assert np.abs(stored[name] - expected).mean() <= (0 if name == "exact.jpg" else 8), name
    shown: list[Pixels] = []
    monkeypatch.setattr(inspection, "_fitted", lambda pixels: shown.append(pixels) or Image.fromarray(pixels))
    inspection.sheet(datasets.open_dataset(version_1))
    exact = reference(UNRECORDED)["exact.jpg"]
    assert exact in {pixels.tobytes() for pixels in shown}
    # A network that is trained on them reads other pictures likewise.
    path = tmp_path / "run"
    train(options(version_1, path, size=None, steps=1), Listener())
    assert load_trained(path, devices=["cpu:0"]).preprocessing.orientation == "stored"
    # Shards of shards too.
    again = tmp_path / "again"
    dataset = datasets.open_dataset(version_1)
    Preparation(dataset, again, *choose(dataset)).run(Listener(), 0)
    assert read_shard_set(again).preprocessing.orientation == "stored"


def test_older_shards_are_made_again_by_their_rules(folder: Path, version_1: Path) -> None:
    before = digests(version_1)
    dataset = datasets.open_dataset(folder)
    work = Preparation(dataset, version_1, *choose(dataset, size=SIDE))
    assert work.complete() is not None
    (version_1 / "train-00000.bin").unlink()
    work = Preparation(dataset, version_1, *choose(dataset, size=SIDE))
    assert any("not turned by EXIF" in line for line in work.describe())
    assert work.complete() is None
    work.run(Listener(), 1)
    after = digests(version_1)
    assert after.pop(DOCUMENT) != before.pop(DOCUMENT)  # it has the record now
    assert after == before
    assert read_shard_set(version_1).preprocessing == UNRECORDED


def test_a_record_that_shards_cannot_have(version_1: Path) -> None:
    document = json.loads((version_1 / DOCUMENT).read_text())
    del document["sha256"]
    document["preprocessing"] = {"orientation": "sideways"}
    write_document(version_1 / DOCUMENT, {**document, "version": 2})
    with pytest.raises(DataError, match=r"orientation of pictures must be one of exif, stored"):
        read_shard_set(version_1)


def test_kept_statistics_are_of_one_way_to_read(folder: Path) -> None:
    keys = {
        fingerprint(data.open_source(folder, SIDE, preprocessing=rules))
        for rules in (CURRENT, UNRECORDED, Preprocessing(orientation="stored"))
    }
    assert len(keys) == 3
