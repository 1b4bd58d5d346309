"""Messages of protobuf with other numbers, other kinds of fields, and fields too few, too many or elsewhere.

Lengths stay right, so that readers come as far as the fault.
"""

from __future__ import annotations

import random
from typing import Any

NUMBERS = [0, 1, 2, 3, 7, 127, 128, 255, 2**16, 2**20, 2**31 - 1, 2**31, 2**32, 2**40]
NUMBERS += [2**62, 2**63 - 1, 2**63, 2**64 - 2**31, 2**64 - 2, 2**64 - 1]
_FLOATS = [bytes(4), b"\xff" * 4, b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\0\0\xc0\x7f", b"\xff\xff\x7f\x7f"]
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def changed(content: bytes, rng: random.Random) -> bytes:
    """Return a message with a change at some depth; bytes that are no message become others."""
    fields = _fields(content)
    if not fields:
        if content and len(content) % 8 == 0 and rng.random() < 0.5:
            at = rng.randrange(len(content) // 8) * 8
            return content[:at] + rng.choice(NUMBERS).to_bytes(8, "little") + content[at + 8 :]
        return rng.randbytes(rng.randrange(9))
    at, way = rng.randrange(len(fields)), rng.random()
    inner = [index for index, (_, kind, value) in enumerate(fields) if kind == _BYTES and value]
    if inner and way < 0.6:
        at = rng.choice(inner)
        fields[at][2] = changed(fields[at][2], rng)
    elif way < 0.72:
        _, kind, value = fields[at]
        number = rng.choice(NUMBERS)
        fields[at][2] = {
            _VARINT: lambda: number,
            _EIGHT: lambda: number.to_bytes(8, "little"),
            _FOUR: lambda: rng.choice(_FLOATS),
            _BYTES: lambda: changed(value, rng),
        }[kind]()
    elif way < 0.8:
        del fields[at]
    elif way < 0.88:
        fields.insert(rng.randrange(len(fields) + 1), list(fields[at]))
    elif way < 0.94:
        other = rng.randrange(len(fields))
        fields[at], fields[other] = fields[other], fields[at]
    else:
        fields[at] = [fields[at][0], _VARINT, rng.choice(NUMBERS)]
    return b"".join(_written(*field) for field in fields)


def _fields(content: bytes) -> list[list[Any]]:
    """Return number, kind and value of each field; nothing if it is no message."""
    found, at = [], 0
    try:
        while at < len(content):
            tag, at = _number(content, at)
            kind = tag & 7
            if kind == _VARINT:
                value: Any
                value, at = _number(content, at)
            else:
                size, at = _number(content, at) if kind == _BYTES else ({_EIGHT: 8, _FOUR: 4}[kind], at)
                value, at = content[at : at + size], at + size
            if not 0 < tag >> 3 < 200 or at > len(content):
                return []
            found.append([tag >> 3, kind, value])
    except (IndexError, KeyError):
        return []
    return found


def _number(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = content[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            break
    return value, at


def _written(number: int, kind: int, value: Any) -> bytes:
    head = _varint(number << 3 | kind)
    if kind == _VARINT:
        return head + _varint(value & (1 << 64) - 1)
    return head + (_varint(len(value)) if kind == _BYTES else b"") + value


def _varint(value: int) -> bytes:
    octets = bytearray()
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    return bytes([*octets, value])
