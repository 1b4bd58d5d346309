"""The structure of JPEG and PNG files: the EXIF orientation, and a PNG reduced to what its pixels need.

Nothing here decodes or decompresses. What is damaged is passed over: the decoder decides whether the
pixels are sound, and EXIF data that cannot be read says nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_EXIF = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
# Bytes of a value of TIFF's types BYTE, SHORT and LONG; programs write the orientation as any of them.
_INTEGERS = {1: 1, 3: 2, 4: 4}
# JPEG markers that no length follows: TEM, RST0 to RST7 and SOI.
_ALONE = {0x01, *range(0xD0, 0xD9)}
_APP1, _EOI, _SOS = 0xE1, 0xD9, 0xDA

UPRIGHT = 1


def orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG or PNG file, from 1 to 8; 1 (upright) where it has none that is sound.

    It is read from a JPEG's first APP1 segment of EXIF data or a PNG's eXIf chunk; XMP and texts do not
    count.
    Source: EXIF 2.32, section 4.6.4; TIFF 6.0, section 2; PNG, third edition, section 11.3.4.5.
    """
    if data.startswith(b"\xff\xd8"):
        return _of_exif(_jpeg_exif(data))
    if data.startswith(PNG_SIGNATURE):
        return _of_exif(_png_exif(data))
    return UPRIGHT


def turned(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Pixels uint8[H,W,C] turned and mirrored so that a picture of this EXIF orientation is upright.

    Orientations from 5 on exchange height and width. The result is contiguous.
    """
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    # After the exchange: which of rows and columns are in the opposite order.
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def png_of_pixels(data: bytes) -> bytes:
    """A PNG file with its critical chunks alone: header, palette and pixels.

    Texts, profiles and other ancillary chunks may be long, compressed without limit or damaged, and none of
    them changes what pixels become here.
    """
    critical = [PNG_SIGNATURE]
    at = len(PNG_SIGNATURE)
    for start, kind, end in _png_chunks(data):
        # The case of its first letter is what makes a chunk critical.
        if not kind[:1].islower():
            critical.append(data[start:end])
        at = end
    critical.append(data[at:])
    return b"".join(critical)


# ---- JPEG ----------------------------------------------------------------------------------------------


def _jpeg_exif(data: bytes) -> bytes:
    """The EXIF data of a JPEG, a TIFF file; empty where there is none."""
    at = 2
    while 0 <= at <= len(data) - 4:
        marker = data[at + 1]
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)  # stray bytes between segments, which decoders pass over
        elif marker == 0xFF:
            at += 1
        elif marker in _ALONE or marker == 0:
            at += 2
        elif marker in (_SOS, _EOI):
            break
        else:
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            if marker == _APP1 and data.startswith(_EXIF, at + 4):
                return data[at + 4 + len(_EXIF) : at + 2 + length]
            at += 2 + length
    return b""


# ---- PNG -----------------------------------------------------------------------------------------------


def _png_chunks(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Where each whole chunk of a PNG begins, its type, and where it ends; up to IEND."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return
        kind = data[at + 4 : at + 8]
        yield at, kind, end
        if kind == b"IEND":
            return
        at = end


def _png_exif(data: bytes) -> bytes:
    """The EXIF data of a PNG, a TIFF file; empty where there is none that is sound."""
    for start, kind, end in _png_chunks(data):
        if kind == b"eXIf":
            content = data[start + 8 : end - 4]
            if zlib.crc32(kind + content) != int.from_bytes(data[end - 4 : end], "big"):
                return b""
            return content.removeprefix(_EXIF)
    return b""


# ---- EXIF ----------------------------------------------------------------------------------------------


def _of_exif(exif: bytes) -> int:
    """The orientation in the first directory of EXIF data; UPRIGHT where it has none from 1 to 8."""
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return UPRIGHT

    def number(start: int, length: int) -> int:
        return int.from_bytes(exif[start : start + length], "big" if exif[:2] == b"MM" else "little")

    directory = number(4, 4)
    entries = number(directory, 2) if directory >= 8 else 0
    for entry in range(entries):
        start = directory + 2 + 12 * entry
        if start + 12 > len(exif):
            break
        if number(start, 2) == _ORIENTATION_TAG:
            value = number(start + 8, _INTEGERS.get(number(start + 2, 2), 0))
            return value if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT
