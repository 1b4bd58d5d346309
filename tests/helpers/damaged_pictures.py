"""Damaged pictures, each made from a seed out of one that looks real."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, PngImagePlugin


def photograph(chance: random.Random) -> Image.Image:
    """Smooth colours with some grain, of an odd size."""
    draws = np.random.default_rng(chance.getrandbits(32))
    width, height = chance.randint(40, 300), chance.randint(40, 300)
    coarse = Image.fromarray(draws.integers(0, 256, (5, 6, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = draws.integers(-12, 13, smooth.shape)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(chance: random.Random, image: Image.Image | None = None, **options: object) -> bytes:
    given = {
        "quality": chance.randint(30, 98),
        "subsampling": chance.choice([0, 1, 2]),
        "progressive": chance.random() < 0.3,
    }
    return encoded(image or photograph(chance), "JPEG", **{**given, **options})


def png(chance: random.Random) -> bytes:
    return encoded(photograph(chance), "PNG")


def either(chance: random.Random) -> bytes:
    return png(chance) if chance.random() < 0.3 else jpeg(chance)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def made_png(width: int, height: int, depth: int, color: int, rows: bytes, interlaced: bool = False) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def interlaced_png(chance: random.Random) -> bytes:
    """Adam7: seven passes, each every so many columns and rows. Source: PNG specification, section 8.2."""
    pixels = np.asarray(photograph(chance))
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    rows = b"".join(
        b"\0" + row.tobytes()
        for left, top, across, down in passes
        for row in pixels[top::down, left::across]
        if row.size
    )
    return made_png(pixels.shape[1], pixels.shape[0], 8, 2, rows, interlaced=True)


def sized(content: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    changed = bytearray(content)
    at = next(i for i in range(len(changed)) if changed[i] == 0xFF and changed[i + 1] in (0xC0, 0xC2))
    changed[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(changed)


def _truncated(chance: random.Random) -> bytes:
    content = either(chance)
    return content[: chance.randrange(1, len(content))]


def _cut_in_the_header(chance: random.Random) -> bytes:
    return either(chance)[: chance.randrange(1, 200)]


def _bytes_changed(chance: random.Random) -> bytes:
    content = bytearray(either(chance))
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


def _zeros_in_the_middle(chance: random.Random) -> bytes:
    """As after a crash a file system may leave a file."""
    content = bytearray(either(chance))
    begin = chance.randrange(len(content))
    end = min(len(content), begin + chance.choice([1, 16, 512, 4096]))
    content[begin:end] = bytes(end - begin)
    return bytes(content)


def _markers_changed(chance: random.Random) -> bytes:
    content = bytearray(jpeg(chance))
    places = [i for i in range(len(content) - 1) if content[i] == 0xFF and content[i + 1] not in (0, 0xFF)]
    for at in chance.sample(places, min(len(places), chance.randint(1, 3))):
        content[at + 1] = chance.choice(
            [0xC0, 0xC3, 0xC9, 0xCA, 0xD8, 0xD9, 0xDA, 0xDC, 0xDD, 0xE1, 0xFE, 0x01]
        )
    return bytes(content)


def _bytes_between(chance: random.Random) -> bytes:
    content = either(chance)
    at = chance.randrange(len(content))
    return content[:at] + chance.randbytes(chance.choice([1, 7, 300])) + content[at:]


def _jpeg_bomb(chance: random.Random) -> bytes:
    return sized(jpeg(chance), chance.randint(20_000, 65_500), chance.randint(20_000, 65_500))


def _png_bomb(chance: random.Random) -> bytes:
    side = chance.choice([9_000, 60_000, 2**31 - 1])
    return made_png(side, side, 8, chance.choice([0, 2, 6]), bytes(chance.randint(10, 100_000)))


def _text_bomb(chance: random.Random) -> bytes:
    """A few kilobytes of a PNG's text that become many megabytes."""
    text = b"zTXt" if chance.random() < 0.5 else b"iCCP"
    bomb = chunk(text, b"comment\0\0" + zlib.compress(bytes(80 << 20), 9))
    content = png(chance)
    return content[:33] + bomb + content[33:]


def _many_scans(chance: random.Random) -> bytes:
    """A progressive JPEG of many pixels whose scans are said again and again: each costs a pass over all."""
    content = encoded(Image.new("RGB", (4096, 4096), (9, 80, 200)), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * chance.randint(2_000, 4_000) + content[-2:]


def _huge_exif(chance: random.Random) -> bytes:
    content, segment = jpeg(chance), b"Exif\0\0" + chance.randbytes(65_000)
    marker = b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    return content[:2] + marker * chance.randint(1, 150) + content[2:]


def _animated(chance: random.Random) -> bytes:
    frames = [photograph(chance).resize((60, 50)) for _ in range(3)]
    kind = chance.choice(["GIF", "PNG", "WEBP"])
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def _cmyk(chance: random.Random) -> bytes:
    content = jpeg(chance, photograph(chance).convert("CMYK"))
    return content if chance.random() < 0.5 else content[: chance.randrange(1, len(content))]


def _other_modes(chance: random.Random) -> bytes:
    image = photograph(chance)
    grey = np.asarray(image.convert("L"))
    return chance.choice(
        [
            lambda: jpeg(chance, image.convert("L")),
            lambda: encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
            lambda: encoded(image.convert("RGBA"), "PNG"),
            lambda: encoded(image.quantize(17), "PNG", transparency=3),
            lambda: encoded(image.convert("1"), "PNG"),
            lambda: encoded(Image.merge("LA", [image.convert("L")] * 2), "PNG"),
        ]
    )()


def _other_formats(chance: random.Random) -> bytes:
    return encoded(photograph(chance), chance.choice(["BMP", "TIFF", "PPM", "TGA"]))


def _no_picture(chance: random.Random) -> bytes:
    begin = chance.choice(
        [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"<!DOCTYPE html>", b"\xff\xd8\xff\xd9"]
    )
    return begin + chance.randbytes(chance.choice([0, 1, 30, 3_000]))


def _two_in_one(chance: random.Random) -> bytes:
    return jpeg(chance) + either(chance)


def _thin(chance: random.Random) -> bytes:
    size = (chance.randint(1, 3), chance.randint(10_000, 60_000))
    image = Image.new("RGB", size if chance.random() < 0.5 else size[::-1], (1, 2, 3))
    return encoded(image, chance.choice(["PNG", "JPEG"]))


def _with_comments(chance: random.Random) -> bytes:
    notes = PngImagePlugin.PngInfo()
    for number in range(chance.randint(1, 300)):
        notes.add_text(f"note {number}", "x" * chance.randint(0, 3_000), zip=chance.random() < 0.5)
    return encoded(photograph(chance), "PNG", pnginfo=notes)


KINDS: list[Callable[[random.Random], bytes]] = [
    lambda chance: b"",
    either,  # whole, but perhaps a PNG with the name of a JPEG
    _truncated,
    _cut_in_the_header,
    _bytes_changed,
    _zeros_in_the_middle,
    _markers_changed,
    _bytes_between,
    _jpeg_bomb,
    _png_bomb,
    _text_bomb,
    _many_scans,
    _huge_exif,
    _animated,
    interlaced_png,
    _cmyk,
    _other_modes,
    _other_formats,
    _no_picture,
    _two_in_one,
    _thin,
    _with_comments,
]


def damaged(seed: int) -> bytes:
    """The contents of a file named .JPEG; seeds that follow each other go through all kinds of damage."""
    return KINDS[seed % len(KINDS)](random.Random(seed))
