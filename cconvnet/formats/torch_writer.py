"""Write named tensors as a file that ``torch.load(weights_only=True)`` reads, without PyTorch.

The file has the zip form that :mod:`cconvnet.formats.torch_files` describes. Its pickle is an OrderedDict of
tensors on the CPU. The same tensors give the same bytes.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cconvnet.system.outputs import replacing

Array = np.ndarray[Any, Any]

_STORAGES = {"float32": "FloatStorage", "int64": "LongStorage"}
_ORDERED = b"ccollections\nOrderedDict\n)R"  # GLOBAL, EMPTY_TUPLE, REDUCE
_ALIGNED = 64  # PyTorch maps storages that begin at such a place into memory
_LONG = 1 << 31  # members from here on need the fields of zip64


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write tensors of float32 and int64 to a file.

    Raises:
        OSError: It cannot be written; an older file is then unchanged.
    """
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with (
        replacing(path) as descriptor,
        os.fdopen(os.dup(descriptor), "wb") as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        _add(archive, "data.pkl", _pickle(tensors))
        _add(archive, "byteorder", b"little")
        for key, tensor in enumerate(arrays.values()):
            little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
            _add(archive, f"data/{key}", little.reshape(-1).view(np.uint8).data)
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    """Add a member whose content begins at a multiple of _ALIGNED bytes."""
    member = zipfile.ZipInfo(f"archive/{name}")
    assert archive.fp is not None
    long = len(content) >= _LONG
    # The name and the fields that follow it: zip64's, and the padding's own four bytes.
    header = archive.fp.tell() + 30 + len(member.filename) + 20 * long + 4
    padding = -header % _ALIGNED
    member.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding  # the mark that PyTorch uses
    with archive.open(member, "w", force_zip64=long) as file:
        file.write(content)


def _pickle(tensors: Mapping[str, Array]) -> bytes:
    """Return the pickle, of protocol 2, that refers to the tensors' storages by their numbers."""
    parts = [b"\x80\x02", _ORDERED, b"("]
    for key, (name, tensor) in enumerate(tensors.items()):
        parts.append(_text(name) + _tensor(str(key), tensor))
    return b"".join([*parts, b"u."])


def _tensor(key: str, tensor: Array) -> bytes:
    steps = [int(np.prod(tensor.shape[i + 1 :], dtype=np.int64)) for i in range(tensor.ndim)]
    kind = f"ctorch\n{_STORAGES[str(tensor.dtype)]}\n".encode()
    storage = b"(" + _text("storage") + kind + _text(key) + _text("cpu") + _whole(tensor.size) + b"tQ"
    sizes = b"".join(b"(" + b"".join(map(_whole, values)) + b"t" for values in (tensor.shape, steps))
    # The function; the storage, its first element, sizes and strides; no gradient, and no hooks.
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return function + b"(" + storage + _whole(0) + sizes + b"\x89" + _ORDERED + b"tR"


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _whole(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)
