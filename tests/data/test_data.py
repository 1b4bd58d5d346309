"""Data: every format read back, everything strangers may put into a file, and loaders that always agree.

Pictures made here are flat and lossless, their colour says which they are: a label that goes to the wrong
image cannot hide.
"""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import os
import random
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cconvnet import data
from cconvnet.bench.peers.cconvnet_data import Repeated
from cconvnet.data import digits, images, statistics
from cconvnet.data.color_noise import color_components
from cconvnet.data.images import BrokenImage, DataError, decode_image
from cconvnet.data.preprocessing import UNRECORDED
from cconvnet.data.statistics import Statistics, fingerprint, gather, statistics_file
from cconvnet.data.workers import spawn, surplus, worker_limit

CLASSES = ["ant", "bee", "cat"]
needs_simplejpeg = pytest.mark.skipif(images.simplejpeg is None, reason="simplejpeg is not installed")
DECODERS = ["pillow", pytest.param("simplejpeg", marks=needs_simplejpeg)]


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth noise, as a photograph has: JPEG keeps it nearly."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def make_pictures(
    folder: Path, counts: dict[str, int], side: tuple[int, int] = (6, 6)
) -> dict[tuple[int, int], Path]:
    """Writes counts[CLASS] flat pictures into folder/CLASS; their colour is (label * 80, number, 7)."""
    files = {}
    for label, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            file = folder / name / f"{number:04d}.png"
            file.write_bytes(encode(Image.new("RGB", (side[1], side[0]), (label * 80, number, 7))))
            files[label, number] = file
    return files


def told(pictures: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
    """The (label, number) that flat pictures tell by their colour."""
    assert (pictures == pictures[:, :1, :1]).all() and (pictures[..., 2] == 7).all()
    return [(int(red) // 80, int(green)) for red, green in pictures[:, 0, 0, :2]]


def batches_equal(ours: list[data.Batch], theirs: list[data.Batch]) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(a, b)
        for x, y in zip(ours, theirs, strict=True)
        for a, b in zip(vars(x).values(), vars(y).values(), strict=True)
    )


# ---- digits ---------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    ours, labels = digits.load()
    assert ours.dtype == np.uint8 and ours.shape == (1797, 8, 8, 1)
    assert np.array_equal(ours[..., 0], np.rint(theirs.images * 255 / 16))
    assert np.array_equal(labels, theirs.target)
    assert digits.FILE.stat().st_size <= 60_000


def test_digits_file_can_be_made_again(tmp_path: Path) -> None:
    pytest.importorskip("sklearn.datasets")
    digits.make(tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz") as ours, np.load(digits.FILE) as theirs:
        assert all(np.array_equal(ours[name], theirs[name]) for name in ("counts", "labels"))


def test_digits_source() -> None:
    source = data.open_source()
    assert source.name == "digits" and source.classes == list("0123456789")
    assert source.image_shape == (8, 8, 1) and source.train is not source.test
    assert len(source.train) + len(source.test) == 1797
    pictures, labels = digits.load()
    for label in range(10):
        of_class = pictures[labels == label]
        test, test_labels = source.test.read(np.flatnonzero(source.test.labels == label))
        train, _ = source.train.read(np.flatnonzero(source.train.labels == label))
        assert (test_labels == label).all()
        assert np.array_equal(test, of_class[4::5])
        assert np.array_equal(train, np.delete(of_class, np.s_[4::5], axis=0))
    larger = data.open_source("digits", size=16)
    assert larger.image_shape == (16, 16, 1)
    assert np.array_equal(larger.train.read([3])[0][0], images.resize_image(pictures[3], 16))


# ---- MNIST ----------------------------------------------------------------------------------------------


def write_idx(file: Path, array: npt.NDArray[np.uint8], packed: bool = False) -> None:
    content = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    if packed:
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(content))
    else:
        file.write_bytes(content)


def make_mnist(root: Path, prefix: str, count: int, packed: bool = False) -> npt.NDArray[np.uint8]:
    pictures = np.random.default_rng(count).integers(0, 256, (count, 5, 4), np.uint8)
    write_idx(root / f"{prefix}-images-idx3-ubyte", pictures, packed)
    write_idx(root / f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8), packed)
    return pictures


@pytest.mark.parametrize("packed", [False, True])
def test_mnist(tmp_path: Path, packed: bool) -> None:
    train = make_mnist(tmp_path, "train", 40, packed)
    test = make_mnist(tmp_path, "t10k", 20, packed)
    source = data.open_source(tmp_path)
    assert source.image_shape == (5, 4, 1) and source.classes == list("0123456789")
    for split, pictures in ((source.train, train), (source.test, test)):
        read, labels = split.read(np.arange(len(pictures)))
        assert np.array_equal(read[..., 0], pictures)
        assert labels.dtype == np.int32 and np.array_equal(labels, np.arange(len(pictures)) % 10)


@pytest.mark.parametrize("prefix", ["train", "t10k"])
def test_mnist_with_one_half(tmp_path: Path, prefix: str) -> None:
    pictures = make_mnist(tmp_path, prefix, 100)
    source = data.open_source(tmp_path)
    assert "every fifth" in source.notes[0] and prefix in source.name
    assert len(source.train) == 80 and len(source.test) == 20
    assert np.bincount(source.test.labels).tolist() == [2] * 10
    of_class_3 = pictures[3::10, ..., np.newaxis]
    test, _ = source.test.read(np.flatnonzero(source.test.labels == 3))
    assert np.array_equal(test, of_class_3[[4, 9]])


def _damage(name: str, change: str, root: Path) -> None:
    file = root / name
    content = file.read_bytes()
    if change == "magic":
        content = b"\0\0\x0d" + content[3:]
    elif change == "short":
        content = content[:-1]
    elif change == "long":
        content += b"\0"
    elif change == "header":
        content = content[:6]
    elif change == "huge":
        content = content[:4] + b"\xff" * 12 + content[16:]
    elif change == "zero":
        content = content[:4] + bytes(4) + content[8:]
    file.write_bytes(content)


@pytest.mark.parametrize("change", ["magic", "short", "long", "header", "huge", "zero"])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_mnist_is_named(tmp_path: Path, name: str, change: str) -> None:
    make_mnist(tmp_path, "train", 20)
    make_mnist(tmp_path, "t10k", 20)
    _damage(name, change, tmp_path)
    with pytest.raises(DataError, match=name):
        data.open_source(tmp_path)


def test_mnist_that_does_not_fit_together(tmp_path: Path) -> None:
    make_mnist(tmp_path, "train", 20)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(19, np.uint8))
    with pytest.raises(DataError, match=r"20 images .*train-labels-idx1-ubyte 19 labels"):
        data.open_source(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no train-labels-idx1-ubyte"):
        data.open_source(tmp_path)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    make_mnist(tmp_path, "train", 20, packed=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    content = file.read_bytes()
    for bad in (content[: len(content) // 2], b"no gzip", content[:40] + b"\xff" * 9 + content[49:]):
        file.write_bytes(bad)
        with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
            data.open_source(tmp_path)


# ---- CIFAR-10 -------------------------------------------------------------------------------------------


def make_cifar10(root: Path) -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    made = {}
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        pictures = rng.integers(0, 256, (4 + seed, 32, 32, 3), np.uint8)
        labels = rng.integers(0, 10, 4 + seed, np.uint8)
        with (root / name).open("wb") as file:
            for picture, label in zip(pictures, labels, strict=True):
                file.write(bytes([label]) + b"".join(picture[:, :, c].tobytes() for c in range(3)))
        made[name] = pictures, labels
    (root / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n\n")
    return made


def test_cifar10(tmp_path: Path) -> None:
    made = make_cifar10(tmp_path)
    source = data.open_source(tmp_path)
    assert source.classes == [f"class{i}" for i in range(10)] and source.image_shape == (32, 32, 3)
    test = made.pop("test_batch.bin")
    train = [np.concatenate(arrays) for arrays in zip(*made.values(), strict=True)]
    for split, (pictures, labels) in ((source.train, train), (source.test, test)):
        read, read_labels = split.read(np.arange(len(labels)))
        assert np.array_equal(read, pictures) and np.array_equal(read_labels, labels)


def test_bad_cifar10_is_named(tmp_path: Path) -> None:
    make_cifar10(tmp_path)
    file = tmp_path / "data_batch_3.bin"
    content = file.read_bytes()
    for bad, message in (
        (content[:-1], "no multiple of a record's 3,073"),
        (b"", "0 bytes"),
        (content[: 2 * 3073] + b"\x0a" + content[2 * 3073 + 1 :], "record 2 has label 10"),
    ):
        file.write_bytes(bad)
        with pytest.raises(DataError, match=rf"data_batch_3\.bin.*{message}"):
            data.open_source(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_3\.bin of"):
        data.open_source(tmp_path)


# ---- one picture ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
def test_modes_become_rgb(decoder: str) -> None:
    colour = Image.fromarray(noise(16, 16))
    grey = np.asarray(colour.convert("L"))
    grey_rgb = np.repeat(grey[..., np.newaxis], 3, axis=2)
    alpha = Image.fromarray(np.dstack([np.asarray(colour), grey]), "RGBA")
    palette = colour.quantize(16)
    deep = Image.fromarray(grey.astype(np.uint16) << 8 | 0x7F)
    for content, expected in (
        (encode(colour), np.asarray(colour)),
        (encode(Image.fromarray(grey)), grey_rgb),
        (encode(Image.merge("LA", [Image.fromarray(grey)] * 2)), grey_rgb),
        (encode(alpha), np.asarray(colour)),
        (encode(palette), np.asarray(palette.convert("RGB"))),
        (encode(palette, transparency=3), np.asarray(palette.convert("RGB"))),
        (encode(colour.convert("1")), np.asarray(colour.convert("1").convert("RGB"))),
        (encode(deep), grey_rgb),
    ):
        pixels = decode_image(content, None, decoder)
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, expected)
    grey_jpeg = decode_image(encode(Image.fromarray(grey), "JPEG", quality=95), None, decoder)
    assert np.abs(grey_jpeg.astype(int) - grey_rgb).max() <= 8


def test_16_bit_rgb_keeps_its_high_bytes() -> None:
    high = noise(3, 4)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in high.astype(np.uint16) << 8 | 0xFF)
    assert np.array_equal(decode_image(make_png(4, 3, 16, 2, rows), None), high)


def make_png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("decoder", DECODERS)
def test_cmyk_of_adobe_and_of_others(decoder: str) -> None:
    """Adobe's programs, and Pillow, store ink inverted and say so in a segment; others store it plainly."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    inverted = encode(red, "JPEG", quality=95)
    start = inverted.index(b"\xff\xee")
    assert inverted[start + 4 : start + 9] == b"Adobe"
    length = 2 + int.from_bytes(inverted[start + 2 : start + 4], "big")
    plain = encode(Image.new("CMYK", (16, 16), (255, 0, 0, 255)), "JPEG", quality=95)  # inverted by Pillow
    plain = plain[:start] + plain[start + length :]
    for content in (inverted, plain):
        pixels = decode_image(content, None, decoder).astype(int)
        assert np.abs(pixels - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("decoder", DECODERS)
def test_names_do_not_count(tmp_path: Path, decoder: str) -> None:
    picture = Image.fromarray(noise(8, 12))
    (tmp_path / "a.JPEG").write_bytes(encode(picture))  # a PNG, as one of ImageNet's files
    assert np.array_equal(images.read_image(tmp_path / "a.JPEG", None, None, decoder), noise(8, 12))


@pytest.mark.parametrize("height, width, size", [(20, 60, 10), (60, 20, 10), (40, 40, 30), (8, 13, 24)])
def test_resize_is_of_the_whole_and_then_the_centre(height: int, width: int, size: int) -> None:
    picture = Image.fromarray(noise(height, width))
    scale = size / min(height, width)
    # Rows first: which of them Pillow takes first depends on its version.
    whole = picture.resize((round(width * scale), height), Image.Resampling.BILINEAR)
    whole = whole.resize((whole.width, round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (whole.width - size) // 2, (whole.height - size) // 2
    expected = np.asarray(whole.crop((left, top, left + size, top + size)))
    ours = decode_image(encode(picture), size)
    assert ours.shape == (size, size, 3)
    # There the centre is rounded to a whole pixel: up to half a pixel of the result.
    exact = (whole.width - size) % 2 == (whole.height - size) % 2 == 0
    assert np.abs(ours.astype(int) - expected).mean() <= (0 if exact else 6)


def test_no_resize_where_the_size_fits() -> None:
    pixels = noise(10, 17)
    assert np.array_equal(decode_image(encode(Image.fromarray(pixels)), 10), pixels[:, 3:13])


def test_a_thin_picture_is_not_blown_up() -> None:
    start = time.monotonic()
    pixels = decode_image(encode(Image.new("RGB", (60_000, 1), (9, 8, 7))), 256)
    assert pixels.shape == (256, 256, 3) and (pixels == (9, 8, 7)).all()
    assert time.monotonic() - start < 5  # resized as a whole it would have 4 billion pixels


@needs_simplejpeg
@pytest.mark.parametrize("size", [None, 200, 64, 33])
@pytest.mark.parametrize("height, width", [(301, 403), (600, 271)])
def test_decoders_agree(height: int, width: int, size: int | None) -> None:
    for subsampling, progressive in itertools.product((0, 2), (False, True)):
        content = encode(
            Image.fromarray(noise(height, width)),
            "JPEG",
            subsampling=subsampling,
            progressive=progressive,
        )
        ours = decode_image(content, size, "simplejpeg")
        theirs = decode_image(content, size, "pillow")
        # Equal with the same version of the JPEG library; the wheels may carry different ones.
        assert np.abs(ours.astype(int) - theirs).max() <= 2


@pytest.mark.parametrize("decoder", DECODERS)
def test_only_runs_without_a_record_decode_at_reduced_scale(decoder: str) -> None:
    content = encode(Image.fromarray(noise(601, 803)), "JPEG", quality=90)
    full = images.resize_image(decode_image(content, None, decoder), 70)
    assert np.array_equal(decode_image(content, 70, decoder), full)
    reduced = decode_image(content, 70, decoder, preprocessing=UNRECORDED).astype(int)
    assert 0 < np.abs(reduced - full).mean() < 1.5


def test_decoding_is_never_reduced_below_the_size() -> None:
    for shorter, size in itertools.product(range(1, 300), (1, 16, 31, 32)):
        factor = images._reduction(shorter + 50, shorter, size)
        assert factor in (1, 2, 4, 8)
        assert factor == 1 or shorter >= factor * size
        assert factor == 8 or shorter < 2 * factor * size
    assert images._reduction(5000, 5000, None) == 1


def jpeg_that_claims(height: int, width: int) -> bytes:
    content = bytearray(encode(Image.fromarray(noise(16, 16)), "JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


PNG, JPEG = encode(Image.fromarray(noise(32, 32))), encode(Image.fromarray(noise(32, 32)), "JPEG")
BROKEN = {
    "empty": b"",
    "a text": b"this is no picture\n" * 10,
    "html": b"<!DOCTYPE html><title>404</title>",
    "another format": encode(Image.fromarray(noise(8, 8)), "BMP"),
    "png cut": PNG[: len(PNG) // 2],
    "png cut in its header": PNG[:20],
    "png with a wrong check sum": PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:],
    "png bomb": make_png(60_000, 60_000, 8, 2, b"\0" * 1000),
    "png bomb of one row": make_png(2**23 + 8, 1, 1, 0, b"\0" * (1 + 2**20 + 1)),
    "png bomb that Pillow would open": make_png(10_000, 8_000, 8, 2, b"\0" * 1000),
    "jpeg cut": JPEG[: len(JPEG) // 2],
    "jpeg cut in its header": JPEG[:30],
    "jpeg of nothing": b"\xff\xd8\xff\xd9",
    "jpeg bomb": jpeg_that_claims(65_000, 65_000),
    "jpeg of no pixels": jpeg_that_claims(0, 16),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_pictures(tmp_path: Path, kind: str, size: int | None, decoder: str) -> None:
    file = tmp_path / "broken.jpg"
    file.write_bytes(BROKEN[kind])
    with pytest.raises(BrokenImage) as caught:
        images.read_image(file, size, None, decoder)
    assert str(caught.value) and " at 0x" not in str(caught.value)
    if "bomb" in kind:
        assert "header says" in str(caught.value)


@pytest.mark.parametrize("decoder", DECODERS)
def test_500_damaged_pictures(decoder: str) -> None:
    rng = np.random.default_rng(1)
    broken = 0
    for number in range(500):
        content = bytearray(PNG if number % 2 else JPEG)
        for _ in range(rng.integers(1, 6)):
            content[rng.integers(len(content))] = rng.integers(256)
        if number % 5 == 0:
            del content[rng.integers(len(content)) :]
        try:
            pixels = decode_image(bytes(content), 24, decoder)
            assert pixels.shape == (24, 24, 3) and pixels.dtype == np.uint8
        except BrokenImage:
            broken += 1
    assert 100 < broken < 500


@needs_simplejpeg
def test_decoders_accept_the_same_files() -> None:
    rng = np.random.default_rng(2)
    accepted = 0
    for _ in range(300):
        content = bytearray(JPEG)
        content[rng.integers(len(content))] = rng.integers(256)
        results = []
        for decoder in ("pillow", "simplejpeg"):
            try:
                results.append(decode_image(bytes(content), None, decoder).shape)
            except BrokenImage:
                results.append(())
        assert results[0] == results[1]
        accepted += results[0] != ()
    assert 0 < accepted < 300
    # What simplejpeg alone refuses: stray bytes before a marker, as a few of ImageNet's files have.
    stray = JPEG.replace(b"\xff\xdb", b"\0\0\xff\xdb", 1)
    assert np.array_equal(decode_image(stray, None, "simplejpeg"), decode_image(JPEG, None, "pillow"))


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(JPEG) - 1)
    with pytest.raises(BrokenImage, match="bytes, more than"):
        images.read_image(tmp_path / "a.jpg", None)


# ---- folders of pictures --------------------------------------------------------------------------------


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


def make_broken_set(root: Path) -> list[Path]:
    """90 training pictures, of which 4 are broken (two neighbours and the last among them), 30 test, 1."""
    train = make_pictures(root / "train", dict.fromkeys(CLASSES, 30))
    test = make_pictures(root / "test", dict.fromkeys(CLASSES, 10))
    broken = [train[0, 3], train[0, 4], train[1, 29], train[2, 29], test[1, 0]]
    for file, content in zip(broken, BROKEN.values(), strict=False):
        file.write_bytes(content)
    return broken


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


def evaluation(
    split: data.Split, workers: int
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]]:
    with data.Loader(split, 7, shuffle=False, drop_last=False, workers=workers) as loader:
        batches = list(loader.epoch(0))
    yield np.concatenate([b.images for b in batches]), np.concatenate([b.labels for b in batches])


def training(split: data.Split, workers: int, epochs: int = 2) -> list[data.Batch]:
    with data.Loader(split, 8, 3, crop=(4, 5), random_crop=True, mirror=True, workers=workers) as loader:
        return [batch for epoch in range(epochs) for batch in loader.epoch(epoch)]


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


# ---- the loader -----------------------------------------------------------------------------------------


@pytest.fixture
def split() -> data.MemorySplit:
    """103 images of 9x8x2 that say their own number, whose labels are that modulo 10."""
    count = 103
    pictures = np.zeros((count, 9, 8, 2), np.uint8)
    pictures[...] = np.arange(count).reshape(-1, 1, 1, 1)
    return data.MemorySplit("train", pictures, (np.arange(count) % 10).astype(np.int32))


def test_an_epoch_is_every_image_once(split: data.MemorySplit) -> None:
    for shuffle, drop_last in itertools.product((False, True), repeat=2):
        with data.Loader(split, 10, 1, shuffle=shuffle, drop_last=drop_last) as loader:
            batches = list(loader.epoch(0))
        assert loader.steps_per_epoch == len(batches) == (10 if drop_last else 11)
        assert [len(batch) for batch in batches] == [10] * 10 + [3] * (not drop_last)
        indices = np.concatenate([batch.indices for batch in batches])
        assert len(set(indices)) == len(indices)
        assert (indices.tolist() == list(range(len(indices)))) == (not shuffle)
        for batch in batches:
            assert batch.images.shape == (len(batch), 9, 8, 2) and batch.images.dtype == np.uint8
            assert (batch.images == batch.indices.reshape(-1, 1, 1, 1)).all()
            assert np.array_equal(batch.labels, batch.indices % 10)
            assert batch.labels.dtype == batch.top.dtype == batch.left.dtype == np.int32
            assert batch.mirror.dtype == np.uint8
            assert not batch.top.any() and not batch.left.any() and not batch.mirror.any()


AUGMENTED = {"crop": (4, 5), "random_crop": True, "mirror": True}


def test_epochs_depend_on_seed_and_number_alone(split: data.MemorySplit) -> None:
    def epoch(seed: int, number: int, start_step: int = 0) -> list[data.Batch]:
        with data.Loader(split, 10, seed, **AUGMENTED) as loader:
            return list(loader.epoch(number, start_step))

    first = epoch(5, 2)
    assert batches_equal(first, epoch(5, 2))
    for start_step in (1, 7, 10):
        assert batches_equal(first[start_step:], epoch(5, 2, start_step))
    for other in (epoch(5, 3), epoch(6, 2)):
        assert not any(batches_equal([a], [b]) for a, b in zip(first, other, strict=True))
    with data.Loader(split, 10, 5, **AUGMENTED) as loader:  # after other epochs, and half of one
        list(loader.epoch(0))
        next(loader.epoch(1))
        assert batches_equal(first, list(loader.epoch(2)))
        both = [*zip(loader.epoch(2), loader.epoch(2), strict=True)]  # two at the same time
        assert batches_equal(first, [a for a, _ in both]) and batches_equal(first, [b for _, b in both])


def test_the_batch_size_changes_neither_order_nor_crops(split: data.MemorySplit) -> None:
    def joined(batch: int) -> list[npt.NDArray[np.int64]]:
        with data.Loader(split, batch, 5, drop_last=False, **AUGMENTED) as loader:
            batches = list(loader.epoch(1))
        return [np.concatenate(parts) for parts in zip(*(vars(b).values() for b in batches), strict=True)]

    for ours, theirs in zip(joined(10), joined(33), strict=True):
        assert np.array_equal(ours, theirs)


def test_the_draws_stay_what_they_are() -> None:
    """A run resumed with a later version, of NumPy or of this, must see the same images."""
    ten = data.MemorySplit("train", np.zeros((10, 40, 50, 1), np.uint8), np.zeros(10, np.int32))
    with data.Loader(ten, 10, 42, crop=(32, 32), random_crop=True, mirror=True) as loader:
        (batch,) = loader.epoch(3)
    assert batch.indices.tolist() == [1, 6, 3, 4, 5, 9, 2, 8, 0, 7]
    assert batch.top.tolist() == [6, 7, 0, 6, 5, 8, 6, 0, 8, 2]
    assert batch.left.tolist() == [3, 12, 0, 7, 7, 0, 14, 15, 17, 14]
    assert batch.mirror.tolist() == [1, 0, 1, 1, 1, 0, 1, 0, 0, 1]


def test_crops(split: data.MemorySplit) -> None:
    with data.Loader(split, 100, 1, **AUGMENTED) as loader:
        batches = [batch for epoch in range(20) for batch in loader.epoch(epoch)]
    top, left, mirror = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("top", "left", "mirror")
    )
    for drawn, values in ((top, 6), (left, 4), (mirror, 2)):  # 9 - 4 + 1, 8 - 5 + 1
        counts = np.bincount(drawn, minlength=values)
        assert len(counts) == values
        expected = 2000 / values
        assert ((counts - expected) ** 2 / expected).sum() < 30  # chi squared, at most 5 degrees of freedom
    assert abs(np.corrcoef([top, left, mirror])[np.triu_indices(3, 1)]).max() < 0.1
    with data.Loader(split, 10, 1, crop=(4, 5)) as loader:
        batch = next(loader.epoch(0))
        assert (batch.top == 2).all() and (batch.left == 1).all() and not batch.mirror.any()


def test_bad_arguments(split: data.MemorySplit) -> None:
    for arguments, message in (
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"batch": 104}, "batch is 104, more than the 103 train images"),
        ({"batch": 5, "crop": (10, 8)}, "crop is 10x8; it must be from 1x1 to the images' 9x8"),
        ({"batch": 5, "crop": (0, 8)}, "crop is 0x8"),
        ({"batch": 5, "seed": -1}, "seed must be at least 0, not -1"),
        ({"batch": 5, "workers": -1}, "workers must be at least 0, not -1"),
    ):
        with pytest.raises(ValueError, match=message):
            data.Loader(split, **arguments)
    with data.Loader(split, 10) as loader:
        for epoch, start_step, message in ((-1, 0, "epoch"), (0, 11, "start_step"), (0, -1, "start_step")):
            with pytest.raises(ValueError, match=f"{message} must be"):
                loader.epoch(epoch, start_step)
        assert list(loader.epoch(0, 10)) == []
    with pytest.raises(IndexError, match="from 0 to 102"):
        split.read([103])
    with data.Loader(split, 1000, drop_last=False) as loader:
        assert [len(batch) for batch in loader.epoch(0)] == [103]


@pytest.mark.parametrize("broken", [False, True])
def test_cached_and_streamed_batches_are_the_same(tmp_path: Path, broken: bool) -> None:
    if broken:
        make_broken_set(tmp_path)
    else:
        make_pictures(tmp_path, dict.fromkeys(CLASSES, 30))
    expected = training(data.open_source(tmp_path).train, 0)
    for workers in (0, 1, 3):
        source = data.open_source(tmp_path, cache_bytes=0)
        assert isinstance(source.train, data.PictureSplit)
        assert batches_equal(expected, training(source.train, workers))
    for workers in (0, 2):
        cached = data.open_source(tmp_path, workers=workers)
        assert isinstance(cached.train, data.MemorySplit)
        assert batches_equal(expected, training(cached.train, 0))
        assert batches_equal([*evaluation_batches(cached.test)], [*evaluation_batches(source.test)])


def evaluation_batches(split: data.Split) -> list[data.Batch]:
    with data.Loader(split, 7, shuffle=False, drop_last=False, workers=0) as loader:
        return list(loader.epoch(0))


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_mean_image(tmp_path: Path, cache_bytes: int) -> None:
    make_broken_set(tmp_path)
    source = data.open_source(tmp_path, cache_bytes=cache_bytes)
    seen: list[tuple[int, int]] = []
    mean = data.mean_image(source.train, progress=lambda *state: seen.append(state))
    good, _ = source.train.read(np.arange(90))
    assert len(good) == 86 and mean.dtype == np.float32
    assert np.array_equal(mean, good.astype(np.float64).mean(axis=0).astype(np.float32))
    assert seen[-1] == (90, 90)


def test_mean_image_of_many_white_images() -> None:
    white = data.MemorySplit("train", np.full((700, 2, 3, 1), 255, np.uint8), np.zeros(700, np.int32))
    assert (data.mean_image(white) == 255).all()


# ---- statistics kept beside pictures --------------------------------------------------------------------


@pytest.fixture
def gathered(tmp_path: Path) -> Path:
    """A folder of pictures beside which both statistics are kept."""
    make_pictures(tmp_path / "train", dict.fromkeys(CLASSES, 9), (5, 4))
    said: list[str] = []
    found = gather(data.open_source(tmp_path), colors=True, say=said.append)
    assert said == [f"data: statistics of the pictures are kept in {tmp_path / '.cconvnet-5x4x3.npz'}"]
    assert found.mean is not None and found.colors is not None
    return tmp_path


def computed_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, **asked: bool
) -> tuple[Statistics, list[str]]:
    """The statistics of a folder and which of them had to be computed."""
    made: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("mean_image", "color_components"):
            compute = getattr(statistics, name)
            patch.setattr(
                statistics, name, lambda *a, name=name, compute=compute: made.append(name) or compute(*a)
            )
        return gather(data.open_source(root), **asked), made


def test_statistics_are_computed_once(gathered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = (entry for entry in gathered.iterdir() if entry.is_file())
    assert file.name == ".cconvnet-5x4x3.npz"
    said: list[str] = []
    source = data.open_source(gathered)
    gather(source, say=said.append)
    assert said == [f"data: statistics of the pictures are from {file}"]
    found, made = computed_again(gathered, monkeypatch, colors=True)
    assert made == []
    assert found.mean is not None and found.mean.tobytes() == data.mean_image(source.train).tobytes()
    assert found.colors is not None and found.colors.tobytes() == color_components(source.train).tobytes()
    # Streamed or in memory, the pictures are the same.
    assert fingerprint(data.open_source(gathered, cache_bytes=0)) == fingerprint(source)


def test_only_what_is_missing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pictures(tmp_path / "train", dict.fromkeys(CLASSES, 9))
    assert computed_again(tmp_path, monkeypatch)[1] == ["mean_image"]
    assert computed_again(tmp_path, monkeypatch, colors=True)[1] == ["color_components"]
    assert computed_again(tmp_path, monkeypatch, colors=True)[1] == []


@pytest.mark.parametrize(
    "change", ["other pixels", "one more", "one less", "another name", "another class", "another decoder"]
)
def test_statistics_of_other_pictures_are_not_used(
    gathered: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = gathered / "train" / CLASSES[0] / "0000.png"
    content = file.read_bytes()
    if change == "other pixels":
        status = file.stat()
        file.write_bytes(encode(Image.new("RGB", (4, 5), (99, 0, 7))))
        assert file.stat().st_size == status.st_size  # so that it is told by its time alone
    elif change == "one more":
        (file.parent / "more.png").write_bytes(content)
    elif change == "one less":
        file.unlink()
    elif change == "another name":
        file.rename(file.parent / "another.png")
    elif change == "another class":
        file.rename(gathered / "train" / CLASSES[1] / "9999.png")
    else:
        monkeypatch.setattr("cconvnet.data.sources.describe_decoder", lambda decoder: "another 1.0")
    _, made = computed_again(gathered, monkeypatch, colors=True)
    assert made == ["mean_image", "color_components"]
    assert computed_again(gathered, monkeypatch, colors=True)[1] == []


def test_a_size_of_its_own_has_a_file_of_its_own(gathered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gather(data.open_source(gathered, 3))
    assert {file.name for file in gathered.iterdir() if file.is_file()} == {
        ".cconvnet-5x4x3.npz",
        ".cconvnet-3x3x3.npz",
    }
    assert computed_again(gathered, monkeypatch)[1] == []


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "shape", "nan"])
def test_damaged_statistics_are_computed_again(
    gathered: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = gathered / ".cconvnet-5x4x3.npz"
    content = bytearray(file.read_bytes())
    with np.load(file) as arrays:
        values = dict(arrays)
    if damage == "flipped":
        at = content.index(values["mean"].tobytes())
        content[at + 5] ^= 1
    elif damage in ("shape", "nan"):
        values["mean"] = values["mean"][:-1] if damage == "shape" else values["mean"] * np.float32(np.nan)
        buffer = io.BytesIO()
        np.savez(buffer, **values)
        content = bytearray(buffer.getvalue())
    else:
        content = {"cut": content[:-30], "empty": bytearray(), "text": bytearray(b"mean")}[damage]
    file.write_bytes(content)
    found, made = computed_again(gathered, monkeypatch)
    assert made == ["mean_image"]
    assert found.mean is not None
    assert found.mean.tobytes() == data.mean_image(data.open_source(gathered).train).tobytes()


def test_no_damage_to_statistics_is_believed_or_stops_a_run(gathered: Path) -> None:
    file = gathered / ".cconvnet-5x4x3.npz"
    content, source = file.read_bytes(), data.open_source(gathered)
    expected, chance = gather(source, colors=True), random.Random(5)
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(chance.choice([1, 1, 3])):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        found = gather(source, colors=True)
        assert found.mean is not None and expected.mean is not None
        assert found.colors is not None and expected.colors is not None
        assert found.mean.tobytes() == expected.mean.tobytes()
        assert found.colors.tobytes() == expected.colors.tobytes()


def test_a_folder_that_moves_keeps_its_statistics(gathered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = gathered.rename(gathered.with_name("moved"))
    assert computed_again(moved, monkeypatch, colors=True)[1] == []


def test_statistics_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pictures(tmp_path / "train", dict.fromkeys(CLASSES, 3))
    error = OSError(errno.EROFS, os.strerror(errno.EROFS))

    def refuse(path: Path, pieces: object) -> None:
        raise error

    monkeypatch.setattr(statistics, "write_output", refuse)
    said: list[str] = []
    found = gather(data.open_source(tmp_path), say=said.append)
    assert found.mean is not None
    assert said == [
        f"data: statistics of the pictures are kept in the run alone: {tmp_path / '.cconvnet-6x6x3.npz'}: "
        "Read-only file system"
    ]


def test_statistics_of_arrays_are_not_kept() -> None:
    found = gather(data.open_source(), colors=True)
    assert statistics_file(data.open_source()) is None
    assert found.mean is not None and found.colors is not None and found.colors.shape == (1, 1)


# ---- worker processes -----------------------------------------------------------------------------------


@pytest.fixture
def streamed(tmp_path: Path) -> data.Split:
    make_pictures(tmp_path, dict.fromkeys(CLASSES, 200))
    return data.open_source(tmp_path, cache_bytes=0).train


def pids(loader: data.Loader) -> list[int]:
    return loader._reader.pool.pids


def is_gone(pid: int) -> bool:
    """No process, or one that has ended but is not yet waited for by whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pids: list[int], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not all(map(is_gone, pids)):
        assert time.monotonic() < end, f"{pids} are still there"
        time.sleep(0.02)


def held() -> tuple[int, int, list[str]]:
    """What a forgotten worker would leave: open files, threads, shared memory."""
    shared = sorted(path.name for path in Path("/dev/shm").glob("*")) if Path("/dev/shm").exists() else []
    mine = [name for name in shared if "cconvnet" in name]
    return len(os.listdir("/proc/self/fd")), threading.active_count(), mine  # noqa: PTH208


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")


@linux
def test_nothing_is_left_after_a_loader(streamed: data.Split) -> None:
    before = held()
    with data.Loader(streamed, 16, workers=2) as loader:  # read to the end
        assert len(list(loader.epoch(0))) == 37
        first = pids(loader)
    assert held() == before and all(map(is_gone, first))
    with data.Loader(streamed, 16, workers=2) as loader:  # left in the middle
        batches = loader.epoch(0)
        kept = next(batches)
        second = pids(loader)
    with pytest.raises(ZeroDivisionError), data.Loader(streamed, 16, workers=2) as loader:
        third = pids(loader)
        for _ in loader.epoch(0):
            1 / 0  # noqa: B018
    forgotten = data.Loader(streamed, 16, workers=1)  # not closed at all
    next(forgotten.epoch(0))
    fourth = pids(forgotten)
    del forgotten, loader
    assert all(map(is_gone, first + second + third + fourth))
    assert told(kept.images)  # copied out: it outlives the workers
    with pytest.raises(RuntimeError, match="the loader is closed"):
        next(batches)
    del batches
    assert held() == before


@linux
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_stays_flat_over_thousands_of_batches(streamed: data.Split, workers: int) -> None:
    """No batch outlives its use, and nothing else is gathered."""
    alive: list[weakref.ref[npt.NDArray[np.uint8]]] = []
    most, batches = 0, 0

    def allocate(shape: tuple[int, ...], dtype: type[np.uint8]) -> npt.NDArray[np.uint8]:
        nonlocal most
        images = np.empty(shape, dtype)
        alive[:] = [reference for reference in alive if reference() is not None]
        alive.append(weakref.ref(images))
        most = max(most, len(alive))
        return images

    with data.Loader(streamed, 4, workers=workers, allocate=allocate) as loader:
        inside = held()
        for epoch in range(14):
            for batch in loader.epoch(epoch):
                batches += 1
                assert len(batch) == 4
            inside = inside if epoch else held()  # once every thread has begun
        assert held() == inside
    assert batches >= 1900
    assert most <= loader.ahead + 1  # those under way, and the one in use


def test_memory_without_memfd(streamed: data.Split, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = training(streamed, 0, 1)
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert batches_equal(expected, training(streamed, 2, 1))


DIED = (
    r"decoding worker 1 \(process {}\) was killed by SIGKILL \(out of memory\?\) while it had \d+ pictures "
    r"to decode, from .*\.png to .*\.png\. If memory is short, fewer --workers"
)


@pytest.mark.parametrize("when", ["idle", "busy"])
def test_a_dead_worker_is_named(streamed: data.Split, when: str) -> None:
    start = time.monotonic()
    with data.Loader(streamed, 16, workers=2) as loader:
        batches = loader.epoch(0)
        if when == "busy":
            next(batches)
        victim = pids(loader)[1]
        os.kill(victim, signal.SIGKILL)
        wait_until_gone([victim])
        with pytest.raises(data.WorkerError, match=DIED.format(victim)):
            for epoch in itertools.count():
                list(batches if epoch == 0 else loader.epoch(epoch))
        others = pids(loader)
    assert time.monotonic() - start < 20
    assert all(map(is_gone, others))


@linux
def test_workers_do_not_heed_signals_meant_for_their_parent(streamed: data.Split) -> None:
    signs = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with data.Loader(streamed, 16, workers=2) as loader:
        for pid, sign in itertools.product(pids(loader), signs):
            os.kill(pid, sign)  # they are only starting
        expected = list(loader.epoch(0))
        for pid, sign in itertools.product(pids(loader), signs):
            os.kill(pid, sign)
        assert batches_equal(expected, list(loader.epoch(0)))


@linux
def test_workers_that_hang_do_not_keep_their_parent(streamed: data.Split) -> None:
    """As on a network disk that does not answer."""
    workers: list[int] = []
    alarms: list[int] = []

    def alarm(number: int, frame: object) -> None:
        alarms.append(number)
        if len(alarms) == 1:
            raise KeyboardInterrupt  # while the picture is waited for
        for pid in workers:
            os.kill(pid, signal.SIGKILL)

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with pytest.raises(KeyboardInterrupt), data.Loader(streamed, 16, workers=2) as loader:
            workers += pids(loader)
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            signal.setitimer(signal.ITIMER_REAL, 0.2, 60)
            next(loader.epoch(0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(alarms) == 1
    assert all(map(is_gone, workers))


@pytest.mark.parametrize(
    "pictures, cores, limit",
    [(1, 4, 1), (20, 4, 1), (32, 4, 1), (33, 4, 2), (10**6, 1, 16), (10**6, 2, 16), (10**6, 8, 64)],
)
def test_workers_that_pictures_and_cores_keep_busy(
    pictures: int, cores: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cconvnet.data.workers.usable_cores", lambda: cores)
    assert worker_limit(pictures) == limit
    for asked in (None, 0, 1, limit):
        assert surplus(asked, pictures) == ""
    assert surplus(limit + 1, pictures).startswith(f"workers: {limit} instead of {limit + 1}: ")


@linux
def test_no_more_workers_than_there_is_work(tmp_path: Path) -> None:
    make_pictures(tmp_path, {"a": 20, "b": 25})
    split = data.open_source(tmp_path, cache_bytes=0).train
    for asked, count in ((1, 1), (2, 2), (60, 2)):
        with data.Loader(split, 8, workers=asked) as loader:
            assert len(pids(loader)) == count
    with data.Loader(Repeated(split, 3), 8, workers=60) as loader:
        assert len(loader._reader._reader.pool.pids) == 5  # type: ignore[attr-defined]


@linux
def test_more_workers_than_the_system_allows(streamed: data.Split, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def allowed(*arguments: Any) -> subprocess.Popen[bytes]:
        if len(begun) == 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        process = spawn(*arguments)
        begun.append(process.pid)
        return process

    monkeypatch.setattr("cconvnet.data.workers.spawn", allowed)
    words = (
        "decoding process 3 of 4 cannot begin: Resource temporarily unavailable. Fewer --workers need less"
    )
    with pytest.raises(data.WorkerError, match=f"^{words}$"):
        data.Loader(streamed, 16, workers=4)
    assert len(begun) == 2 and all(map(is_gone, begun))


def test_an_error_in_a_worker_reaches_the_consumer(streamed: data.Split) -> None:
    Path(streamed.file(77)).unlink()
    with (
        data.Loader(streamed, 16, workers=2) as loader,
        pytest.raises(DataError, match=r"ant/0077\.png cannot be read: No such file"),
    ):
        list(loader.epoch(0))


# A script without `if __name__ == "__main__"`, as people write them.
SCRIPT = """
import signal, sys
from cconvnet import data
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
source = data.open_source(sys.argv[1], cache_bytes=0)
loader = data.Loader(source.train, 16, workers=2)
for epoch in range(10**6):
    for step, batch in enumerate(loader.epoch(epoch)):
        if epoch == 0 and step == 3:
            print(*loader._reader.pool.pids, flush=True)
"""


@linux
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(streamed: data.Split, tmp_path: Path, sign: signal.Signals) -> None:
    script = tmp_path.parent / f"{tmp_path.name}.py"
    script.write_text(SCRIPT)
    shared = held()[2]
    process = subprocess.Popen(
        [sys.executable, script, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(data.__file__).parents[2])},
    )
    try:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2 and not any(map(is_gone, workers))
        # As the terminal does it on Ctrl-C: to the whole process group.
        os.killpg(process.pid, sign)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(timeout=200)
    assert process.returncode == -sign
    wait_until_gone(workers)
    assert held()[2] == shared
    assert errors.count("Traceback") == (sign == signal.SIGINT), errors
    assert errors.count("KeyboardInterrupt") == (sign == signal.SIGINT), errors


# ---- real files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Path:
    folder = os.environ.get("CCONVNET_TEST_DATA")
    if not folder:
        pytest.skip("CCONVNET_TEST_DATA is not set")
    return Path(folder)


def test_real_mnist(real: Path) -> None:
    source = data.open_source(real / "mnist-t10k")
    assert len(source.train) + len(source.test) == 10_000 and source.image_shape == (28, 28, 1)
    assert len(source.classes) == 10 and source.notes
    # Known of MNIST's test set: how many of each digit.
    counts = np.bincount(source.train.labels) + np.bincount(source.test.labels)
    assert counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert 30 < data.mean_image(source.train).mean() < 36  # 0.13 of 255


def test_real_cifar10_as_jpegs(real: Path, tmp_path: Path) -> None:
    taken: dict[str, int] = {}
    with tarfile.open(real / "cifar10-jpeg.tar.xz") as archive:
        for member in archive:
            folder = member.name.rpartition("/")[0]
            if member.isfile() and taken.get(folder, 0) < 30:
                taken[folder] = taken.get(folder, 0) + 1
                archive.extract(member, tmp_path, filter="data")
    source = data.open_source(tmp_path, workers=2)
    assert len(source.classes) == 10 and "airplane" in source.classes
    assert source.image_shape == (32, 32, 3) and source.report() == []
    assert len(source.train) == len(source.test) == 300
    streamed = data.open_source(tmp_path, cache_bytes=0)
    options = {"crop": (24, 24), "random_crop": True, "mirror": True}
    with (
        data.Loader(source.train, 64, 1, **options) as cached,
        data.Loader(streamed.train, 64, 1, workers=2, **options) as decoded,
    ):
        assert batches_equal(list(cached.epoch(0)), list(decoded.epoch(0)))


def test_real_photographs(real: Path, tmp_path: Path) -> None:
    with tarfile.open(real / "imagenet-100-photos.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    with pytest.raises(DataError, match="give a size"):
        data.open_source(tmp_path)
    source = data.open_source(tmp_path, size=256)
    assert source.image_shape == (256, 256, 3) and len(source.classes) == len(source.train) == 100
    assert source.test is source.train and source.report() == []
    pictures, labels = source.train.read(np.arange(100))
    assert labels.tolist() == list(range(100))
    spread = pictures.max(axis=-1).astype(int) - pictures.min(axis=-1)
    grey = (spread == 0).all(axis=(1, 2))
    assert 1 <= grey.sum() < 20
