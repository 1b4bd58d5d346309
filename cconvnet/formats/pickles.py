"""A reader of pickles that runs nothing of what they contain.

A pickle is a program for a small stack machine, and Python's own machine imports and calls whatever the
program names: whoever unpickles a stranger's file runs a stranger's code. Filtering the names helps, but the
rest of that machine still sets attributes, calls methods and hashes what it is given. So here is another
machine for the same language, which can only build data. It imports nothing: a class or function in a pickle
stays a name. The few names whose effect is known (NumPy's arrays, sets, ordered dictionaries) have that
effect written down here, cuda-convnet's own classes become records of their attributes, and any other name
is refused.

Time and memory grow only linearly with the file, and nothing recurses.

Source of the language: CPython's Lib/pickletools.py, which describes every instruction; of NumPy's part:
what ``ndarray.__reduce__`` returns.
"""

from __future__ import annotations

import codecs
import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cconvnet.errors import DataError

_NEWEST_PROTOCOL = 5

# cuda-convnet's modules (cuda-convnet2 keeps some of them in python_util). Their classes become records.
_RECORD_MODULES = frozenset(
    ["convdata", "convdata_cifar", "convdata_flickr", "convdata_jpeg", "convnet", "initw", "layer"]
    + [prefix + name for prefix in ("", "python_util.") for name in ("data", "gpumodel", "options", "util")]
)

# The types of arrays whose elements are plain bytes; an object array's would be Python objects.
_PLAIN_DTYPE = re.compile(r"[<>=|]?([biufc][0-9]{1,2}|\?|[SU][0-9]{1,9})")

# Instructions that copy existing values may copy this many times the file's size in all.
_COPIES = 8
_ELEMENT = 8  # what an element of a copied container counts for, in bytes
_MAX_UNZIPPED = 200


class PickleError(DataError):
    """A pickle that is damaged or contains what no data file needs. The text names file and fault."""


class ForbiddenPickle(PickleError):
    """A pickle that asks for something this reader does not do. The text names it."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """An object of one of cuda-convnet's classes: the class's name, its arguments and its attributes."""

    kind: Name
    args: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)


def load(path: str | os.PathLike[str]) -> Any:
    """Read the value in a pickle of any protocol, perhaps the only member of a zip file.

    Python 2's strings become str, one character per byte (latin-1); ordered dictionaries become dict.

    Raises:
        ForbiddenPickle: it names a class or function that is not allowed, or asks for another thing that no
            data needs. Nothing of it has been run.
        PickleError: it is damaged.
        OSError: it cannot be read.
    """
    data = _read(Path(path))
    return _Machine(data, str(path)).run()


def _read(path: Path) -> bytes:
    """Return a file's bytes; of a zip file, those of its only member."""
    data = path.read_bytes()
    # What zipfile itself looks for, an end-of-archive record, may occur in a pickle's own bytes.
    if not data.startswith(b"PK\x03\x04"):
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) != 1:
                raise PickleError(f"{path} is a zip file of {len(members)} members, not of one pickle")
            size = members[0].file_size
            if size > _MAX_UNZIPPED * len(data):
                raise ForbiddenPickle(
                    f"{path} would unpack to {size:,} bytes, more than {_MAX_UNZIPPED} times its size"
                )
            return archive.read(members[0])
    except PickleError:
        raise
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        raise PickleError(f"{path} is a damaged zip file: {error}") from error


class _Machine:
    """The stack machine: `data` is its program, `stack` holds values, `marks` the stacks below a MARK.

    The program begins at byte `at`. A machine for another kind of file allows other names, each with its
    effect, and overrides outside().
    """

    effects: ClassVar[Mapping[tuple[str, str], Callable[..., Any]]]
    names: ClassVar[Collection[tuple[str, str]]]

    def __init__(self, data: bytes, file: str, at: int = 0) -> None:
        self.data = data
        self.file = file
        self.at = at
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.unfilled: dict[int, Any] = {}  # arrays without their values yet, by id
        self.left_to_copy = _COPIES * len(data) + 4096

    def run(self) -> Any:
        start = 0
        try:
            while True:
                start = self.at
                code = self.take(1)
                if code == b".":
                    return self.stack.pop()
                instruction = _INSTRUCTIONS.get(code[0])
                if instruction is None:
                    raise PickleError(f"{code!r} is no instruction of a pickle")
                instruction(self)
        except ForbiddenPickle as error:
            raise ForbiddenPickle(f"{self.file}: {error}") from None
        except IndexError as error:
            raise self.damaged(start, "a value is missing") from error
        except (ArithmeticError, KeyError, TypeError, ValueError, struct.error) as error:
            raise self.damaged(start, str(error)) from error

    def damaged(self, at: int, why: str) -> PickleError:
        return PickleError(f"{self.file} is not a sound pickle: at byte {at:,}: {why}")

    # -- reading the program --

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise PickleError(f"{count:,} bytes should follow, but the file ends")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, kind: str) -> int:
        """Read an integer in a format of the struct module, little-endian."""
        value: int
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return value

    def counted(self, kind: str) -> bytes:
        """Read bytes that follow their number."""
        count = self.number(kind)
        if count < 0:
            raise PickleError(f"a length of {count}")
        return self.take(count)

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise PickleError("the file ends within a line")
        text = self.data[self.at : end]
        self.at = end + 1
        return text

    def index(self) -> int:
        """Read a memo index, written in decimal."""
        value = int(self.line())
        if value < 0:
            raise PickleError(f"place {value} of the memo")
        return value

    # -- the stack --

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def items(self) -> list[Any]:
        """Return the values pushed since the last MARK."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.items()

    def top(self, kind: type) -> Any:
        """Return the top value, which must be of exactly this type."""
        value = self.stack[-1]
        if type(value) is not kind:
            raise PickleError(f"a {kind.__name__} should be here, not a {type(value).__name__}")
        return value

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def get(self, place: int) -> None:
        if place not in self.memo:
            raise PickleError(f"nothing has been kept at place {place} of the memo")
        self.push(self.memo[place])

    def copies(self, size: int) -> None:
        """Count what is about to be copied: short instructions must not fill the memory."""
        self.left_to_copy -= size
        if self.left_to_copy < 0:
            raise ForbiddenPickle(f"its values would be more than {_COPIES} times as large as the file")

    # -- containers --

    def pairs(self, target: dict[Any, Any], items: list[Any]) -> None:
        if len(items) % 2:
            raise PickleError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_hashable(key)] = value

    def set_items(self, items: list[Any]) -> None:
        self.pairs(self.top(dict), items)

    def append_items(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def add_items(self, items: list[Any]) -> None:
        self.top(set).update(map(_hashable, items))

    def new_dict(self, items: list[Any]) -> None:
        target: dict[Any, Any] = {}
        self.pairs(target, items)
        self.push(target)

    def last(self, count: int) -> list[Any]:
        """Pop the top `count` values."""
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    # -- names and what they make --

    def name(self, module: Any, name: Any) -> Name:
        """Return a class or function if it is allowed; it is not looked up."""
        if type(module) is not str or type(name) is not str:
            raise PickleError("a name that is not text")
        found = Name(module, name)
        if (found.module, found.name) not in self.names and not _is_record(found):
            raise ForbiddenPickle(
                f"it names {_short(found)}, which a file of data does not need; nothing of the file was run"
            )
        return found

    def global_name(self) -> Name:
        module, name = self.line().decode(), self.line().decode()
        return self.name(module, name)

    def call(self, function: Any, args: Any) -> None:
        """Push the effect of calling what was named."""
        if type(function) is not Name or type(args) is not tuple:
            raise ForbiddenPickle(
                f"it calls a {type(function).__name__}, not a class or function by its name"
            )
        if _is_record(function):
            self.push(Record(function, args))
            return
        effect = self.effects.get((function.module, function.name))
        if effect is None:
            raise ForbiddenPickle(f"it calls {function}")
        try:
            self.push(effect(self, *args))
        except TypeError as error:
            raise PickleError(f"{function} with {len(args)} arguments: {error}") from error

    def reduce(self) -> None:
        function, args = self.last(2)
        self.call(function, args)

    def new_object(self) -> None:
        kind, args = self.last(2)
        if type(kind) is not Name or not _is_record(kind):
            raise ForbiddenPickle(f"it makes an object of {kind if type(kind) is Name else 'no class'}")
        self.call(kind, args)

    def new_object_with_keywords(self) -> None:
        if self.stack.pop() != {}:
            raise ForbiddenPickle("it makes an object with keyword arguments")
        self.new_object()

    def instance(self, name: Name, args: list[Any]) -> None:
        """Push an object of one of Python 2's old classes."""
        if not _is_record(name):
            raise ForbiddenPickle(f"it makes an object of {name}")
        self.call(name, tuple(args))

    def old_object(self, items: list[Any]) -> None:
        if not items or type(items[0]) is not Name:
            raise ForbiddenPickle("it makes an object of no class")
        self.instance(items[0], items[1:])

    def build(self) -> None:
        """Apply a state to the value below it."""
        target, state = self.last(2)
        if type(target) is Record:
            # Objects with slots come with a pair: attributes, slots.
            parts = state if type(state) is tuple and len(state) == 2 else (state,)
            for part in parts:
                if part is not None and type(part) is not dict:
                    raise PickleError(f"a {type(part).__name__} as the attributes of {target.kind}")
                self.copies(_ELEMENT * len(part or {}))
                target.state.update(part or {})
        elif type(target) is _Dtype:
            target.set_state(state)
        elif id(target) in self.unfilled:
            self.fill(target, state)
            del self.unfilled[id(target)]
        else:
            raise ForbiddenPickle(f"it sets the state of a {type(target).__name__}")
        self.push(target)

    def outside(self, key: Any) -> None:
        """Push an object that is not in the pickle, by its persistent id."""
        raise ForbiddenPickle("it asks for an object outside the file (a persistent id)")

    # -- NumPy --

    def fill(self, array: Any, state: Any) -> None:
        """Fill an array: (version, shape, dtype, Fortran order, bytes)."""
        if type(state) is not tuple or len(state) != 5:
            raise PickleError("an array's state is not that of NumPy")
        _, shape, dtype, fortran, values = state
        values = _bytes(values)
        self.check_size(dtype, shape, values)
        self.copies(len(values))
        array.__setstate__((1, shape, dtype.value, bool(fortran), values))

    def check_size(self, dtype: Any, shape: Any, values: bytes | bytearray) -> None:
        if type(dtype) is not _Dtype or type(shape) is not tuple:
            raise PickleError("an array without a type or a shape")
        if len(shape) > 32 or not all(type(side) is int and 0 <= side < 2**48 for side in shape):
            raise PickleError("an array whose shape is not that of an array")
        # NumPy reckons with the other sides even where one is 0.
        if 0 in shape and math.prod(max(side, 1) for side in shape) > max(len(self.data), 2**20):
            raise PickleError("an array without elements, but huge")
        if math.prod(shape) * dtype.value.itemsize != len(values):
            text = "x".join(map(str, shape))
            raise PickleError(f"an array of {text} {dtype.value} values, but of {len(values):,} bytes")


def _short(value: Any) -> str:
    """Return a value in a few words; of a container, which may be huge, only the type."""
    if type(value) is str or type(value) is Name:
        text = repr(value[:80]) if isinstance(value, str) else str(value)
        return text if len(text) <= 80 else text[:77] + "..."
    return f"a {type(value).__name__}"


def _is_record(name: Name) -> bool:
    return name.module in _RECORD_MODULES and name.name.isidentifier()


def _hashable(key: Any) -> Any:
    """Check that a key is text or a number. Hashing a deep tuple would recurse."""
    if not isinstance(key, str | bytes | int | float | complex | np.number | None):
        raise PickleError(f"a {type(key).__name__} as a key")
    if isinstance(key, int) and key.bit_length() > 64:
        raise PickleError("a number of more than 64 bits as a key")
    return key


def _bytes(value: Any) -> bytes | bytearray:
    """Return bytes, which Python 2 wrote as a string."""
    if isinstance(value, str):
        return value.encode("latin-1")
    if isinstance(value, bytes | bytearray):
        return value
    raise ForbiddenPickle(f"a {type(value).__name__} where bytes should be; arrays of objects are not read")


# ---- what the allowed names make ------------------------------------------------------------------------


@dataclass
class _Dtype:
    """An element type; its byte order comes after it has been made."""

    value: np.dtype[Any]

    def set_state(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 5 or state[2:5] != (None, None, None):
            raise ForbiddenPickle("an array's element type has a subtype or fields")
        if state[1] not in ("<", ">", "=", "|"):
            raise PickleError(f"a byte order {_short(state[1])}")
        if state[1] != "|":
            self.value = self.value.newbyteorder(state[1])


def _dtype(machine: _Machine, code: Any, align: Any = False, copy: Any = False) -> _Dtype:
    if type(code) is not str or not _PLAIN_DTYPE.fullmatch(code):
        raise ForbiddenPickle(f"an array's element type {_short(code)}; only numbers and text are read")
    return _Dtype(np.dtype(code))


def _reconstruct(machine: _Machine, kind: Any, shape: Any, code: Any) -> Any:
    if kind != Name("numpy", "ndarray"):
        raise ForbiddenPickle(f"an array of the class {_short(kind)}")
    array = np.empty(0, np.uint8)
    machine.unfilled[id(array)] = array
    return array


def _scalar(machine: _Machine, dtype: Any, values: Any = b"") -> Any:
    values = _bytes(values)
    machine.check_size(dtype, (), values)
    machine.copies(len(values))
    return np.frombuffer(values, dtype.value)[0]


def _frombuffer(machine: _Machine, values: Any, dtype: Any, shape: Any, order: Any) -> Any:
    values = _bytes(values)
    machine.check_size(dtype, shape, values)
    machine.copies(len(values))
    return np.frombuffer(values, dtype.value).reshape(shape, order="F" if order == "F" else "C").copy("K")


def _encode(machine: _Machine, text: Any, encoding: Any = "latin1") -> bytes:
    """Undo the encoding in which Python 3 writes bytes for Python 2."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ForbiddenPickle(f"_codecs.encode of a {type(text).__name__} as {_short(encoding)}")
    machine.copies(len(text))
    return text.encode("latin-1")


def _make_bytes(machine: _Machine, values: Any = b"", encoding: Any = "latin1") -> bytes:
    if isinstance(values, str):
        return _encode(machine, values, encoding)
    if type(values) not in (bytes, bytearray):
        raise ForbiddenPickle(f"bytes made of a {type(values).__name__}")
    machine.copies(len(values))
    return bytes(values)


def _make_bytearray(machine: _Machine, values: Any = b"", encoding: Any = "latin1") -> bytearray:
    return bytearray(_make_bytes(machine, values, encoding))


def _elements(machine: _Machine, values: Any) -> Iterable[Any]:
    if type(values) not in (list, tuple):
        raise PickleError(f"a set of a {type(values).__name__}")
    machine.copies(_ELEMENT * len(values))
    return map(_hashable, values)


def _make_set(machine: _Machine, values: Any = ()) -> set[Any]:
    return set(_elements(machine, values))


def _make_frozenset(machine: _Machine, values: Any = ()) -> frozenset[Any]:
    return frozenset(_elements(machine, values))


def _ordered(machine: _Machine, items: Any = ()) -> dict[Any, Any]:
    if type(items) not in (list, tuple):
        raise PickleError(f"an ordered dictionary of a {type(items).__name__}")
    machine.copies(_ELEMENT * len(items))
    target: dict[Any, Any] = {}
    for item in items:
        if type(item) not in (list, tuple) or len(item) != 2:
            raise PickleError("an ordered dictionary's item is not a pair")
        machine.pairs(target, list(item))
    return target


def _complex(machine: _Machine, real: Any = 0.0, imaginary: Any = 0.0) -> complex:
    if not isinstance(real, int | float) or not isinstance(imaginary, int | float):
        raise ForbiddenPickle("a complex number that is not made of two numbers")
    return complex(real, imaginary)


def _range(machine: _Machine, *ends: Any) -> range:
    if not all(type(end) is int for end in ends):
        raise ForbiddenPickle("a range that is not one of integers")
    return range(*ends)


def _old_new_object(machine: _Machine, kind: Any, base: Any, state: Any) -> Record:
    """Make an object as protocols 0 and 1 write it: its class, the built-in class below, that one's value."""
    if type(kind) is not Name or not _is_record(kind):
        raise ForbiddenPickle(f"copy_reg._reconstructor of {_short(kind)}")
    if base not in (Name("__builtin__", "object"), Name("builtins", "object")) or state is not None:
        raise ForbiddenPickle(f"copy_reg._reconstructor of a {_short(base)}")
    return Record(kind)


_Effect = Callable[..., Any]


def _in_modules(modules: str, effects: dict[str, _Effect]) -> dict[tuple[str, str], _Effect]:
    return {(module, name): effect for module in modules.split() for name, effect in effects.items()}


EFFECTS: dict[tuple[str, str], _Effect] = {
    **_in_modules(
        "numpy.core.multiarray numpy._core.multiarray", {"_reconstruct": _reconstruct, "scalar": _scalar}
    ),
    **_in_modules("numpy.core.numeric numpy._core.numeric", {"_frombuffer": _frombuffer}),
    **_in_modules("numpy", {"dtype": _dtype}),
    **_in_modules("_codecs", {"encode": _encode}),
    **_in_modules("collections ordereddict", {"OrderedDict": _ordered}),
    **_in_modules("copy_reg copyreg", {"_reconstructor": _old_new_object}),
    **_in_modules(
        "__builtin__ builtins",
        {
            "bytearray": _make_bytearray,
            "bytes": _make_bytes,
            "complex": _complex,
            "frozenset": _make_frozenset,
            "range": _range,
            "set": _make_set,
            "xrange": _range,
        },
    ),
}

NAMES = {*EFFECTS, ("numpy", "ndarray"), ("__builtin__", "object"), ("builtins", "object")}
_Machine.effects, _Machine.names = EFFECTS, NAMES
Machine = _Machine  # for files whose pickles contain more, such as tensors


# ---- the instructions -----------------------------------------------------------------------------------


def _int_line(text: bytes) -> int:
    """Read an integer line, in which protocol 0 writes True and False as 01 and 00."""
    return text == b"01" if text in (b"00", b"01") else int(text)


def _string_line(text: bytes) -> str:
    text = text.strip()
    if len(text) < 2 or text[:1] not in (b"'", b'"') or text[:1] != text[-1:]:
        raise PickleError("a string without quotes")
    return codecs.escape_decode(text[1:-1])[0].decode("latin-1")


def _long(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _protocol(machine: _Machine) -> None:
    protocol = machine.number("B")
    if protocol > _NEWEST_PROTOCOL:
        raise PickleError(f"a pickle of protocol {protocol}; up to {_NEWEST_PROTOCOL} is read")


def _refuse(what: str) -> Callable[[_Machine], None]:
    def refuse(machine: _Machine) -> None:
        raise ForbiddenPickle(f"it asks for {what}")

    return refuse


# Names as in CPython's pickletools.
_INSTRUCTIONS: dict[int, Callable[[_Machine], Any]] = {
    # numbers and constants: INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT NONE NEWTRUE NEWFALSE
    ord("I"): lambda m: m.push(_int_line(m.line())),
    ord("J"): lambda m: m.push(m.number("i")),
    ord("K"): lambda m: m.push(m.number("B")),
    ord("M"): lambda m: m.push(m.number("H")),
    ord("L"): lambda m: m.push(int(m.line().rstrip(b"L"))),
    0x8A: lambda m: m.push(_long(m.counted("B"))),
    0x8B: lambda m: m.push(_long(m.counted("i"))),
    ord("F"): lambda m: m.push(float(m.line())),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    # Python 2's strings: STRING BINSTRING SHORT_BINSTRING
    ord("S"): lambda m: m.push(_string_line(m.line())),
    ord("T"): lambda m: m.push(m.counted("i").decode("latin-1")),
    ord("U"): lambda m: m.push(m.counted("B").decode("latin-1")),
    # text: UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    ord("V"): lambda m: m.push(m.line().decode("raw-unicode-escape")),
    ord("X"): lambda m: m.push(m.counted("I").decode("utf-8", "surrogatepass")),
    0x8C: lambda m: m.push(m.counted("B").decode("utf-8", "surrogatepass")),
    0x8D: lambda m: m.push(m.counted("Q").decode("utf-8", "surrogatepass")),
    # bytes: BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    ord("B"): lambda m: m.push(m.counted("I")),
    ord("C"): lambda m: m.push(m.counted("B")),
    0x8E: lambda m: m.push(m.counted("Q")),
    0x96: lambda m: m.push(bytearray(m.counted("Q"))),
    # lists: LIST EMPTY_LIST APPEND APPENDS
    ord("l"): lambda m: m.push(m.items()),
    ord("]"): lambda m: m.push([]),
    ord("a"): lambda m: m.append_items(m.last(1)),
    ord("e"): lambda m: m.append_items(m.items()),
    # tuples: TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3
    ord("t"): lambda m: m.push(tuple(m.items())),
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.push(tuple(m.last(1))),
    0x86: lambda m: m.push(tuple(m.last(2))),
    0x87: lambda m: m.push(tuple(m.last(3))),
    # dictionaries and sets: DICT EMPTY_DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET
    ord("d"): lambda m: m.new_dict(m.items()),
    ord("}"): lambda m: m.push({}),
    ord("s"): lambda m: m.set_items(m.last(2)),
    ord("u"): lambda m: m.set_items(m.items()),
    0x8F: lambda m: m.push(set()),
    0x90: lambda m: m.add_items(m.items()),
    0x91: lambda m: m.push(frozenset(map(_hashable, m.items()))),
    # the stack and the memo: MARK POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    ord("("): lambda m: m.mark(),
    ord("0"): lambda m: m.pop(),
    ord("1"): lambda m: m.items(),
    ord("2"): lambda m: m.push(m.stack[-1]),
    ord("p"): lambda m: m.put(m.index()),
    ord("q"): lambda m: m.put(m.number("B")),
    ord("r"): lambda m: m.put(m.number("I")),
    0x94: lambda m: m.put(len(m.memo)),
    ord("g"): lambda m: m.get(m.index()),
    ord("h"): lambda m: m.get(m.number("B")),
    ord("j"): lambda m: m.get(m.number("I")),
    # names and objects: GLOBAL STACK_GLOBAL REDUCE BUILD INST OBJ NEWOBJ NEWOBJ_EX
    ord("c"): lambda m: m.push(m.global_name()),
    0x93: lambda m: m.push(m.name(*m.last(2))),
    ord("R"): lambda m: m.reduce(),
    ord("b"): lambda m: m.build(),
    ord("i"): lambda m: m.instance(m.global_name(), m.items()),
    ord("o"): lambda m: m.old_object(m.items()),
    0x81: lambda m: m.new_object(),
    0x92: lambda m: m.new_object_with_keywords(),
    # about the file: PROTO FRAME
    0x80: _protocol,
    0x95: lambda m: m.number("Q"),
    # what needs a program beside the file: EXT1 EXT2 EXT4 PERSID BINPERSID NEXT_BUFFER READONLY_BUFFER
    0x82: _refuse("a registered extension"),
    0x83: _refuse("a registered extension"),
    0x84: _refuse("a registered extension"),
    ord("P"): lambda m: m.outside(m.line().decode()),
    ord("Q"): lambda m: m.outside(m.stack.pop()),
    0x97: _refuse("a buffer outside the file"),
    0x98: _refuse("a buffer outside the file"),
}
