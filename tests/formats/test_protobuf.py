"""Protobuf's wire format: what is written is read, views stay views, and damage is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cconvnet.errors import DataError
from cconvnet.formats import protobuf
from cconvnet.formats.protobuf import Message, encode, open_message

INNER = {"name": 1, "values": 2}
SCHEMA = {"number": 1, "text": 2, "inner": (3, INNER), "floats": 4, "numbers": 5, "doubles": 6, "far": 900}


def message(content: bytes) -> Message:
    return Message(memoryview(content), "a file", SCHEMA)


def encoded(**values: Any) -> Message:
    return message(b"".join(encode(SCHEMA, values)))


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)])
def test_whole_numbers_keep_their_sign_and_all_bits(number: int) -> None:
    assert encoded(number=number).integer("number") == number
    assert encoded(far=number).integer("far") == number


def test_all_kinds_of_fields_come_back() -> None:
    inner = [{"name": "ä", "values": [1, -2]}, {"name": ""}]
    read = encoded(text="é", floats=0.1, numbers=[3, 4, 5], inner=inner)
    assert read.text("text") == "é" and read.text("far", "none") == "none"
    assert read.real("floats") == np.float32(0.1)
    assert read.integers("numbers").tolist() == [3, 4, 5]
    assert [(one.text("name"), one.integers("values").tolist()) for one in read.messages("inner")] == [
        ("ä", [1, -2]),
        ("", []),
    ]
    assert "text" in read and "doubles" not in read


def test_packed_and_unpacked_numbers_are_alike() -> None:
    numbers = [1, 300, 2**40, -7]
    packed = encoded(numbers=numbers)
    unpacked = message(b"".join(piece for n in numbers for piece in encode(SCHEMA, {"numbers": n})))
    both = message(
        b"".join([*encode(SCHEMA, {"numbers": numbers[:2]}), *encode(SCHEMA, {"numbers": numbers[2:]})])
    )
    for read in (packed, unpacked, both):
        assert read.integers("numbers").tolist() == numbers
    floats = message(b"".join(piece for n in (0.5, -2.0) for piece in encode(SCHEMA, {"floats": n})))
    assert floats.reals("floats").tolist() == [0.5, -2.0]
    assert encoded(floats=np.array([0.5, -2.0])).reals("floats", "<f8").tolist() == [0.5, -2.0]


def test_many_packed_numbers_are_decoded_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**40, 1000).tolist()
    monkeypatch.setattr(protobuf, "_CHUNK", 16)
    assert encoded(numbers=numbers).integers("numbers").tolist() == numbers


def test_packed_floats_are_a_view_of_the_file(tmp_path: Path) -> None:
    values = np.arange(1000, dtype=np.float32)
    file = tmp_path / "message"
    file.write_bytes(b"".join(encode(SCHEMA, {"floats": values})))
    read = open_message(file, SCHEMA)
    floats = read.reals("floats")
    part = read.bytes("floats")
    assert part is not None and np.array_equal(floats, values)
    assert np.shares_memory(floats, np.frombuffer(part, np.uint8))


def test_tensors_are_written_without_copies() -> None:
    values = np.zeros(1000, np.float32)
    pieces = encode({"graph": (7, {"tensor": (5, {"raw": 9})})}, {"graph": {"tensor": [{"raw": values}]}})
    assert any(np.shares_memory(np.frombuffer(piece, np.uint8), values) for piece in pieces)


def test_unknown_fields_are_skipped() -> None:
    more = encode({"a": 77, "b": 78, "c": 79}, {"a": 5, "b": "text", "c": 1.5})
    assert message(b"".join([*more, *encode(SCHEMA, {"number": 3})])).integer("number") == 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\x12\x05ab", "a file: text would end 3 bytes behind the message that contains it"),
        (b"\x08", "a file: number has a number that is cut off or too long"),
        (b"\x08" + b"\xff" * 11, "a file: number has a number that is cut off or too long"),
        (b"\x25\x00\x00", "a file: floats would end 2 bytes behind"),
        (b"\x0b\x0c", "a file: number has the unknown wire type 3"),
        (b"\x12" + b"\xff" * 9 + b"\x01", "a file: text would end"),
    ],
)
def test_damage_is_refused_with_the_field(content: bytes, text: str) -> None:
    with pytest.raises(DataError) as error:
        message(content)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("content", "read", "text"),
    [
        (b"\x22\x03abc", lambda m: m.reals("floats"), "floats has 3 bytes, no whole number of values"),
        (b"\x2a\x02\x01\x80", lambda m: m.integers("numbers"), "numbers has a number that is cut off"),
        (b"\x2a\x0c" + b"\xff" * 11 + b"\x01", lambda m: m.integers("numbers"), "more than ten bytes"),
        (b"\x12\x01\xff", lambda m: m.text("text"), "text is no text in UTF-8"),
        (b"\x1a\x02\x0a\x05", lambda m: m.message("inner"), "a file: inner: name would end 5 bytes behind"),
    ],
)
def test_damaged_values_are_refused_when_they_are_read(content: bytes, read: Any, text: str) -> None:
    with pytest.raises(DataError) as error:
        read(message(content))
    assert text in str(error.value)


def test_the_number_of_parts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MAX_PARTS", 10)
    with pytest.raises(DataError, match="text occurs more than 10 times"):
        message(b"\x12\x00" * 11)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, fault in (("empty", "is empty"), ("gone", "there is no such file"), (".", "is a folder")):
        with pytest.raises(DataError, match=fault):
            open_message(tmp_path / name, SCHEMA)
