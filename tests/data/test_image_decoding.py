"""Decoding of one image file: the pixels it gives, and the files that are refused."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.flat_pictures import BROKEN, JPEG, PNG, encode, make_png, noise
from PIL import Image

from cconvnet.data import images
from cconvnet.data.images import BrokenImage, decode_image
from cconvnet.data.preprocessing import UNRECORDED

needs_simplejpeg = pytest.mark.skipif(images.simplejpeg is None, reason="simplejpeg is not installed")
DECODERS = ["pillow", pytest.param("simplejpeg", marks=needs_simplejpeg)]


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
    # Records first: which of them Pillow takes first depends on its version.
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
        assert "header claims" in str(caught.value)


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
