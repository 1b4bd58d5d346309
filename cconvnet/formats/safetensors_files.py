"""Read and write safetensors files of other programs, of any floating-point type.

A file is eight bytes with the length of the header, the header in JSON, and the tensors' bytes; see
https://github.com/huggingface/safetensors. The tensors are read one at a time, after the whole header has
been checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet import bfloat16
from cconvnet.errors import CheckpointError
from cconvnet.system.outputs import replacing, write

Array = np.ndarray[Any, Any]

_MAX_HEADER = 100_000_000  # as the format's own reader
_TYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2"},
    **{"I8": "i1", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "u1"},
}


def is_safetensors(start: bytes) -> bool:
    """Return True if a file that starts with these 16 bytes may be of this format."""
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= _MAX_HEADER


def read_header(path: Path) -> dict[str, Any]:
    """Return a file's header: by tensor its type, shape and place, and the metadata.

    Raises:
        CheckpointError: It is damaged.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise CheckpointError(f"{path} is cut off, or not a safetensors file")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header is not sound: {error}") from None
    if type(header) is not dict:
        raise CheckpointError(f"{path} is damaged: its header is no table")
    return header


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def read(path: Path) -> dict[str, Array]:
    """Read all tensors of a file. Floating-point tensors become float32, other ones keep their type.

    Raises:
        CheckpointError: The file is damaged; the text names the tensor.
        OSError: It cannot be read.
    """
    header = read_header(path)
    header.pop("__metadata__", None)
    with path.open("rb") as file:
        first = 8 + int.from_bytes(file.read(8), "little")
        room = path.stat().st_size - first
        places = {name: _place(path, name, entry, room) for name, entry in header.items()}
        end = 0
        for name, (_, _, begin, size) in sorted(places.items(), key=lambda item: item[1][2]):
            if begin < end:
                raise CheckpointError(f"{path} is damaged: tensor {name[:120]} overlaps another")
            end = begin + size
        found = {}
        for name, (kind, shape, begin, size) in places.items():
            file.seek(first + begin)
            values = np.fromfile(file, _TYPES[kind], math.prod(shape))
            if values.nbytes != size:
                raise CheckpointError(f"{path} is cut off in tensor {name[:120]}")
            found[name] = _as_read(values, kind).reshape(shape)
    return found


def _place(path: Path, name: str, entry: Any, room: int) -> tuple[str, tuple[int, ...], int, int]:
    """Return the type, the shape, the first byte and the number of bytes of a tensor."""

    def refuse(what: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {name[:120]} {what}")

    def whole(values: Any, most: int) -> bool:
        return type(values) is list and all(type(one) is int and 0 <= one < most for one in values)

    if type(entry) is not dict or not whole(entry.get("data_offsets"), 2**60):
        raise refuse("has no place in the file")
    kind, shape, ends = entry.get("dtype"), entry.get("shape", ()), entry["data_offsets"]
    if type(kind) is not str or kind not in _TYPES:
        raise refuse(f"is of the type {str(kind)[:20]}; those that are read are {', '.join(_TYPES)}")
    if not whole(shape, 2**40) or len(shape) > 32 or math.prod(max(side, 1) for side in shape) > 2**40:
        raise refuse("has a shape that is none")
    if len(ends) != 2 or not ends[0] <= ends[1] <= room:
        raise refuse("is beyond the file's end")
    size = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
    if ends[1] - ends[0] != size:
        text = "x".join(map(str, shape))
        raise refuse(f"is {text} of {kind}, {size:,} bytes, but has {ends[1] - ends[0]:,}")
    return kind, tuple(shape), ends[0], size


def _as_read(values: Array, kind: str) -> Array:
    if kind == "BF16":
        return bfloat16.unpack(values.astype(np.uint16, copy=False))
    if kind == "BOOL":
        return np.asarray(values != 0)
    wanted = np.dtype(np.float32) if values.dtype.kind == "f" else values.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):  # a float64 beyond float32's becomes infinite, which fit() refuses
        return values.astype(wanted, copy=False)


def header_of(
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[list[str], bytes]:
    """Return the names of tensors in the order of a new file, and the bytes before the tensors.

    Tensors of wide elements come first, so that each begins at a multiple of its elements' size.

    Args:
        tensors: By name the type and the shape of each.
        metadata: Texts by name.
    """
    names = sorted(tensors, key=lambda name: -tensors[name][0].itemsize)
    header: dict[str, Any] = {"__metadata__": metadata}
    begin = 0
    for name in names:
        dtype, shape = tensors[name]
        end = begin + math.prod(shape) * dtype.itemsize
        kind = "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return names, len(text).to_bytes(8, "little") + text


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write tensors of float32 and int64 to a file.

    Raises:
        OSError: It cannot be written; an older file is then unchanged.
    """
    kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    names, start = header_of(kinds, {"format": "pt"})
    with replacing(path) as descriptor:
        write(descriptor, start)
        for name in names:
            write(descriptor, np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
