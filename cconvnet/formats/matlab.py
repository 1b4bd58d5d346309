"""Tables in MATLAB files of version 5, such as the one with ImageNet's classes.

Only the parts of such a table are read: a structure array whose fields are texts and single numbers.
Everything else in a file is skipped. Damaged and hostile files are expected. SciPy's reader may crash on them
or ask for 100 GiB; this one raises a ValueError and takes no more memory than a few times MAX_TABLE_BYTES.

Source: MathWorks, "MAT-File Format", chapter 1, "Level 5 MAT-File Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

MAX_TABLE_BYTES = 16 * 2**20  # bytes that a table may unpack to

Value = str | float | None

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHAR = 2, 4  # classes of arrays
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "<i2",
    4: "<u2",
    5: "<i4",
    6: "<u4",
    7: "<f4",
    9: "<f8",
    12: "<i8",
    13: "<u8",
}
_TEXTS = {1: "utf-8", 2: "utf-8", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}


def table(content: bytes, name: str, fields: Sequence[str]) -> list[tuple[Value, ...]]:
    """Return the rows of the structure array `name`, each of `fields` a text, a number or None.

    Raises:
        ValueError: Says what is wrong with the file.
    """
    if len(content) < _HEADER or content[126:128] != b"IM":
        raise ValueError("it is no MATLAB file of version 5 with the lowest byte first")
    for kind, data in _elements(content[_HEADER:]):
        if kind == _COMPRESSED:
            kind, data = _first(_elements(_unpacked(data)))
        if kind == _MATRIX and data:
            parts = _elements(data)
            flags, sizes, called = (_first(parts)[1] for _ in range(3))
            if called == name.encode():
                return _rows(flags, sizes, parts, fields)
    raise ValueError(f"it contains no {name}")


def _unpacked(data: bytes) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        unpacked = unpacker.decompress(data, MAX_TABLE_BYTES)
    except zlib.error as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error
    if not unpacker.eof:
        raise ValueError(f"it is cut off, or unpacks to more than {MAX_TABLE_BYTES:,} bytes")
    return unpacked


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and bytes of each element."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise ValueError("it ends within an element")
        kind, length = struct.unpack_from("<II", data, at)
        begin = at + 8
        if kind >> 16:  # up to four bytes are where others have their length
            kind, length, begin = kind & 0xFFFF, kind >> 16, at + 4
        end = begin + length
        if end > len(data) or (begin == at + 4 and length > 4):
            raise ValueError("an element is longer than what it is in")
        yield kind, data[begin:end]
        at = end if kind == _COMPRESSED else end + -end % 8 if begin == at + 8 else at + 8


def _first(parts: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    for part in parts:
        return part
    raise ValueError("it ends within an array")


def _rows(
    flags: bytes, sizes: bytes, parts: Iterator[tuple[int, bytes]], fields: Sequence[str]
) -> list[tuple[Value, ...]]:
    if flags[:1] != bytes([_STRUCT]):
        raise ValueError("it is no structure array")
    width = int.from_bytes(_first(parts)[1][:4], "little")
    names = _first(parts)[1]
    if not 0 < width <= 64:
        raise ValueError(f"its fields' names cannot have {width:,} bytes")
    pieces = (names[at : at + width] for at in range(0, len(names), width))
    there = [piece.split(b"\0", 1)[0].decode("latin-1") for piece in pieces]
    if missing := [field for field in fields if field not in there]:
        raise ValueError(f"it has no field {missing[0]}")
    count = math.prod(max(0, size) for (size,) in struct.iter_unpack("<i", sizes[: len(sizes) // 4 * 4]))
    rows = []
    for _ in range(count):  # a wrong count ends with the elements
        row = {name: _first(parts)[1] for name in there}
        rows.append(tuple(_value(row[field]) for field in fields))
    return rows


def _value(matrix: bytes) -> Value:
    parts = _elements(matrix)
    if not matrix:
        return None
    flags = _first(parts)[1]
    _first(parts), _first(parts)  # sizes and name
    for kind, data in parts:
        if flags[:1] == bytes([_CHAR]) and kind in _TEXTS:
            return data.decode(_TEXTS[kind], errors="replace")
        if kind in _NUMBERS and len(data) == np.dtype(_NUMBERS[kind]).itemsize:
            return float(np.frombuffer(data, _NUMBERS[kind])[0])
        break
    return None
