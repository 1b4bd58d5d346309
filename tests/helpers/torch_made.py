"""Files of PyTorch in both forms, assembled byte by byte: sound ones, and ones that lie."""

from __future__ import annotations

import dataclasses
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import bfloat16

Array = np.ndarray[Any, Any]

KINDS = {
    **{"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage"},
    **{"uint16": "BFloat16Storage", "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage"},
    **{"int8": "CharStorage", "uint8": "ByteStorage", "bool": "BoolStorage"},
}
ORDERED = b"ccollections\nOrderedDict\n)R"


@dataclasses.dataclass(frozen=True)
class Raw:
    """Instructions of a pickle that push a value."""

    code: bytes


@dataclasses.dataclass(frozen=True)
class Made:
    """A tensor: its storage, and what the file says of both."""

    key: str
    kind: str
    count: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    parameter: bool = False
    old: bool = False

    def code(self, legacy: bool) -> bytes:
        """Return the instructions that rebuild it."""
        storage: tuple[Any, ...] = (
            "storage",
            Raw(f"ctorch\n{self.kind}\n".encode()),
            self.key,
            "cpu",
            self.count,
        )
        storage += (None,) * legacy
        arguments: tuple[Any, ...] = (Raw(code(storage) + b"Q"), self.offset, self.shape, self.strides)
        name = b"_rebuild_tensor" if self.old else b"_rebuild_tensor_v2"
        arguments += () if self.old else (False, Raw(ORDERED))
        made = b"ctorch._utils\n" + name + b"\n" + code(arguments) + b"R"
        if not self.parameter:
            return made
        return b"ctorch._utils\n_rebuild_parameter\n" + code((Raw(made), True, Raw(ORDERED))) + b"R"


def code(value: Any, legacy: bool = False) -> bytes:
    """Return the instructions, of protocol 2, that push a value."""
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, Made):
        return value.code(legacy)
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple | list):
        inside = b"(" + b"".join(code(one, legacy) for one in value)
        return inside + b"t" if isinstance(value, tuple) else b"]" + inside + b"e"
    assert isinstance(value, dict), value
    return ORDERED + b"(" + b"".join(code(one, legacy) for item in value.items() for one in item) + b"u"


def pickled(value: Any, legacy: bool = False) -> bytes:
    """Return a pickle."""
    return b"\x80\x02" + code(value, legacy) + b"."


def made(arrays: Mapping[str, Array]) -> tuple[dict[str, Made], dict[str, Array]]:
    """Return a tensor for each array, and the storages; uint16 are the bits of bfloat16."""
    tensors = {
        name: Made(str(key), KINDS[str(one.dtype)], one.size, 0, one.shape, _strides(one.shape))
        for key, (name, one) in enumerate(arrays.items())
    }
    return tensors, {str(key): one.reshape(-1) for key, one in enumerate(arrays.values())}


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))


def zip_form(
    path: Path,
    content: Any,
    storages: Mapping[str, Array | bytes],
    *,
    prefix: str = "archive/",
    packed: bool = False,
    order: str | None = "little",
    more: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a file of the zip form."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{prefix}data.pkl", content if isinstance(content, bytes) else pickled(content))
        if order is not None:
            archive.writestr(f"{prefix}byteorder", order)
        for key, values in storages.items():
            archive.writestr(f"{prefix}data/{key}", _bytes(values, order != "big"))
        for name, text in (more or {}).items():
            archive.writestr(f"{prefix}{name}", text)
    return path


def legacy_form(
    path: Path, content: Any, storages: Mapping[str, Array], *, little: bool = True, counts: int = 0
) -> Path:
    """Write a file of the legacy form; `counts` is added to the numbers of elements before the storages."""
    system = {
        "protocol_version": 1001,
        "little_endian": little,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    parts = [
        pickled(Raw(b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little"))),
        pickled(Raw(b"M\xe9\x03")),
    ]
    parts += [pickled(system), pickled(content, legacy=True), pickled(list(storages))]
    for values in storages.values():
        parts += [struct.pack("<q" if little else ">q", values.size + counts), _bytes(values, little)]
    path.write_bytes(b"".join(parts))
    return path


def _bytes(values: Array | bytes, little: bool) -> bytes:
    if isinstance(values, bytes):
        return values
    return values.astype(values.dtype.newbyteorder("<" if little else ">")).tobytes()


def of_every_kind() -> dict[str, Array]:
    """Return an array for each kind of storage."""
    draws = np.random.default_rng(0)
    floats = draws.standard_normal((4, 3, 2, 2))
    whole = draws.integers(-100, 100, (3, 5))
    return {
        "conv.weight": floats.astype(np.float32),
        "conv.bias": floats[:, 0, 0, 0].astype(np.float64),
        "half": floats.astype(np.float16),
        "bf16": bfloat16.pack(floats),
        **{name: whole.astype(name) for name in ("int64", "int32", "int16", "int8", "uint8")},
        "flags": whole > 0,
        "scalar": np.array(3.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }
