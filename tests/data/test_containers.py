"""Metadata beside the pixels never makes a picture unreadable, however long or damaged it is."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from helpers.damaged_pictures import chunk
from helpers.made_pictures import encoded, photo
from PIL import Image, PngImagePlugin

from cconvnet.data import decode_image
from cconvnet.data.containers import of_pixels
from cconvnet.data.images import DECODERS, BrokenImage, image_sides, simplejpeg

INSTALLED = [name for name in DECODERS if name == "pillow" or simplejpeg is not None]
PICTURE = photo(21, 34, seed=1)
PNG, JPEG = encoded(PICTURE, "PNG"), encoded(PICTURE)
PALETTE = encoded(PICTURE.quantize(30), "PNG")
BEFORE_PIXELS, BEFORE_END = 33, -12  # places for chunks of a PNG

LONG = zlib.compress(bytes(70_000_000), 9)  # 70 MB of zeros, which nobody needs
ANCILLARY = {
    "text": chunk(b"tEXt", b"Comment\0" + b"x" * 2_000_000),
    "compressed text": chunk(b"zTXt", b"prompt\0\0" + LONG),
    "international text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    "profile": chunk(b"iCCP", b"sRGB\0\0" + LONG),
    "many texts": b"".join(chunk(b"zTXt", b"a%d\0\0" % i + zlib.compress(bytes(900_000))) for i in range(90)),
    "no stream": chunk(b"zTXt", b"prompt\0\0" + b"this is not compressed"),
    "stream that is cut": chunk(b"iCCP", b"sRGB\0\0" + LONG[:99]),
    "unknown compression": chunk(b"iCCP", b"sRGB\0\7" + LONG[:99]),
    "empty text": chunk(b"tEXt", b""),
    "empty profile": chunk(b"iCCP", b""),
    "gamma of two bytes": chunk(b"gAMA", b"\0\1"),
    "resolution of three bytes": chunk(b"pHYs", b"abc"),
    "transparency of no colour": chunk(b"tRNS", b"\0"),
    "wrong checksum": chunk(b"tEXt", b"Comment\0hello")[:-1] + b"?",
    "animation": chunk(b"acTL", struct.pack(">II", 0, 0)) + chunk(b"fcTL", b"\0" * 5),
    "private": chunk(b"abCd", b"\xff" * 100),
    "damaged EXIF data": chunk(b"eXIf", b"II*\0" + b"\xff" * 40),
}


@pytest.mark.parametrize("kind", ANCILLARY)
def test_nothing_beside_the_pixels_makes_a_png_unreadable(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a text was decompressed")

    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", refuse)
    for png, place in ((PNG, BEFORE_PIXELS), (PNG, BEFORE_END), (PALETTE, BEFORE_PIXELS)):
        content = png[:place] + ANCILLARY[kind] + png[place:]
        assert of_pixels(content) == of_pixels(png)
        assert np.array_equal(decode_image(content, None), decode_image(png, None))
        assert image_sides(content) == (34, 21)


@pytest.mark.parametrize(
    "damage",
    {
        "pixels' checksum": PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:],
        "header's checksum": PNG[:20] + bytes([PNG[20] ^ 1]) + PNG[21:],
        "palette's checksum": PALETTE[:45] + bytes([PALETTE[45] ^ 1]) + PALETTE[46:],
        "no pixels": PNG[:33] + PNG[-12:],
        "a chunk longer than the file": PNG[:33] + b"\x7f\xff\xff\xfftEXt" + PNG[33:],
        "a chunk whose name is none": PNG[:33] + chunk(b"\0\1\2\3", b"") + PNG[33:],
        "bomb": PNG[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + PNG[33:],
    }.items(),
    ids=lambda item: item[0].replace(" ", "-"),
)
def test_damage_to_the_pixels_is_found_as_before(damage: tuple[str, bytes]) -> None:
    with pytest.raises(BrokenImage):
        decode_image(damage[1], None)


def test_pictures_without_a_surplus_are_not_copied() -> None:
    bare = of_pixels(PNG)
    assert of_pixels(bare) is bare
    assert of_pixels(b"GIF89a") == b"GIF89a" and of_pixels(b"") == b""
    for cut in range(len(PNG)):
        assert isinstance(of_pixels(PNG[:cut]), bytes) and isinstance(of_pixels(JPEG[:cut]), bytes)


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


HEADS = [
    *(b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08", b"MPF\0", b"MPF\0II*\0\x08\0\0\0"),
    *(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"Photoshop 3.0\x008BIM\4\4"),
    *(b"JFIF\0", b"JFXX\0", b"http://ns.adobe.com/xap/1.0/\0", b"Adobe", b""),
]


@pytest.mark.parametrize("decoder", INSTALLED)
def test_no_segment_beside_the_pixels_makes_a_jpeg_unreadable(decoder: str) -> None:
    chance = random.Random(2)
    expected = decode_image(JPEG, None, decoder)
    first = 2 + 2 + struct.unpack(">H", JPEG[4:6])[0]  # after JFIF's segment
    for _ in range(500):
        body = bytes(chance.choice([0, 1, 2, 8, 0xB0, chance.randrange(256)]) for _ in range(40))
        marker = chance.choice([*range(0xE0, 0xF0), 0xFE])
        head = chance.choice(HEADS)
        if head == b"Adobe" and marker == 0xEE:
            body = body[:6]  # a whole one says how colours are stored
        damaged = segment(marker, head + body[: chance.choice([0, 1, 2, 5, 40])])
        place = chance.choice([2, first]) if head != b"JFIF\0" or marker != 0xE0 else first
        content = JPEG[:place] + damaged + JPEG[place:]
        found = decode_image(content, None, decoder)
        if found.shape == expected.shape:  # else its EXIF data turned it by chance
            assert np.array_equal(found, expected)
        assert set(image_sides(content)) == {34, 21}
    profile = b"".join(
        segment(0xE2, b"ICC_PROFILE\0" + bytes([i % 256, 255]) + bytes(65_000)) for i in range(300)
    )
    assert np.array_equal(decode_image(JPEG[:2] + profile + JPEG[2:], None, decoder), expected)


def test_segments_that_say_how_colours_are_stored_stay() -> None:
    ink = PICTURE.convert("CMYK")
    file = io.BytesIO()
    ink.save(file, "JPEG", quality=95, exif=b"Exif\0\0II*\0", comment="x" * 999)
    bare = of_pixels(file.getvalue())
    assert b"Adobe" in bare and b"Exif" not in bare and b"xxx" not in bare
    expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    assert np.array_equal(decode_image(file.getvalue(), None), expected)
    assert b"JFIF" in of_pixels(JPEG)
