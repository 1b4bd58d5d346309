"""Pictures of one colour that identify themselves, and broken pictures.

A flat, lossless picture has its label and its number as its colour, so a label that goes to the wrong picture
cannot hide.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

CLASSES = ["ant", "bee", "cat"]


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


def make_broken_set(root: Path) -> list[Path]:
    """90 training pictures, of which 4 are broken (two neighbours and the last among them), 30 test, 1."""
    train = make_pictures(root / "train", dict.fromkeys(CLASSES, 30))
    test = make_pictures(root / "test", dict.fromkeys(CLASSES, 10))
    broken = [train[0, 3], train[0, 4], train[1, 29], train[2, 29], test[1, 0]]
    for file, content in zip(broken, BROKEN.values(), strict=False):
        file.write_bytes(content)
    return broken
