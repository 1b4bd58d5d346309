"""JPEG and PNG files without decoding: the EXIF orientation, and the parts that pixels need.

Nothing here decodes or decompresses. Damaged parts are skipped, because the decoder decides whether the
pixels are sound. Unreadable EXIF data is ignored.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_EXIF = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
# The sizes in bytes of TIFF's types BYTE, SHORT and LONG. Programs write the orientation as any of them.
_INTEGERS = {1: 1, 3: 2, 4: 4}
# JPEG markers without a length field: TEM, RST0 to RST7 and SOI.
_ALONE = {0x01, *range(0xD0, 0xD9)}
_EOI, _SOS, _COM = 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP14, _APP15 = 0xE0, 0xE1, 0xEE, 0xEF

UPRIGHT = 1


def orientation(data: bytes) -> int:
    """Return the EXIF orientation of a JPEG or PNG file, 1 to 8, or 1 (upright) if there is no valid one.

    It is read from the first EXIF segment (APP1) of a JPEG or from the eXIf chunk of a PNG. XMP data and text
    chunks are ignored.


    Source: EXIF 2.32, section 4.6.4; TIFF 6.0, section 2; PNG, third edition, section 11.3.4.5.
    """
    if data.startswith(b"\xff\xd8"):
        return _of_exif(_jpeg_exif(data))
    if data.startswith(PNG_SIGNATURE):
        return _of_exif(_png_exif(data))
    return UPRIGHT


def turned(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Turn and mirror pixels uint8[H,W,C] so that a picture of this EXIF orientation is upright.

    Orientations from 5 on exchange height and width. The result is contiguous.
    """
    channels = pixels.shape[2]
    # Whole pixels as array items are moved twice as fast as single bytes.
    items = np.ascontiguousarray(pixels).view(f"V{channels}")[:, :, 0]
    if orientation >= 5:
        items = items.T
    # Whether rows and columns must be reversed, after height and width were exchanged.
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    items = np.ascontiguousarray(items[::rows, ::columns])
    return items.view(np.uint8).reshape(*items.shape, channels)


def of_pixels(data: bytes) -> bytes:
    """Strip a JPEG or PNG file of everything that its pixels do not need: texts, profiles, thumbnails, EXIF.

    These parts may be damaged or long, or decompress without limit, and none of them changes the decoded
    pixels. Other files are returned unchanged, and so is everything after the first damage.
    """
    if data.startswith(b"\xff\xd8"):
        needless = (
            (start, end) for start, marker, end in _jpeg_segments(data) if _is_needless(data, start, marker)
        )
    elif data.startswith(PNG_SIGNATURE):
        # A chunk whose type begins with a capital is critical: the header, the palette and the pixels.
        needless = ((start, end) for start, kind, end in _png_chunks(data) if kind[:1].islower())
    else:
        return data
    kept, at = [], 0
    for start, end in needless:
        kept.append(data[at:start])
        at = end
    return b"".join([*kept, data[at:]]) if kept else data


# ---- JPEG ----------------------------------------------------------------------------------------------


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield begin, marker and end of each whole segment before a JPEG's first scan."""
    at = 2
    while 0 <= at <= len(data) - 4:
        marker = data[at + 1]
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)  # skip stray bytes between segments, as decoders do
        elif marker == 0xFF:
            at += 1
        elif marker in _ALONE or marker == 0:
            at += 2
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if marker in (_SOS, _EOI) or end < at + 4 or end > len(data):
                return
            yield at, marker, end
            at = end


def _is_needless(data: bytes, start: int, marker: int) -> bool:
    """Return True if a decoder of pixels skips a segment.

    Of the application segments, decoders read only JFIF's and Adobe's, if these are complete. They specify
    how colours are stored. Source: libjpeg's jdmarker.c, which needs 14 and 12 bytes.
    """
    length = int.from_bytes(data[start + 2 : start + 4], "big") - 2
    if marker == _APP0:
        return not (data.startswith(b"JFIF\0", start + 4) and length >= 14)
    if marker == _APP14:
        return not (data.startswith(b"Adobe", start + 4) and length >= 12)
    return _APP0 <= marker <= _APP15 or marker == _COM


def _jpeg_exif(data: bytes) -> bytes:
    """Return the EXIF data of a JPEG, which has the form of a TIFF file, or no bytes."""
    for start, marker, end in _jpeg_segments(data):
        if marker == _APP1 and data.startswith(_EXIF, start + 4):
            return data[start + 4 + len(_EXIF) : end]
    return b""


# ---- PNG -----------------------------------------------------------------------------------------------


def _png_chunks(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield begin, type and end of each whole chunk of a PNG, up to IEND."""
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
    """Return the undamaged EXIF data of a PNG, which has the form of a TIFF file, or no bytes."""
    for start, kind, end in _png_chunks(data):
        if kind == b"eXIf":
            content = data[start + 8 : end - 4]
            if zlib.crc32(kind + content) != int.from_bytes(data[end - 4 : end], "big"):
                return b""
            return content.removeprefix(_EXIF)
    return b""


# ---- EXIF ----------------------------------------------------------------------------------------------


def _of_exif(exif: bytes) -> int:
    """Return the orientation in the first directory of EXIF data; UPRIGHT if it is not 1 to 8."""
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
