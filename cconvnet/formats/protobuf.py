"""Messages in protobuf's wire format: read as views of a file's memory, written without copies of tensors.

A schema is a table from a field's name to its number, or to its number and the schema of the message that it
contains. Fields that a schema lacks are skipped. Nothing else of a format's definition is needed, nothing is
generated, and nothing that is read is run.

Damaged and hostile files are expected. Each length is checked against the message that contains it, and a
number has at most ten bytes. A reader enters only the messages that its schema names, so nesting is as deep
as the schema.

Source: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.errors import DataError

Array = np.ndarray[Any, Any]
Schema = Mapping[str, Any]  # by a field's name its number, or (number, schema)
Buffer = bytes | memoryview

MAX_PARTS = 1 << 17  # texts and messages in one message; the largest networks have some thousand nodes
MAX_BYTES = (1 << 31) - 1  # of a message, as protobuf's own limit is
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_CHUNK = 1 << 16  # bytes of packed numbers that are decoded at a time


def open_message(path: Path, schema: Schema) -> Message:
    """Return the message that a file consists of; its memory is the file's, which must stay as it is.

    Raises:
        DataError: the file is none, or empty, or damaged.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder' if path.is_dir() else 'there is no such file'}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty")
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return Message(view, str(path), schema)


class Message:
    """A message: its fields as numbers and as views of its memory.

    Attributes:
        where: the file, and the place in it, for errors.
    """

    def __init__(self, data: memoryview, where: str, schema: Schema) -> None:
        """Find the fields of a message.

        Raises:
            DataError: it is damaged.
        """
        self.where = where
        self._schema = schema
        self._names = {_number(field): name for name, field in schema.items()}
        self._numbers: dict[tuple[int, int], array[int]] = {}
        self._parts: dict[int, list[memoryview]] = {}
        at = 0
        while at < len(data):
            at = self._field(data, at)

    def _field(self, data: memoryview, at: int) -> int:
        """Take the field that begins at a place, and return the place behind it."""
        tag, at = self._varint(data, at, "a tag")
        number, kind = tag >> 3, tag & 7
        name = self._names.get(number, f"field {number}")
        if kind == _VARINT:
            value, at = self._varint(data, at, name)
            if number in self._names:
                self._numbers.setdefault((number, kind), array("Q")).append(value)
            return at
        if kind in (_FIXED32, _FIXED64):
            end = at + (4 if kind == _FIXED32 else 8)
        elif kind == _BYTES:
            length, at = self._varint(data, at, name)
            end = at + length
        else:
            raise self.error(name, f"has the unknown wire type {kind}")
        if end > len(data):
            raise self.error(name, f"would end {end - len(data):,} bytes behind the message that contains it")
        if number in self._names:
            if kind == _BYTES:
                parts = self._parts.setdefault(number, [])
                if len(parts) == MAX_PARTS:
                    raise self.error(name, f"occurs more than {MAX_PARTS:,} times")
                parts.append(data[at:end])
            else:
                code, form = ("I", "<I") if kind == _FIXED32 else ("Q", "<Q")
                numbers = self._numbers.setdefault((number, kind), array(code))
                numbers.append(struct.unpack_from(form, data, at)[0])
        return end

    def _varint(self, data: memoryview, at: int, name: str) -> tuple[int, int]:
        """Return the number that begins at a place, below 2^64, and the place behind it."""
        value = shift = 0
        while at < len(data) and shift < 70:
            byte = data[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
        raise self.error(name, "has a number that is cut off or too long")

    def error(self, field: str, fault: str) -> DataError:
        """Return an error about a field."""
        return DataError(f"{self.where}: {field} {fault}")

    def _find(self, name: str) -> int:
        return _number(self._schema[name])

    def __contains__(self, name: str) -> bool:
        number = self._find(name)
        return number in self._parts or any(number == own for own, _ in self._numbers)

    # ---- texts, bytes and messages ----

    def parts(self, name: str) -> list[memoryview]:
        """Return the bytes of each occurrence of a field."""
        return self._parts.get(self._find(name), [])

    def bytes(self, name: str) -> memoryview | None:
        """Return the bytes of a field; None if it is not there."""
        parts = self.parts(name)
        return parts[-1] if parts else None

    def texts(self, name: str) -> list[str]:
        """Return the texts of a repeated field.

        Raises:
            DataError: one is not in UTF-8.
        """
        try:
            return [str(part, "utf-8") for part in self.parts(name)]
        except UnicodeDecodeError:
            raise self.error(name, "is no text in UTF-8") from None

    def text(self, name: str, default: str = "") -> str:
        """Return a text, or the default if the field is not there."""
        texts = self.texts(name)
        return texts[-1] if texts else default

    def messages(self, name: str) -> Iterator[Message]:
        """Yield the messages of a repeated field, each named by its place in it."""
        for index, part in enumerate(self.parts(name)):
            yield Message(part, f"{self.where}: {name} {index}", self._schema[name][1])

    def message(self, name: str) -> Message | None:
        """Return the message in a field; None if it is not there."""
        part = self.bytes(name)
        return None if part is None else Message(part, f"{self.where}: {name}", self._schema[name][1])

    # ---- numbers ----

    def integers(self, name: str, dtype: str = "i8") -> Array:
        """Return the whole numbers of a repeated field, packed or not, as an array of a type.

        Values beyond the type's range lose their upper bits, as in protobuf.
        """
        number = self._find(name)
        found = [np.frombuffer(self._numbers.get((number, _VARINT), array("Q")), np.uint64).astype(dtype)]
        found += [self._unpacked(part, name, dtype) for part in self._parts.get(number, [])]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def integer(self, name: str, default: int = 0) -> int:
        """Return a whole number with its sign, or the default if the field is not there."""
        values = self.integers(name)
        return int(values[-1]) if len(values) else default

    def reals(self, name: str, dtype: str = "<f4") -> Array:
        """Return the floats, or the doubles for "<f8", of a repeated field, packed or not.

        One packed occurrence, the usual case, is a view of the file.
        """
        number, kind = self._find(name), _FIXED64 if dtype == "<f8" else _FIXED32
        found: list[Array] = []
        if (number, kind) in self._numbers:
            found.append(np.frombuffer(self._numbers[number, kind], dtype))
        for part in self._parts.get(number, []):
            if len(part) % np.dtype(dtype).itemsize:
                raise self.error(name, f"has {len(part):,} bytes, no whole number of values")
            found.append(np.frombuffer(part, dtype))
        if not found:
            return np.zeros(0, dtype)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def real(self, name: str, default: float = 0.0) -> float:
        """Return a float, or the default if the field is not there."""
        values = self.reals(name)
        return float(values[-1]) if len(values) else default

    def _unpacked(self, part: memoryview, name: str, dtype: str) -> Array:
        """Return packed numbers; a chunk is decoded at a time, since its places need more room than it."""
        octets = np.frombuffer(part, np.uint8)
        if len(octets) and octets[-1] >= 0x80:
            raise self.error(name, "has a number that is cut off")
        values = np.empty(int(np.count_nonzero(octets < 0x80)), dtype)
        begin = done = 0
        while begin < len(octets):
            chunk = octets[begin : begin + _CHUNK]
            last = np.flatnonzero(chunk < 0x80)
            first = np.concatenate([[0], last[:-1] + 1])
            if not len(last) or (lengths := last - first + 1).max() > 10:
                raise self.error(name, "has a number of more than ten bytes")
            decoded = np.zeros(len(last), np.uint64)
            for byte in range(int(lengths.max())):
                longer = lengths > byte
                bits = chunk[first[longer] + byte].astype(np.uint64) & np.uint64(0x7F)
                decoded[longer] |= bits << np.uint64(7 * byte)
            values[done : done + len(last)] = decoded.astype(dtype)
            begin, done = begin + int(last[-1]) + 1, done + len(last)
        return values


def _number(field: Any) -> int:
    """Return a field's number, by its entry in a schema."""
    return int(field if isinstance(field, int) else field[0])


# ---- writing -------------------------------------------------------------------------------------------


def encode(schema: Schema, values: Mapping[str, Any]) -> list[Buffer]:
    """Return a message as pieces that follow one another; bytes of tensors are not copied.

    Args:
        schema: of the message.
        values: by a field's name an int, a float (of 4 bytes), a text, bytes, an array (its bytes), the
            values of a message, or a sequence of one of these. Numbers of a sequence are packed.

    Raises:
        ValueError: the message would be larger than 2 GiB.
    """
    pieces: list[Buffer] = []
    for name, value in values.items():
        field = schema[name]
        inner = None if isinstance(field, int) else field[1]
        pieces += _encoded(_number(field), value, inner)
    if sum(map(len, pieces)) > MAX_BYTES:
        raise ValueError("a message of protobuf has at most 2 GiB")
    return pieces


def _encoded(number: int, value: Any, inner: Schema | None) -> list[Buffer]:
    """Return a field as pieces."""
    match value:
        case int():
            return [_varint(number << 3 | _VARINT) + _varint(value)]
        case float():
            return [_varint(number << 3 | _FIXED32) + struct.pack("<f", value)]
        case str():
            return _delimited(number, [value.encode()])
        case bytes():
            return _delimited(number, [value])
        case np.ndarray():
            return _delimited(number, [np.ascontiguousarray(value).reshape(-1).view(np.uint8).data])
        case Mapping():
            assert inner is not None
            return _delimited(number, encode(inner, value))
        case Sequence() if value and isinstance(value[0], int):
            return _delimited(number, [b"".join(map(_varint, value))])
        case Sequence() if value and isinstance(value[0], float):
            return _delimited(number, [struct.pack(f"<{len(value)}f", *value)])
        case Sequence():
            return [piece for one in value for piece in _encoded(number, one, inner)]
    raise TypeError(f"field {number} cannot be {value!r}")


def _delimited(number: int, pieces: list[Buffer]) -> list[Buffer]:
    return [_varint(number << 3 | _BYTES) + _varint(sum(map(len, pieces))), *pieces]


def _varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF  # a negative number has all ten bytes
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
