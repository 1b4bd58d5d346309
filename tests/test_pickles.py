"""Pickles read without running them: what Python 2 and 3 write, what attackers write, cuda-convnet's batches.

Python 2's files are put together here byte by byte, as its cPickle wrote them: its strings, its module names.
"""

from __future__ import annotations

import collections
import os
import pickle
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cconvnet import data
from cconvnet.data.images import DataError
from cconvnet.formats import pickles
from cconvnet.formats.pickles import ForbiddenPickle, Name, PickleError, Record

# ---- Python 2's pickles -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_python_3_writes(tmp_path: Path, protocol: int) -> None:
    for name, value in VALUES.items():
        read = pickles.load(write(tmp_path, pickle.dumps(value, protocol)))
        assert same(read, value), name
    whole = pickles.load(write(tmp_path, pickle.dumps(VALUES, protocol)))
    assert same(whole, VALUES)
    big_endian = np.arange(5, dtype=">i4")
    assert np.array_equal(pickles.load(write(tmp_path, pickle.dumps(big_endian, protocol))), big_endian)
    ordered = collections.OrderedDict(z=1, a=2)
    read = pickles.load(write(tmp_path, pickle.dumps(ordered, protocol)))
    assert type(read) is dict and list(read.items()) == [("z", 1), ("a", 2)]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_shared_and_cyclic_values(tmp_path: Path, protocol: int) -> None:
    array = np.arange(3)
    inner: list[Any] = [array, array]
    inner.append(inner)
    read = pickles.load(write(tmp_path, pickle.dumps({"a": inner, "b": array}, protocol)))
    assert read["a"][2] is read["a"] and read["a"][0] is read["a"][1] is read["b"]
    assert np.array_equal(read["b"], array)
    read["b"][0] = 9  # arrays own their values and can be written


def test_what_python_2_writes(tmp_path: Path) -> None:
    value = {
        "labels": [3, 1],
        "data": np.arange(6, dtype=np.uint8).reshape(3, 2),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2)),
        "big": np.arange(3, dtype=">f4"),
        "name": "caf\xe9",
        "set": {1, 2},
        "one": np.float32(2.5),
        "long": "x" * 1000,
    }
    read = pickles.load(write(tmp_path, python2(value)))
    assert same(read, {**value, "big": np.arange(3, dtype="f4")})
    ordered = collections.OrderedDict([("b", 1), ("a", 2)])
    assert list(pickles.load(write(tmp_path, python2(ordered)))) == ["b", "a"]


def test_python_2s_text_protocol(tmp_path: Path) -> None:
    content = b"(dp0\nS'a\\xe9\\n'\np1\n(lp2\nI1\naI01\naL12L\naF1.5\naVb\\u4e2d\np3\nasS\"q'\"\n(I1\nI2\nts."
    read = pickles.load(write(tmp_path, content))
    assert read == {"a\xe9\n": [1, True, 12, 1.5, "b\u4e2d"], "q'": (1, 2)}
    # An array, as numpy's 1.x wrote them with protocol 0, its bytes escaped.
    content = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n"
        b"(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\xff\\x07'\ntb."
    )
    assert same(pickles.load(write(tmp_path, content)), np.array([255, 7], np.uint8))


def test_cuda_convnets_objects_become_records(tmp_path: Path) -> None:
    option = Old(
        "options.Option", name="data_path", value="/data", parser=Class("options.StringOptionParser")
    )
    gpu = Old("options.Option", name="gpu", value=[0], parser=Old("options.ListOptionParser", sepchar=","))
    new = Old("python_util.options.OptionsParser", old_style=False, options={"data_path": option, "gpu": gpu})
    read = pickles.load(write(tmp_path, python2({"op": new, "layer": Old("layer.ConvLayerParser", dic={})})))
    op = read["op"]
    assert type(op) is Record and str(op.kind) == "python_util.options.OptionsParser"
    assert op.state["options"]["data_path"].state["parser"] == Name("options", "StringOptionParser")
    assert op.state["options"]["gpu"].state["parser"].state == {"sepchar": ","}
    assert read["layer"].state == {"dic": {}}
    # Protocols 0 and 1 write objects of both kinds in their own ways.
    old = pickles.load(write(tmp_path, b"(ilayer\nFCLayerParser\n(dS'a'\nI1\nsb."))
    assert old.state == {"a": 1} and str(old.kind) == "layer.FCLayerParser"
    reconstructed = (
        b"ccopy_reg\n_reconstructor\n(clayer\nFCLayerParser\nc__builtin__\nobject\nNtR(dS'a'\nI1\nsb."
    )
    assert pickles.load(write(tmp_path, reconstructed)).state == {"a": 1}


def test_zipped_pickles(tmp_path: Path) -> None:
    value = {"layers": [np.arange(5)]}

    def zipped(members: dict[str, bytes]) -> Path:
        file = tmp_path / "zipped"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return file

    file = zipped({"data": pickle.dumps(value, 2)})
    assert same(pickles.load(file), value)
    content = file.read_bytes()
    with pytest.raises(PickleError, match="2 members"):
        pickles.load(zipped({"a": b"N.", "b": b"N."}))
    with pytest.raises(ForbiddenPickle, match="would unpack to"):
        pickles.load(zipped({"data": pickle.dumps(bytes(10**6), 2)}))
    for bad in (content[:-10], content[:40] + bytes([content[40] ^ 255]) + content[41:]):
        with pytest.raises(PickleError, match="damaged zip"):
            pickles.load(write(tmp_path, bad))


# ---- attacks ----------------------------------------------------------------------------------------------


class Call:
    """Pickled, it makes Python's own reader call `function`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_code_runs(tmp_path: Path, protocol: int) -> None:
    touched = tmp_path / "touched"
    attacks = {
        f"{os.system.__module__}.system": Call(os.system, f"touch {touched}"),
        "builtins.eval": Call(eval, f"open({str(touched)!r}, 'w')"),
        "builtins.exec": Call(exec, f"open({str(touched)!r}, 'w')"),
        "builtins.getattr": Call(getattr, Call(__import__, "os"), "system"),
        "builtins.open": Call(open, str(touched), "w"),
        "numpy.fromfile": Call(np.fromfile, str(touched)),
    }
    for name, attack in attacks.items():
        wrapped = {"data": [np.arange(3), (attack,)]}
        # Python 2's name of the module, which protocols up to 2 are written with.
        name = name.replace("builtins", "(__builtin__|builtins|io)")
        with pytest.raises(ForbiddenPickle, match=rf"file: it names '?{name}'?"):
            pickles.load(write(tmp_path, pickle.dumps(wrapped, protocol)))
        assert not touched.exists()
    # The same files are no blanks: Python's own reader runs them.
    pickle.loads(pickle.dumps(attacks[f"{os.system.__module__}.system"], protocol))  # noqa: S301
    assert touched.exists()


def test_forbidden_names(tmp_path: Path) -> None:
    for line in (
        "os\nsystem",
        "posix\nsystem",
        "subprocess\nPopen",
        "__builtin__\neval",
        "__builtin__\ngetattr",
        "__builtin__\n__import__",
        "numpy\nload",
        "numpy.core.multiarray\nfromfile",
        "numpy.testing._private.utils\nrunstring",
        "copy_reg\nadd_extension",
        "layer\nos.system",
        "layer.os\nsystem",
        "__main__\nConvNet",
        "collections\ndefaultdict",
    ):
        with pytest.raises(ForbiddenPickle, match=f"names {line.replace(chr(10), '.')}"):
            pickles.load(write(tmp_path, f"c{line}\n(S'x'\ntR.".encode()))
        module, _, name = line.partition("\n")
        stacked = b"\x80\x04" + b"".join(
            b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)
        )
        with pytest.raises(ForbiddenPickle, match=f"names {module}.{name}"):
            pickles.load(write(tmp_path, stacked + b"\x93)R."))


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
F4 = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        # calls of what is allowed, with other arguments or on other things
        (b"c__builtin__\nbytearray\n(J\xff\xff\xff\x7ftR.", "bytes made of a int"),
        (b"c__builtin__\nset\n(U\x02abtR.", "a set of a str"),
        (b"c__builtin__\nobject\n)R.", "calls __builtin__.object"),
        (b"c__builtin__\nobject\n)\x81.", "makes an object of __builtin__.object"),
        (b"cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.", "calls numpy.ndarray"),
        (b"cnumpy\nndarray\n(J\xff\xff\xff\x7ft\x81.", "makes an object of numpy.ndarray"),
        (b"(inumpy\nndarray\n.", "makes an object of numpy.ndarray"),
        (b"(U\x01ao.", "an object of no class"),
        (b"U\x01a)R.", "calls a str"),
        (b"clayer\nX\n)RR)R.", "value is missing"),
        (b"clayer\nX\n)R)R.", "calls a Record"),
        (b"c_codecs\nencode\n(U\x01aU\x05hex_4tR.", "_codecs.encode of a str as 'hex_4'"),
        (
            b"ccopy_reg\n_reconstructor\n(cnumpy\nndarray\nc__builtin__\nobject\nNtR.",
            "reconstructor of numpy",
        ),
        (b"ccopy_reg\n_reconstructor\n(clayer\nX\ncnumpy\nndarray\nNtR.", "reconstructor of a numpy.ndarray"),
        (b"clayer\nX\n)}\x92.", None),
        (b"clayer\nX\n)}(U\x01aK\x01u\x92.", "keyword arguments"),
        # changing what is no record
        (b"clayer\nX\n}U\x01aK\x01sb.", "sets the state of a Name"),
        (b"c_codecs\nencode\n}U\x08__code__K\x01sb.", "sets the state of a Name"),
        (b"]}b.", "sets the state of a list"),
        (b"clayer\nX\n)RU\x01aa.", "a list should be here, not a Record"),
        (b"clayer\nX\n)RU\x01aK\x01s.", "a dict should be here, not a Record"),
        # NumPy
        (b"cnumpy\ndtype\n(U\x02O8K\x00K\x01tR.", "element type 'O8'"),
        (b"cnumpy\ndtype\n(U\x01OtR.", "element type 'O'"),
        (b"cnumpy\ndtype\n(U\x05f4,O8tR.", "element type 'f4,O8'"),
        (b"cnumpy\ndtype\n(U\x02V8tR.", "element type 'V8'"),
        (b"cnumpy\ndtype\n(](U\x01aU\x02f4etR.", "element type a list"),
        (F4 + b"(K\x03U\x01<U\x02f4NNK\x04K\x04K\x00tb.", "has a subtype or fields"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(clayer\nX\n(K\x00tU\x01btR.", "array of the class layer.X"),
        (ARRAY + b"(K\x01(K\x01t" + F4 + b"\x89](NetbN.", "arrays of objects are not read"),
        (
            ARRAY + b"(K\x01(J\xff\xff\xff\x7ft" + F4 + b"\x89U\x04abcdtb.",
            "of 2147483647 float32 values, but",
        ),
        (ARRAY + b"(K\x01(J\xff\xff\xff\xfft" + F4 + b"\x89U\x04abcdtb.", "shape is not that of an array"),
        (ARRAY + b"(K\x01(K\x01t" + F4 + b"\x89U\x03abctb.", "of 1 float32 values, but of 3 bytes"),
        (ARRAY + b"(K\x01(K\x01tN\x89U\x03abctb.", "without a type"),
        (ARRAY + b"}b.", "state is not that of NumPy"),
        (b"cnumpy.core.multiarray\nscalar\n(" + F4 + b"U\x03abctR.", "of  float32 values, but of 3 bytes"),
        # instructions
        (b"\x82\x01.", "a registered extension"),
        (b"\x83\x01\x00.", "a registered extension"),
        (b"\x84\x01\x00\x00\x00.", "a registered extension"),
        (b"Pos.system\n.", "persistent id"),
        (b"U\x01aQ.", "persistent id"),
        (b"\x80\x05\x97.", "buffer outside the file"),
        (b"\x80\x09N.", "protocol 9"),
        (b"\xff.", "no instruction"),
        (b"(.", "value is missing"),
        (b"t.", "value is missing"),
        (b"h\x05.", "nothing has been kept at place 5"),
        (b"Np-1\n.", "place -1 of the memo"),
        (b"}(U\x01au.", "a key without a value"),
        (b"}](K\x01eK\x01s.", "a list as a key"),
        (b"}K\x01K\x02\x86K\x01s.", "a tuple as a key"),
        # sizes
        (b"T\xff\xff\xff\x7fab.", "2,147,483,647 bytes should follow"),
        (b"T\xff\xff\xff\xffab.", "a length of -1"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "bytes should follow"),
        (b"\x8b\xff\xff\xff\x7f.", "bytes should follow"),
        (b"I" + b"9" * 10000 + b"\n.", "integer string conversion"),
        (b"I12", "ends within a line"),
        (b"", "the file ends"),
        (b"N", "the file ends"),
    ],
)
def test_refused(tmp_path: Path, content: bytes, what: str | None) -> None:
    file = write(tmp_path, content)
    if what is None:
        assert isinstance(pickles.load(file), Record)
        return
    with pytest.raises(PickleError) as caught:
        pickles.load(file)
    assert str(file) in str(caught.value) and what in str(caught.value)
    assert isinstance(caught.value, DataError)


def test_a_huge_place_in_the_memo_takes_no_room(tmp_path: Path) -> None:
    assert pickles.load(write(tmp_path, b"Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.")) is None


def test_deep_nesting(tmp_path: Path) -> None:
    deep = 200_000
    for content, kind in (
        (b")" + b"\x85" * deep + b".", tuple),
        (b"]" * deep + b"a" * (deep - 1) + b".", list),
        (b"}" + b"U\x01a}" * deep + b"s" * deep + b".", dict),
        (b"clayer\nX\nq\x00)R" + b"}U\x01ah\x00)R" * deep + b"sb" * deep + b".", Record),
    ):
        read = pickles.load(write(tmp_path, content))
        assert type(read) is kind
        del read
    for hashed in (b"}" + b")" + b"\x85" * deep + b"Ns.", b"\x8f()" + b"\x85" * deep + b"\x90."):
        with pytest.raises(PickleError, match="a tuple as a"):
            pickles.load(write(tmp_path, hashed))
    # What is said of a value never writes it out.
    nested = b")" + b"\x85" * deep
    with pytest.raises(PickleError, match="element type a tuple"):
        pickles.load(write(tmp_path, b"cnumpy\ndtype\n(" + nested + b"tR."))
    with pytest.raises(PickleError, match="array of the class a tuple"):
        pickles.load(
            write(tmp_path, b"cnumpy.core.multiarray\n_reconstruct\n(" + nested + b"(K\x00tU\x01btR.")
        )


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (
            b"c_codecs\nencode\nq\x00T\xa0\x86\x01\x00" + b"x" * 100_000 + b"U\x06latin1\x86q\x01",
            b"h\x00h\x01R",
        ),
        (b"c__builtin__\nset\nq\x00](" + b"I1\n" * 50_000 + b"e\x85q\x01", b"h\x00h\x01R"),
        (
            b"cnumpy.core.multiarray\nscalar\nq\x00cnumpy\ndtype\n(U\x07S100000tR"
            b"T\xa0\x86\x01\x00" + b"x" * 100_000 + b"\x86q\x01",
            b"h\x00h\x01R",
        ),
        (
            b"clayer\nX\nq\x00}("
            + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(20_000))
            + b"uq\x01",
            b"h\x00)Rh\x01b",
        ),
    ],
    ids=["bytes", "sets", "scalars", "records"],
)
def test_copies_cannot_fill_the_memory(tmp_path: Path, first: bytes, again: bytes) -> None:
    pickles.load(write(tmp_path, first + again + b"."))
    with pytest.raises(ForbiddenPickle, match="8 times as large as the file"):
        pickles.load(write(tmp_path, first + again * 20_000 + b"."))


def checkpoint_like() -> bytes:
    state = {"epoch": 3, "layers": collections.OrderedDict(conv1={"weights": [np.ones((75, 4), np.float32)]})}
    op = Old("options.OptionsParser", options={"gpu": Old("options.Option", value=[0])})
    return python2({"model_state": state, "op": op, "label": "caf\xe9", "t": (1, 2.5, None, True)})


def test_truncated(tmp_path: Path) -> None:
    for content in (checkpoint_like(), pickle.dumps(VALUES, 4)):
        for length in range(0, len(content), 7):
            with pytest.raises(PickleError):
                pickles.load(write(tmp_path, content[:length]))


def test_random_bytes_and_mutations(tmp_path: Path) -> None:
    """Whatever the bytes are: a value or a clear error, and no code."""
    rng = random.Random(5)
    valid = [checkpoint_like(), *(pickle.dumps(VALUES, protocol) for protocol in range(6))]
    opcodes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    tries = [rng.randbytes(rng.randrange(1, 60)) for _ in range(500)]
    tries += [b"".join(rng.choices(opcodes, k=30)) + b"." for _ in range(500)]
    for number in range(1000):
        content = bytearray(valid[number % len(valid)])
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(content))
            kind = rng.randrange(4)
            if kind == 0:
                content[at] = rng.randrange(256)
            elif kind == 1:
                content[at : at + 1] = rng.choice(opcodes)
            elif kind == 2:
                del content[at : at + rng.randrange(1, 20)]
            else:
                other = rng.choice(valid)
                start = rng.randrange(len(other))
                content[at:at] = other[start : start + rng.randrange(1, 40)]
        tries.append(bytes(content))
    read = 0
    for content in tries:
        file = write(tmp_path, content)
        try:
            pickles.load(file)
            read += 1
        except PickleError as error:
            assert str(error).startswith(str(file))
    assert 0 < read < len(tries)


# ---- batches ----------------------------------------------------------------------------------------------

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


def test_cuda_convnets_batches(tmp_path: Path) -> None:
    made = make_batches(
        tmp_path, {"data_batch_1": 5, "data_batch_2": 7, "data_batch_10": 6, "x": 1}, mean=True
    )
    (tmp_path / "data_batch_10").rename(tmp_path / "data_batch_3")
    source = data.open_source(tmp_path)
    assert source.classes == ["ant", "bee", "cat"] and source.image_shape == (4, 4, 3)
    assert source.notes == [f"{tmp_path} has no test_batch: data_batch_3, the last, is used for testing"]
    check_split(source.train, [made["data_batch_1"], made["data_batch_2"]])
    check_split(source.test, [made["data_batch_10"]])
    assert source.mean is not None and source.mean.dtype == np.float32
    # A plane of red, one of green, one of blue, in rows.
    assert source.mean[0, 1].tolist() == [1, 17, 33] and source.mean[1, 0].tolist() == [4, 20, 36]


@pytest.mark.parametrize("pickled", [python2, pickle.dumps, lambda value: pickle.dumps(value, 2)])
def test_cifar10s_batches_for_python(tmp_path: Path, pickled: Callable[[Any], bytes]) -> None:
    counts = {"data_batch_1": 5, "data_batch_2": 7, "test_batch": 4}
    made = make_batches(tmp_path, counts, columns=False, pickled=pickled, mean=False)
    source = data.open_source(tmp_path)
    check_split(source.train, [made["data_batch_1"], made["data_batch_2"]])
    check_split(source.test, [made["test_batch"]])
    assert source.notes == [] and source.mean is None


@pytest.mark.parametrize("columns", [True, False])
def test_as_many_images_as_values(tmp_path: Path, columns: bool) -> None:
    """A square matrix of data does not say which side is which; the mean, which only one format has, does."""
    made = make_batches(
        tmp_path,
        {"data_batch_1": 48, "data_batch_2": 48},
        columns=columns,
        mean=columns,
        pickled=pickle.dumps,
    )
    check_split(data.open_source(tmp_path).train, [made["data_batch_1"]])


def test_other_batches(tmp_path: Path) -> None:
    """Grey images, a single batch, labels as a matrix of floats, another size."""
    labels = np.array([[0, 1, 2, 0, 1, 2] * 5], np.float32)
    made = make_batches(tmp_path, {"data_batch_4": 30}, (5, 5, 1), data_batch_4={"labels": labels})
    source = data.open_source(tmp_path)
    assert source.image_shape == (5, 5, 1) and len(source.train) + len(source.test) == 30
    assert "only one batch" in source.notes[0]
    test, test_labels = source.test.read([0])
    assert np.array_equal(test[0], made["data_batch_4"][0][12]) and test_labels[0] == 0
    assert data.open_source(tmp_path, 8).image_shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("changed", "where", "what"),
    [
        ({"data_batch_2": {"data": np.zeros((48, 7))}}, "data_batch_2", r"uint8, not float64\[48, 7\]"),
        (
            {"data_batch_2": {"data": np.zeros((47, 7), np.uint8)}},
            "data_batch_2",
            "47x7, but there are 7 labels",
        ),
        ({"data_batch_2": {"labels": [0, 1]}}, "data_batch_2", "48x7, but there are 2 labels"),
        ({"data_batch_2": {"labels": [0, 1, 2, 3, 0, 0, 0]}}, "data_batch_2", "image 3 has label 3"),
        ({"data_batch_2": {"labels": [0, 1, 2, 0, 0, 0, 0.5]}}, "data_batch_2", "image 6 has label 0.5"),
        ({"data_batch_2": {"labels": [[0, 1]] * 7}}, "data_batch_2", "one number for each image"),
        ({"data_batch_2": {"labels": [[0, 1], [2]]}}, "data_batch_2", "labels are not numbers"),
        ({"data_batch_2": {"labels": "abc"}}, "data_batch_2", "one number for each image"),
        ({"data_batch_2": {"data": ["\xff\xd8"] * 7}}, "data_batch_2", "a list .of compressed pictures"),
        ({"data_batch_2": {"data": "abc"}}, "data_batch_2", "matrix of uint8, not str"),
        ({"meta": {"label_names": []}}, "batches.meta", "label_names"),
        ({"meta": {"label_names": [1]}}, "batches.meta", "label_names"),
        ({"meta": {"num_vis": "48"}}, "batches.meta", "num_vis"),
        ({"meta": {"data_mean": [1.0]}}, "batches.meta", "data_mean is not an array"),
        ({"meta": {"data_mean": np.zeros(47)}}, "batches.meta", "data_mean has 47 values, an image 48"),
        ({"meta": {"data_mean": np.full(48, np.nan)}}, "batches.meta", "not finite"),
        (
            {"meta": {"num_vis": None}, "data_batch_1": {"data": np.zeros((50, 5), np.uint8)}},
            "data_batch_1",
            "50",
        ),
    ],
)
def test_bad_batches_are_named(tmp_path: Path, changed: dict[str, Any], where: str, what: str) -> None:
    make_batches(tmp_path, {"data_batch_1": 5, "data_batch_2": 7, "data_batch_3": 2}, **changed)
    with pytest.raises(DataError, match=rf"{where}.*{what}"):
        data.open_source(tmp_path)


def test_bad_folders_of_batches_are_named(tmp_path: Path) -> None:
    make_batches(tmp_path, {"data_batch_1": 5, "data_batch_2": 7, "data_batch_3": 2})
    batch, meta = tmp_path / "data_batch_2", tmp_path / "batches.meta"
    content = batch.read_bytes()
    for bad, what in (
        (content[:-20], "is not a sound pickle"),
        (b"", "the file ends"),
        (python2([1]), "holds a list, not a dictionary"),
        (python2({"labels": [1]}), "has no 'data'; it has labels"),
        (pickle.dumps(Call(os.system, "false"), 2), "system"),
    ):
        batch.write_bytes(bad)
        with pytest.raises(DataError, match=f"data_batch_2.*{what}"):
            data.open_source(tmp_path)
    batch.unlink()
    with pytest.raises(DataError, match="has data_batch_3 but no data_batch_2"):
        data.open_source(tmp_path)
    batch.mkdir()
    with pytest.raises(DataError, match="data_batch_2 cannot be read"):
        data.open_source(tmp_path)
    meta.unlink()
    with pytest.raises(DataError, match=r"lacks batches\.meta"):
        data.open_source(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "batches.meta").write_bytes(content)
    with pytest.raises(DataError, match="no data_batch_1"):
        data.open_source(other)
    smaller = {"data": np.zeros((12, 7), np.uint8)}
    make_batches(other, {"data_batch_1": 5, "data_batch_2": 7}, data_batch_2=smaller, meta={"num_vis": None})
    with pytest.raises(DataError, match=r"data_batch_2 has images of 2x2x3, .*data_batch_1 of 4x4x3"):
        data.open_source(other)
