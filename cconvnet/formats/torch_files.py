"""Read tensors from PyTorch's files, without running anything in them.

``torch.save`` writes one of two forms. Both are pickles that refer to storages, flat arrays outside of them:

- A zip archive, since PyTorch 1.6: PREFIX/data.pkl, and PREFIX/data/KEY with the bytes of each storage.
- The legacy form: pickles of a magic number, of a version, of the writer's system, of the object, and of the
  keys of its storages. The storages follow in the order of the keys, each behind its number of elements.

The machine of :mod:`cconvnet.formats.pickles` reads the pickles. It also knows the functions that rebuild
tensors, which are a storage, an offset, a size and strides. These are checked against the storage. Storages
are read when a tensor needs them: the state of an optimizer costs nothing.

Source of the forms: torch/serialization.py and torch/_utils.py.
"""

from __future__ import annotations

import contextlib
import errno
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from cconvnet import bfloat16
from cconvnet.errors import CheckpointError
from cconvnet.formats import pickles
from cconvnet.formats.pickles import ForbiddenPickle, PickleError

Array = np.ndarray[Any, Any]

ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C
# A pickle of protocol 2 that is this number alone, but for the bytes that frame it.
LEGACY = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little")
_LEGACY_VERSION = 1001

# Elements of storages, little-endian; those of bfloat16 are the upper halves of float32.
_ELEMENTS = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "u1",
}
# Weights hardly shrink when they are packed: archives that unpack to more are bombs.
_MAX_UNZIPPED, _ALWAYS_UNZIPPED = 4, 1 << 20
# The bytes of all tensors, as multiples of the storages': float16 becomes float32.
_MAX_VALUES = 2
_PIECE = 1 << 20
# Keys under which programs keep the tensors, beside the state of an optimizer and the like.
WRAPPERS = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, and of torch.compile
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error)


@dataclass(frozen=True)
class Storage:
    """A flat array outside of the pickle: its name there, the kind of its elements, and their number."""

    key: str
    kind: str
    count: int

    @property
    def size(self) -> int:
        """The bytes of an element."""
        return np.dtype(_ELEMENTS[self.kind]).itemsize


@dataclass(eq=False)
class Tensor:
    """A tensor as a pickle describes it; nothing of it has been checked."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class _Machine(pickles.Machine):
    """The machine for pickles with tensors, whose storages are outside."""

    def __init__(self, data: bytes, file: str, at: int = 0) -> None:
        super().__init__(data, file, at)
        self.storages: dict[str, Storage] = {}

    def outside(self, key: Any) -> None:
        """Push the storage of a persistent id."""
        if type(key) is not tuple or len(key) not in (5, 6) or key[0] != "storage":
            raise ForbiddenPickle("it asks for an object outside the file that is no storage")
        _, kind, name, _, count, *view = key
        if type(kind) is not pickles.Name or kind.module != "torch" or kind.name not in _ELEMENTS:
            raise ForbiddenPickle("it asks for a storage of an unknown kind")
        if type(name) is not str or type(count) is not int or not 0 <= count < 2**48:
            raise PickleError("a storage without a key or a number of elements")
        if any(part is not None for part in view):
            raise ForbiddenPickle("it asks for a part of a storage")
        found = self.storages.setdefault(name, Storage(name, kind.name, count))
        if found != Storage(name, kind.name, count):
            raise PickleError(f"storage {name[:80]!r} has two kinds or lengths")
        self.push(found)

    def build(self) -> None:
        """Drop the attributes of a dictionary, which are versions of modules; set those of others."""
        if len(self.stack) >= 2 and type(self.stack[-2]) is dict and type(self.stack[-1]) is dict:
            self.stack.pop()
        else:
            super().build()


def _rebuild_tensor(
    machine: _Machine, storage: Any, offset: Any, shape: Any, strides: Any, *more: Any
) -> Tensor:
    # More arguments are whether it learns, its hooks, and its metadata.
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(machine: _Machine, tensor: Any, learns: Any, hooks: Any) -> Any:
    return tensor


def _size(machine: _Machine, sides: Any) -> tuple[Any, ...]:
    if type(sides) not in (list, tuple):
        raise PickleError(f"a size that is a {type(sides).__name__}")
    machine.copies(8 * len(sides))
    return tuple(sides)


_Machine.effects = {
    **pickles.EFFECTS,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}
_Machine.names = {*pickles.NAMES, *_Machine.effects, *(("torch", kind) for kind in _ELEMENTS)}


class _Archive(Protocol):
    """The object of a file, and its storages."""

    content: Any

    def read(self, storage: Storage) -> Array:
        """Return the elements of a storage, as they are in the file."""


class _Zip:
    """A file of the zip form."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.path = path
        self.archive = zipfile.ZipFile(file)
        size = file.seek(0, 2)
        members = self.archive.infolist()
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise PickleError(f"{path} is packed in another way than zip files of PyTorch")
        if any(member.compress_size > size for member in members):  # as many bytes would be made ready
            raise PickleError(f"{path} has members that are longer than the file")
        unpacked = sum(member.file_size for member in members)
        if unpacked > max(_MAX_UNZIPPED * size, _ALWAYS_UNZIPPED):
            raise ForbiddenPickle(
                f"{path} would unpack to {unpacked:,} bytes, more than {_MAX_UNZIPPED} times its size"
            )
        names = [name for name in self.archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(names) != 1:
            raise PickleError(f"{path} is a zip file without the one data.pkl of PyTorch's")
        self.prefix = names[0].removesuffix("data.pkl")
        self.order = "<"
        if f"{self.prefix}byteorder" in self.archive.namelist():
            self.order = ">" if self.archive.read(f"{self.prefix}byteorder") == b"big" else "<"
        self.content = _Machine(self.archive.read(names[0]), str(path)).run()

    def read(self, storage: Storage) -> Array:
        """Return the elements of a storage."""
        name = f"{self.prefix}data/{storage.key}"
        if name not in self.archive.NameToInfo:
            raise PickleError(f"{self.path} has no {name[:80]!r}")
        there = self.archive.getinfo(name).file_size
        if there != storage.count * storage.size:
            raise PickleError(
                f"{self.path}: {name[:80]!r} has {there:,} bytes, not those of {storage.count:,} elements"
            )
        found = np.empty(storage.count, self.order + _ELEMENTS[storage.kind])
        octets, at = found.view(np.uint8), 0
        with self.archive.open(name) as member:
            while piece := member.read(_PIECE):
                octets[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                at += len(piece)
        if at < len(octets):
            raise PickleError(f"{self.path}: {name[:80]!r} is cut off")
        return found


class _Legacy:
    """A file of the legacy form."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.path, self.data = path, file.read()
        machine = _Machine(self.data, str(path))
        values = []
        storages: dict[str, Storage] = {}
        for _ in range(5):
            machine = _Machine(self.data, str(path), machine.at)
            values.append(machine.run())
            storages |= machine.storages
        magic, version, system, self.content, keys = values
        if magic != _MAGIC or version != _LEGACY_VERSION or type(system) is not dict:
            raise PickleError(f"{path} is not of a version of PyTorch's legacy form that is read")
        self.order = "<" if system.get("little_endian", True) else ">"
        if type(keys) is not list or sorted(map(repr, keys)) != sorted(map(repr, storages)):
            raise PickleError(f"{path}: its storages are not those of its tensors")
        self.places: dict[str, int] = {}
        at = machine.at
        for key in keys:
            storage = storages[key]
            end = at + 8 + storage.count * storage.size
            if end > len(self.data):
                raise PickleError(f"{path} is cut off in storage {key[:80]!r}")
            (count,) = struct.unpack(f"{self.order}q", self.data[at : at + 8])
            if count != storage.count:
                raise PickleError(
                    f"{path}: storage {key[:80]!r} has {count:,} elements, not {storage.count:,}"
                )
            self.places[key] = at + 8
            at = end
        if at != len(self.data):
            raise PickleError(f"{path}: {len(self.data) - at:,} bytes follow its storages")

    def read(self, storage: Storage) -> Array:
        """Return the elements of a storage."""
        dtype = self.order + _ELEMENTS[storage.kind]
        return np.frombuffer(self.data, dtype, storage.count, self.places[storage.key])


def is_torch(path: Path, start: bytes) -> bool:
    """Return True if a file that starts with these 16 bytes may be PyTorch's."""
    if start.startswith(LEGACY) or not start.startswith(ZIP):
        return start.startswith(LEGACY)
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[-1] == "data.pkl" for name in archive.namelist())
    except _DAMAGE:
        return True  # its reader says what is wrong


def read(path: Path) -> dict[str, Array]:
    """Read the named tensors of a file of PyTorch, such as a state_dict.

    Dictionaries around it, by the keys WRAPPERS, are removed, and so are the prefixes of names that
    DataParallel and torch.compile make. Other values beside the tensors are left out. Floating-point tensors
    become float32, other ones keep their type. Tensors of the same elements are one array.

    Raises:
        ForbiddenPickle: The file names a class or function that no file of weights needs. Nothing of it has
            been run.
        PickleError: It is damaged.
        CheckpointError: It contains no named tensors.
        OSError: It cannot be read.
    """
    with path.open("rb") as file, _damage(path):
        start = file.read(16)
        file.seek(0)
        if not start.startswith((ZIP, LEGACY)):
            raise PickleError(f"{path} is no file of PyTorch, in the zip or the legacy form")
        archive: _Archive = _Zip(file, path) if start.startswith(ZIP) else _Legacy(file, path)
        return _named(_unwrapped(archive.content, path), archive, path)


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn errors of damaged files into those of this module, and add the remedy to those of whole models."""
    try:
        yield
    except ForbiddenPickle as error:
        if "it names" not in str(error):
            raise
        raise ForbiddenPickle(
            f"{error}; a file of weights alone is written by torch.save(model.state_dict(), FILE)"
        ) from None
    except (PickleError, CheckpointError):
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        raise PickleError(f"{path} is a damaged file of PyTorch") from error
    except _DAMAGE as error:
        raise PickleError(f"{path} is a damaged file of PyTorch: {error}") from error


def _unwrapped(content: Any, path: Path) -> Mapping[str, Tensor]:
    """Return the tensors by name, without what is around them."""
    found = content
    for _ in WRAPPERS:
        if type(found) is not dict:
            break
        tensors = {name: value for name, value in found.items() if type(value) is Tensor}
        if tensors:
            if not all(type(name) is str for name in tensors):
                raise CheckpointError(f"{path} has tensors under keys that are no names")
            return tensors
        found = next((found[key] for key in WRAPPERS if key in found), None)
    what = f"a {type(content).__name__}"
    if type(content) is dict:
        what = f"a dictionary of {', '.join(repr(key)[:40] for key in list(content)[:8]) or 'nothing'}"
    raise CheckpointError(
        f"{path} has no named tensors, under {', '.join(WRAPPERS)} or outermost: it is {what}"
    )


def _named(tensors: Mapping[str, Tensor], archive: _Archive, path: Path) -> dict[str, Array]:
    """Return the values of tensors, by name without prefixes."""
    storages: dict[str, Array] = {}
    known: dict[tuple[Any, ...], Array] = {}
    named: dict[str, Array] = {}
    left = _MAX_VALUES * path.stat().st_size + _ALWAYS_UNZIPPED
    for name, tensor in tensors.items():
        _check(tensor, name, path)
        key = tensor.storage.key, tensor.offset, tensor.shape, tensor.strides
        if key not in known:
            left -= 4 * math.prod(tensor.shape)
            if left < 0:
                raise ForbiddenPickle(f"{path}: its tensors would be more than {_MAX_VALUES} times its size")
            if tensor.storage.key not in storages:
                storages[tensor.storage.key] = archive.read(tensor.storage)
            known[key] = _values(tensor, storages[tensor.storage.key])
        short = without_prefixes(name)
        if short in named:
            raise CheckpointError(f"{path} has two tensors of the name {short}")
        named[short] = known[key]
    return named


def without_prefixes(name: str) -> str:
    """Return a tensor's name without the prefixes that wrappers of models add."""
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def _check(tensor: Tensor, name: str, path: Path) -> None:
    """Check a tensor against its storage."""

    def whole(values: Any) -> bool:
        return type(values) is tuple and all(type(one) is int and 0 <= one < 2**40 for one in values)

    def refuse(what: str) -> PickleError:
        return PickleError(f"{path}: tensor {name[:120]} {what}")

    if type(tensor.storage) is not Storage:
        raise refuse("has no storage")
    sizes = tensor.shape, tensor.strides
    if not (whole(sizes[0]) and whole(sizes[1]) and whole((tensor.offset,))) or len(sizes[0]) != len(
        sizes[1]
    ):
        raise refuse("has an offset, a size or strides that are none")
    if len(tensor.shape) > 32 or math.prod(max(side, 1) for side in tensor.shape) > 2**40:
        raise refuse("is larger than any")
    last = tensor.offset + sum((n - 1) * step for n, step in zip(*sizes, strict=True))
    if 0 not in tensor.shape and last >= tensor.storage.count:
        raise refuse(f"reads element {last:,} of a storage of {tensor.storage.count:,}")


def _values(tensor: Tensor, storage: Array) -> Array:
    """Return the elements of a tensor, which is within its storage."""
    strides = tuple(step * storage.itemsize for step in tensor.strides)
    start = storage[min(tensor.offset, storage.size) :]
    found = np.lib.stride_tricks.as_strided(start, tensor.shape, strides, writeable=False)
    if tensor.storage.kind == "BFloat16Storage":
        return bfloat16.unpack(found.astype(np.uint16, copy=False))
    if tensor.storage.kind == "BoolStorage":
        return np.asarray(found != 0)
    wanted = np.dtype(np.float32) if found.dtype.kind == "f" else found.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):  # a float64 beyond float32's becomes infinite, which fit() refuses
        return np.asarray(found, wanted, order="C")
