"""Pickles as Python 2's cPickle wrote them, assembled byte by byte."""

from __future__ import annotations

import collections
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class Old:
    """An object of one of Python 2's classes, to be written."""

    def __init__(self, kind: str, old_style: bool = True, args: tuple[Any, ...] = (), **state: Any) -> None:
        self.kind, self.old_style, self.args, self.state = kind, old_style, args, state


class Class:
    """A class itself as a value."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


def python2(value: Any) -> bytes:
    """A pickle of protocol 2 as Python 2 wrote it; bytes and str become its str."""
    return b"\x80\x02" + _python2(value) + b"."


def _global(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def _python2(value: Any) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        value = value.encode("latin-1")
    if isinstance(value, bytes):
        head = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))
        return head + value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_python2, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, collections.OrderedDict):
        items = [list(item) for item in value.items()]
        return _global("collections.OrderedDict") + _python2((items,)) + b"R"
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(part) for item in value.items() for part in item) + b"u"
    if isinstance(value, set):
        return _global("__builtin__.set") + _python2((list(value),)) + b"R"
    if isinstance(value, np.dtype):
        arguments = _python2((value.str[1:], 0, 1))
        state = _python2((3, value.str[0], None, None, None, -1, -1, 0))
        return _global("numpy.dtype") + arguments + b"R" + state + b"b"
    if isinstance(value, np.generic):
        arguments = b"(" + _python2(value.dtype) + _python2(value.tobytes()) + b"t"
        return _global("numpy.core.multiarray.scalar") + arguments + b"R"
    if isinstance(value, np.ndarray):
        fortran = value.flags.f_contiguous and not value.flags.c_contiguous
        made = b"(" + _global("numpy.ndarray") + _python2((0,)) + _python2("b") + b"t"
        state = _python2(1) + _python2(value.shape) + _python2(value.dtype) + _python2(bool(fortran))
        state += _python2(value.tobytes("F" if fortran else "C"))
        return _global("numpy.core.multiarray._reconstruct") + made + b"R(" + state + b"tb"
    if isinstance(value, Class):
        return _global(value.kind)
    assert isinstance(value, Old), value
    if value.old_style:
        made = b"(" + _global(value.kind) + b"".join(map(_python2, value.args)) + b"o"
    else:
        made = _global(value.kind) + _python2(value.args) + b"\x81"
    return made + _python2(value.state) + b"b"


def write(folder: Path, content: bytes, name: str = "file") -> Path:
    file = folder / name
    file.write_bytes(content)
    return file


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


VALUES: dict[str, Any] = {
    "none": None,
    "flags": [True, False],
    "numbers": [0, 1, -1, 255, 256, 65536, -(2**31), 2**40, -(10**30), 1.5, -0.0, 1e300],
    "text": ["", "plain", "\xe9\n'\"\\", "\u4e2d\U0001f600", "x" * 300],
    "bytes": [b"", b"\x00\xff" * 200],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, (4, ()))],
    "sets": [set(), {1, "a"}, frozenset([2])],
    "dict": {1: {"a": []}, "b": {}},
    "bytearray": bytearray(b"ab"),
    "complex": 1 - 2j,
    "range": range(1, 9, 2),
    "float32": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "uint8": np.arange(256, dtype=np.uint8),
    "bool": np.array([True, False]),
    "complex64": np.array([1 + 2j], np.complex64),
    "words": np.array(["ab", "c"]),
    "bytewords": np.array([b"ab", b"c"]),
    "empty": np.zeros((0, 3)),
    "scalar": np.float32(1.5),
    "scalars": [np.int64(-3), np.bool_(True), np.array(7)],
}


class Call:
    """Pickled, it makes Python's own reader call `function`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


Images = npt.NDArray[np.uint8]


def make_batches(
    root: Path,
    counts: dict[str, int],
    shape: tuple[int, int, int] = (4, 4, 3),
    *,
    columns: bool = True,
    pickled: Callable[[Any], bytes] = python2,
    mean: bool = True,
    **changed: Any,
) -> dict[str, tuple[Images, npt.NDArray[np.int32]]]:
    """Writes batches of noise; counts says how many images each file has."""
    made = {}
    height, width, channels = shape
    for seed, (name, count) in enumerate(counts.items()):
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (count, *shape), np.uint8)
        labels = np.arange(count, dtype=np.int32) % 3
        rows = images.transpose(0, 3, 1, 2).reshape(count, -1)
        content = {
            "batch_label": name,
            "labels": labels.tolist(),
            "data": np.ascontiguousarray(rows.T if columns else rows),
            "filenames": ["a.png"] * count,
        }
        (root / name).write_bytes(pickled({**content, **changed.get(name, {})}))
        made[name] = images, labels
    values = height * width * channels
    meta: dict[str, Any] = {
        "num_cases_per_batch": 10000,
        "label_names": ["ant", "bee", "cat"],
        "num_vis": values,
    }
    if mean:
        meta["data_mean"] = np.arange(values, dtype=np.float32).reshape(-1, 1)
    (root / "batches.meta").write_bytes(pickled({**meta, **changed.get("meta", {})}))
    return made


def check_split(split: Any, parts: list[tuple[Images, npt.NDArray[np.int32]]]) -> None:
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    read, read_labels = split.read(np.arange(len(split)))
    assert np.array_equal(read, images) and np.array_equal(read_labels, labels)
