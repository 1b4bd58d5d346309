"""The fields of ONNX's messages by their names, and its tensors as arrays.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.formats.protobuf import Message, Schema

Array = np.ndarray[Any, Any]

_ENTRY: Schema = {"key": 1, "value": 2}
TENSOR: Schema = {
    **{"dims": 1, "data_type": 2, "float_data": 4, "int32_data": 5, "int64_data": 7, "name": 8},
    **{"raw_data": 9, "double_data": 10, "uint64_data": 11, "external_data": (13, _ENTRY)},
    "data_location": 14,
}
ATTRIBUTE: Schema = {
    **{"name": 1, "f": 2, "i": 3, "s": 4, "t": (5, TENSOR), "floats": 7, "ints": 8},
    **{"type": 20, "ref_attr_name": 21},
}
_NODE: Schema = {
    **{"input": 1, "output": 2, "name": 3, "op_type": 4, "attribute": (5, ATTRIBUTE), "domain": 7}
}
_SHAPE: Schema = {"dim": (1, {"dim_value": 1, "dim_param": 2})}
_TYPE: Schema = {"tensor_type": (1, {"elem_type": 1, "shape": (2, _SHAPE)})}
_VALUE: Schema = {"name": 1, "type": (2, _TYPE)}
_GRAPH: Schema = {
    **{"node": (1, _NODE), "name": 2, "initializer": (5, TENSOR), "doc_string": 10},
    **{"input": (11, _VALUE), "output": (12, _VALUE), "sparse_initializer": 15},
}
MODEL: Schema = {
    **{"ir_version": 1, "opset_import": (8, {"domain": 1, "version": 2}), "producer_name": 2},
    **{"producer_version": 3, "doc_string": 6, "graph": (7, _GRAPH), "functions": 25},
}

FLOAT, INT64, BFLOAT16 = 1, 7, 16
# By ONNX's number: the name, NumPy's type of the bytes, and the field of values that are not raw.
_TYPES = {
    FLOAT: ("float", "<f4", "float_data"),
    2: ("uint8", "u1", "int32_data"),
    3: ("int8", "i1", "int32_data"),
    6: ("int32", "<i4", "int32_data"),
    INT64: ("int64", "<i8", "int64_data"),
    9: ("bool", "u1", "int32_data"),
    10: ("float16", "<u2", "int32_data"),
    11: ("double", "<f8", "double_data"),
    BFLOAT16: ("bfloat16", "<u2", "int32_data"),
}


def array_of(tensor: Message, name: str, folder: Path) -> Array:
    """Return a tensor's values, as a view of the file if they are there as they are needed.

    Args:
        tensor: the message.
        name: of the tensor, for errors.
        folder: that of the file. Values in files of their own are read only if these are inside it.

    Returns:
        float32 of bfloat16; of other types theirs.

    Raises:
        DataError: naming the tensor, if the values do not match its shape or are of another type.
    """
    where = f"tensor {name!r}"
    code = tensor.integer("data_type")
    if code not in _TYPES:
        raise tensor.error(where, f"is of ONNX's type {code}, which no weights here are made from")
    kind, dtype, field = _TYPES[code]
    shape = tuple(map(int, tensor.integers("dims")))
    if min(shape, default=1) < 0:
        raise tensor.error(where, f"has the shape {list(shape)}")
    count = math.prod(shape)
    values = _values(tensor, where, folder, dtype, field)
    if len(values) != count:
        raise tensor.error(where, f"has {len(values):,} values, but its shape {list(shape)} is {count:,}")
    if kind == "float16":
        values = values.view("<f2")
    elif kind == "bfloat16":
        wide = values.astype(np.uint32)
        wide <<= 16
        values = wide.view(np.float32)
    return values.reshape(shape)


def _values(tensor: Message, where: str, folder: Path, dtype: str, field: str) -> Array:
    """Return all values of a tensor in a row."""
    if tensor.integer("data_location"):
        return _external(tensor, where, folder, dtype)
    if (raw := tensor.bytes("raw_data")) is not None:
        if len(raw) % np.dtype(dtype).itemsize:
            raise tensor.error(where, f"has {len(raw):,} bytes, no whole number of values")
        return np.frombuffer(raw, dtype)
    return tensor.reals(field, dtype) if dtype in ("<f4", "<f8") else tensor.integers(field, dtype)


def _external(tensor: Message, where: str, folder: Path, dtype: str) -> Array:
    """Return values that are in a file of their own."""
    entries = {entry.text("key"): entry.text("value") for entry in tensor.messages("external_data")}
    place = entries.get("location", "")
    try:
        path = (folder / place).resolve()
        inside = bool(place) and path.is_relative_to(folder.resolve()) and path.is_file()
        offset, length = (int(entries[key]) if key in entries else None for key in ("offset", "length"))
    except (ValueError, OSError):
        raise tensor.error(where, f"has an unreadable place of its values, {entries!r}") from None
    if not inside:
        raise tensor.error(where, f"has its values in {place!r}, which is no file inside the model's folder")
    offset, size = offset or 0, path.stat().st_size
    length = size - offset if length is None else length
    if offset < 0 or length < 0 or offset + length > size or length % np.dtype(dtype).itemsize:
        raise tensor.error(where, f"has {length:,} bytes at {offset:,} of {place}, which has {size:,} bytes")
    if length == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, np.uint8, "r", offset, (length,)).view(dtype)
