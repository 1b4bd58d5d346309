"""Pickles read without running them: what Python 2 and 3 write, what attackers write, cuda-convnet's batches.

Python 2's files are put together here byte by byte, as its cPickle wrote them: its strings, its module names.
"""

from __future__ import annotations

import base64
import collections
import json
import os
import pickle
import pickletools
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers.commands import run
from PIL import Image

from cconvnet import data, nets, runs
from cconvnet.data.images import DataError
from cconvnet.formats import cuda_convnet_checkpoint, cuda_convnet_writer, pickles
from cconvnet.formats.pickles import ForbiddenPickle, Name, PickleError, Record
from cconvnet.runs.checkpoint import CheckpointError

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
    expected = {**value, "big": np.arange(3, dtype="f4")}
    assert same(pickles.load(write(tmp_path, python2(value))), expected)
    # What is put together here is a pickle for Python's own reader too.
    assert same(pickle.loads(python2(value), encoding="latin1"), expected)  # noqa: S301
    ordered = collections.OrderedDict([("b", 1), ("a", 2)])
    assert list(pickles.load(write(tmp_path, python2(ordered)))) == ["b", "a"]


# What cPickle of Python 2.7.18 itself wrote with protocols 0, 1 and 2, between lines of a zero byte: the
# values of test_python_2_itself as Python 2 has them (an OrderedDict, a set, an xrange, text as unicode), and
# objects of classes in modules called layer (a new-style class) and options (old-style ones).
FROM_PYTHON_2 = (
    "c-oDUOK;mo5XVL9;dt_D-mm6SI}X=L6L3jNwoWzB!iFIuEo^Mig9TwpF_H>K<d9+@9|*LEHf_I4@4fZVuhL6z{RZvqQg&j?3`&S1"
    "IXln){8&Hcuy2O)Fi1>@ZSeglKI|pI0O-$;#_1%<{7IBR>;Ut%AAA{&-|ninZ)B3vckF`S>v`EIoQ%f39z@=Efj@z`2`?vmaSK>K"
    "UZ*1ckxwNy)Mpz~FWooOU_usdoeU={896W(#@vP-2PCE84p4+ARluow-r*#WNg@yFs0r*<<zGD#9X{tKsMwZ@eI3d{s>0WS?N}Uk"
    "EQ=b9`Gz`7<(ojAwSlVI77SV-)lEm#^@(zR^d=62DXB$0ZgJSMRSnx#X`;ST(NQvnA&D>|1>x(YA0$EltC14LcJ*L(Qx|Gcr=AIN"
    "hl7;LpoF3s<(B=TNhXz8_ZLRvflA$mUCuYGW}CNcYn`vVoI94|+U~BN!i4>0U%oz=2JM5fxlCKLlsz-y)j{S4c3*u>PYpCp<aiK}"
    "FIU1S!Kodp>=Yx#RM(;HkD_=sPw_n3zT>KuI!#c%`a}ijwL5B@L7XYW##{z6ww0G_kyos<k)z8=;hEq5BpHndh4(RRx~p-qFV}&A"
    "qXl{^!%SOTC9K<|^%k-cY4m#m70A(GqOKXng;LP5TE;on&cYn)L^(EcTohG89M9#cC#nQ7F3n+$z`A(8Q>DG)1+m~syjVgqUSi)?"
    "D|G$&hgh7kOhK1LU1N-&e1Nd1DSGir7q7BmW7r6U;h#w?USr!|{8Q1__Ga;{P}b{WA?o9eQfToewS9~3+e{c<#|XN3hu-A&X06B("
    "1eE2js3}VEUMZo%NJWG2{2NUCR2Z3_@UP#06UOu`An`uyR65m;LCGIbi!nZA{@D=XqX<9Caak<R&T%Ej$D&H?;p*uiz$X!!IWi_1"
    "1$MahG34;6s43p?*>F|VHE8&G7oV%{j385dWs0xw7fupZLQ!??2dw2-FK}rb<FYu9%egKt5iLLNA!u68m(g-z4wj$x@Zu3Hmwx``"
    "<+~Xrm%GHyur{ofQ*vb<63TW}LvpPglIvZ(L5$oyX5`i>Mre%NGe++Gx-`pN+5C`-yZ?iVdj%Bl_J|<`#r;w!9z^&s$4Bp>(1>U#"
    "R_3929N}t?Pu@deeiRBegJNyCas<WGE<QT}#eYqeK{)"
)


def test_python_2_itself(tmp_path: Path) -> None:
    plain = {
        "od": {"b": 1, "a": 2.5},
        "u": "\u4e2d",
        "s": "caf\xe9\n'",
        "set": {3},
        "long": 2**70,
        "flags": (True, False, None),
        "x": range(3),
        "c": 1 + 2j,
        "ba": bytearray(b"\x00\xff"),
    }
    for content in zlib.decompress(base64.b85decode(FROM_PYTHON_2)).split(b"\n\0\n"):
        read = pickles.load(write(tmp_path, content))
        assert all(same(read[key], value) for key, value in plain.items())
        assert str(read["layer"].kind) == "layer.ConvLayerParser" and read["layer"].state == {"dic": {}}
        assert read["same"][0] is read["same"][1] is read["layer"]
        option = read["op"].state["options"]["gpu"].state
        assert option == {"name": "gpu", "value": [0, 1], "parser": Name("options", "StringOptionParser")}


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
        (ARRAY + b"(K\x01(M\xff\xffM\xff\xffK\x00t" + F4 + b"\x89U\x00tb.", "without elements, but huge"),
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
    assert source.notes == [
        f"{tmp_path} has no test_batch: data_batch_3, the last, is used for testing",
        f"the mean image is data_mean of {tmp_path / 'batches.meta'}",
    ]
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
    assert any("only one batch" in note for note in source.notes)
    test, test_labels = source.test.read([0])
    assert np.array_equal(test[0], made["data_batch_4"][0][12]) and test_labels[0] == 0
    # The mean of the files is that of images of their size.
    smaller, unchanged = (data.open_source(tmp_path, size) for size in (8, 5))
    assert smaller.image_shape == (8, 8, 1) and smaller.mean is None
    assert unchanged.mean is not None and unchanged.mean.shape == (5, 5, 1)


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
        ({"data_batch_2": {"data": ["\xff\xd8"] * 7}}, "data_batch_2", "a list, as of compressed pictures"),
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
    with pytest.raises(DataError, match=r"data_batch_2 is a folder.*train/CLASS"):
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


# ---- checkpoints ------------------------------------------------------------------------------------------


def conv_layer(
    name: str, rng: np.random.Generator, rows: int, k: int, biases: int, **more: Any
) -> dict[str, Any]:
    """A layer as a checkpoint holds it; fc layers give more['type']."""
    kind = more.get("type", "conv")
    shape = (1, biases) if kind == "fc" else (biases, 1)

    def matrix(*sizes: int) -> npt.NDArray[np.float32]:
        drawn = rng.standard_normal(sizes, dtype=np.float32)
        return np.asfortranarray(drawn) if kind == "fc" else drawn

    return {
        "name": name,
        "type": "conv",
        "weights": [matrix(rows, k)],
        "weightsInc": [matrix(rows, k)],
        "biases": matrix(*shape),
        "biasesInc": matrix(*shape),
        **more,
    }


def checkpoint(layers: Any, pickled: Callable[[Any], bytes] = python2) -> bytes:
    op = Old("options.OptionsParser", options={"gpu": Old("options.Option", value=[0])})
    state = {"layers": layers, "epoch": 12, "batchnum": 3, "train_outputs": [({"logprob": [1.5, 0.2]}, 128)]}
    return pickled({"model_state": state, "op": op})


def test_layouts() -> None:
    """Each weight of a convolution, a local layer and an fc layer against the sums that define them there."""
    rng = np.random.default_rng(0)
    c, r, s, k, p, q, groups = 4, 3, 3, 6, 2, 2, 2
    conv = conv_layer("conv", rng, c // groups * r * s, k, k)
    local = conv_layer("local", rng, p * q * c * r * s, k, k * p * q, type="local")
    fc = conv_layer("fc", rng, c * 5 * 7, k, k, type="fc")
    two = conv_layer("two", rng, 8, k, k, type="fc")
    for key in ("weights", "weightsInc"):
        two[key].append(rng.standard_normal((2 * 3 * 4, k), dtype=np.float32))
    unshared = conv_layer("unshared", rng, c * r * s, k, k * p * q, sharedBiases=0)
    shapes = {
        "conv.weight": (k, r, s, c // groups),
        "conv.bias": (k,),
        "local.weight": (p, q, k, r, s, c),
        "local.bias": (p, q, k),
        "fc.weight": (k, 5 * 7 * c),
        "fc.bias": (k,),
        "two.weight.0": (k, 8),
        "two.weight.1": (k, 24),
        "two.bias": (k,),
        "unshared.weight": (k, r, s, c),
        "unshared.bias": (p, q, k),
    }
    images = {"fc": [(5, 7, c)], "two": [(1, 1, 8), (3, 4, 2)]}
    tensors = cuda_convnet_checkpoint.weights_for(shapes, [conv, local, fc, two, unshared], images)
    assert {name: t.shape for name, t in tensors.items()} == {
        name + suffix: shape for name, shape in shapes.items() for suffix in ("", ".velocity")
    }
    assert all(t.dtype == np.float32 and t.flags.c_contiguous for t in tensors.values())

    for suffix, weights, biases in (("", "weights", "biases"), (".velocity", "weightsInc", "biasesInc")):
        for f, y, x, ch in np.ndindex(k, r, s, c):
            if ch < c // groups:
                assert (
                    tensors[f"conv.weight{suffix}"][f, y, x, ch] == conv[weights][0][(ch * r + y) * s + x, f]
                )
            for m, n in np.ndindex(p, q):
                row = (((m * q + n) * c + ch) * r + y) * s + x
                assert tensors[f"local.weight{suffix}"][m, n, f, y, x, ch] == local[weights][0][row, f]
        for f, m, n in np.ndindex(k, p, q):
            assert tensors[f"local.bias{suffix}"][m, n, f] == local[biases][(f * p + m) * q + n, 0]
            assert tensors[f"unshared.bias{suffix}"][m, n, f] == unshared[biases][(f * p + m) * q + n, 0]
            assert tensors[f"fc.bias{suffix}"][f] == fc[biases][0, f]
            assert tensors[f"conv.bias{suffix}"][f] == conv[biases][f, 0]
        # What an fc layer puts out: there of an image as planes, here of its pixels.
        for name, index, image in (
            ("fc.weight", 0, rng.integers(-9, 9, (5, 7, c))),
            ("two.weight.1", 1, rng.integers(-9, 9, (3, 4, 2))),
        ):
            there = (
                image.transpose(2, 0, 1).reshape(-1)
                @ {"fc": fc, "two": two}[name.split(".")[0]][weights][index]
            )
            here = tensors[name + suffix] @ image.reshape(-1)
            np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-4)
        assert np.array_equal(tensors[f"two.weight.0{suffix}"], two[weights][0].T)


def test_old_checkpoints_of_one_matrix_per_layer() -> None:
    rng = np.random.default_rng(0)
    layer = conv_layer("fc", rng, 8, 3, 3, type="fc")
    matrix = layer["weights"][0]
    layer["weights"] = matrix
    del layer["weightsInc"], layer["biasesInc"]
    tensors = cuda_convnet_checkpoint.weights_for({"fc.weight": (3, 8), "fc.bias": (3,)}, [layer], {})
    assert np.array_equal(tensors["fc.weight"], matrix.T)
    assert not tensors["fc.weight.velocity"].any() and tensors["fc.bias.velocity"].shape == (3,)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"name": "conv2"}, r"one of conv2, not 'conv1'; did you mean 'conv2'"),
        ({"type": "local"}, "layer conv1 is of type 'local' there, 'conv' here"),
        ({"weights": [np.zeros((74, 8), np.float32)]}, "conv1: .*74x8 there; the 8x5x5x3 here would be 75x8"),
        ({"weights": []}, "conv1 has no weights of input 0"),
        ({"weights": None}, "conv1 has no weights of input 0"),
        ({"weights": [[1.0]]}, "conv1: its weights of input 0 are no matrix of floats"),
        ({"weights": [np.zeros((75, 8), np.int32)]}, "no matrix of floats"),
        ({"weights": [np.full((75, 8), np.nan, np.float32)]}, "conv1: its weight is not finite"),
        ({"weightsInc": [np.zeros((75, 9), np.float32)]}, "75x9 there"),
        ({"weights": [np.zeros((75, 8), np.float32)] * 2}, "conv1 has 2 weight tensors there, 1 in this"),
        (
            {"biases": np.zeros((8, 2), np.float32)},
            "conv1: its biases are 8x2 there; the 8 here would be 8x1",
        ),
        ({"biases": None}, "conv1: its biases are no matrix"),
        ({"randSparse": [True]}, "conv1 has random sparse connections"),
    ],
)
def test_weights_that_do_not_fit(changed: dict[str, Any], what: str) -> None:
    layer = {**conv_layer("conv1", np.random.default_rng(0), 75, 8, 8), **changed}
    with pytest.raises(CheckpointError, match=what):
        cuda_convnet_checkpoint.weights_for({"conv1.weight": (8, 5, 5, 3), "conv1.bias": (8,)}, [layer], {})


def test_layers_that_the_network_lacks() -> None:
    rng = np.random.default_rng(0)
    layers = [conv_layer("conv1", rng, 75, 8, 8), {"name": "pool1", "type": "pool"}]
    shapes = {"conv1.weight": (8, 5, 5, 3), "conv1.bias": (8,)}
    assert len(cuda_convnet_checkpoint.weights_for(shapes, layers, {})) == 4
    layers.append(conv_layer("conv2", rng, 75, 8, 8))
    with pytest.raises(CheckpointError, match="conv2 has 1 weight tensors there, 0 in this network"):
        cuda_convnet_checkpoint.weights_for(shapes, layers, {})


def test_reading_checkpoints(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [{"name": "data", "type": "data"}, conv_layer("fc", rng, 8, 3, 3, type="fc")]
    layers[1]["inputLayers"] = [layers[0]]
    by_name = collections.OrderedDict((layer["name"], layer) for layer in layers)
    for content in (checkpoint(layers), checkpoint(by_name), checkpoint({"a": layers[0], "b": layers[1]})):
        read = cuda_convnet_checkpoint.read_checkpoint(write(tmp_path, content))
        assert [layer["name"] for layer in read] == ["data", "fc"]
        assert same(read[1]["weights"], layers[1]["weights"])
    # Of a folder the last counts, and 10 comes after 9.
    folder = tmp_path / "ConvNet__2012"
    folder.mkdir()
    for name, epoch in (("9.2", 1), ("10.1", 2), ("10.10", 3), ("10.9", 4), ("notes.txt", 5)):
        write(folder, checkpoint([{"name": f"layer{epoch}", "type": "data"}]), name)
    assert cuda_convnet_checkpoint.read_checkpoint(folder)[0]["name"] == "layer3"

    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=r"empty has no checkpoint of cuda-convnet"):
        cuda_convnet_checkpoint.read_checkpoint(empty)
    for content, what in (
        (python2([1]), "has no model_state with layers"),
        (python2({"model_state": 1}), "has no model_state with layers"),
        (checkpoint([]), "has no model_state with layers"),
        (checkpoint([{"name": "x"}]), "layer 0 has no name or no type"),
        (checkpoint([3]), "layer 0 has no name or no type"),
    ):
        with pytest.raises(CheckpointError, match=f"file.*{what}"):
            cuda_convnet_checkpoint.read_checkpoint(write(tmp_path, content))
    with pytest.raises(ForbiddenPickle, match="system"):
        cuda_convnet_checkpoint.read_checkpoint(write(tmp_path, pickle.dumps(Call(os.system, "false"), 2)))


def quick_layers() -> list[dict[str, Any]]:
    """The layers of cuda-convnet's network that is here called cifar-quick, for 3 classes, at random."""
    rng = np.random.default_rng(1)
    layers = [
        conv_layer("conv1", rng, 75, 32, 32, outputs=32 * 32 * 32),
        conv_layer("conv2", rng, 25 * 32, 32, 32, outputs=16 * 16 * 32),
        conv_layer("conv3", rng, 25 * 32, 64, 64, outputs=8 * 8 * 64),
        conv_layer("fc64", rng, 4 * 4 * 64, 64, 64, type="fc", outputs=64),
        conv_layer("fc10", rng, 64, 3, 3, type="fc", outputs=3),
    ]
    for layer, scale in zip(layers, (0.01, 0.02, 0.03, 0.03, 0.01), strict=True):
        for key in ("weights", "weightsInc"):
            layer[key] = [matrix * np.float32(scale) for matrix in layer[key]]
        layer["biases"] *= np.float32(0.1)
        layer["biasesInc"] *= np.float32(0.001)
    return [{"name": "data", "type": "data"}, *layers]


def quick_probabilities(layers: list[dict[str, Any]], planes: npt.NDArray[np.float64]) -> Any:
    """What that network says of images[n, channel, y, x], computed in cuda-convnet's layouts with loops."""
    by_name = {layer["name"]: layer for layer in layers}

    def conv(name: str, x: Any) -> Any:
        n, channels, height, width = x.shape
        padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
        filters = by_name[name]["weights"][0].astype(np.float64).reshape(channels, 5, 5, -1)
        y = np.zeros((n, filters.shape[-1], height, width))
        for r, s in np.ndindex(5, 5):
            y += np.einsum("nchw,ck->nkhw", padded[:, :, r : r + height, s : s + width], filters[:, r, s])
        return np.maximum(y + by_name[name]["biases"].reshape(1, -1, 1, 1), 0)

    def pool(x: Any, kind: Any) -> Any:
        side = x.shape[2]
        half = range(0, side, 2)
        return np.stack(
            [np.stack([kind(x[:, :, i : i + 3, j : j + 3], axis=(2, 3)) for j in half], -1) for i in half], -2
        )

    x = pool(conv("conv1", planes), np.max)
    x = pool(conv("conv2", x), np.mean)
    x = pool(conv("conv3", x), np.mean).reshape(len(planes), -1)
    x = np.maximum(x @ by_name["fc64"]["weights"][0] + by_name["fc64"]["biases"], 0)
    x = x @ by_name["fc10"]["weights"][0] + by_name["fc10"]["biases"]
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def command(*arguments: object, code: int = 0) -> str:
    """Runs the command here; returns what it wrote, to standard error where it failed."""
    done = run(*arguments, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_import(tmp_path: Path) -> None:
    """An imported run is tested, predicts and trains on as cuda-convnet would with these weights."""
    batches = tmp_path / "batches"
    batches.mkdir()
    made = make_batches(batches, {"data_batch_1": 30, "data_batch_2": 20}, (32, 32, 3))
    layers = quick_layers()
    layers[2]["weightSourceLayers"], layers[3]["weightSourceLayers"] = [""], ["conv2"]
    file = write(tmp_path, checkpoint(layers), "12.3")
    out = tmp_path / "run"
    said = command("import", file, "--net", "cifar-quick", "--data", batches, "--out", out, "--batch", 10)
    assert "shared weights (conv3) become each layer's own" in said and f"files: {out}" in said

    stored = runs.find_checkpoint(out)[1]
    assert stored.step == 0
    mean = np.arange(3072, dtype=np.float32).reshape(3, 32, 32)
    assert np.array_equal(stored.tensors["data.mean"], mean.transpose(1, 2, 0))
    images, labels = made["data_batch_2"]
    planes = images.transpose(0, 3, 1, 2) - mean.astype(np.float64)
    expected = quick_probabilities(layers, planes)
    report = tmp_path / "report.json"
    command("evaluate", "--run", out, "--device", "cpu:0", "--json", report)
    result = json.loads(report.read_text())
    loss = -np.log(expected[np.arange(len(labels)), labels]).mean()
    assert result["images"] == 20
    assert result["test_error_top1"] == pytest.approx(np.mean(expected.argmax(axis=1) != labels))
    assert result["test_loss"] == pytest.approx(loss, rel=1e-3)

    picture = tmp_path / "picture.png"
    Image.fromarray(images[0]).save(picture)
    command("predict", "--run", out, "--device", "cpu:0", "--json", report, picture)
    (seen,) = json.loads(report.read_text())
    found = {entry["class"]: entry["probability"] for entry in seen["classes"]}
    assert [found[name] for name in ("ant", "bee", "cat")] == pytest.approx(expected[0].tolist(), abs=1e-3)

    velocity = stored.tensors["conv2.weight.velocity"]
    assert velocity[3, 1, 2, 7] == layers[2]["weightsInc"][0][(7 * 5 + 1) * 5 + 2, 3]
    command("train", "--resume", out, "--device", "cpu:0", "--steps", 2)
    assert runs.find_checkpoint(out)[1].step == 2


def test_import_with_the_network_in_files(tmp_path: Path) -> None:
    """The configuration files name the layers as the checkpoint does."""
    batches, configuration = tmp_path / "batches", tmp_path / "configuration"
    batches.mkdir()
    make_batches(batches, {"data_batch_1": 30, "data_batch_2": 20}, (32, 32, 3))
    files = [configuration / name for name in ("layers.cfg", "layer-params.cfg")]
    cuda_convnet_writer.write(nets.build("cifar-quick", classes=3), *files)
    options = ["--data", batches, "--batch", 10, "--layer-def", files[0], "--layer-params", files[1]]
    layers = quick_layers()
    command("import", write(tmp_path, checkpoint(layers), "1.1"), *options, "--out", tmp_path / "run")
    stored = runs.find_checkpoint(tmp_path / "run")[1]
    assert stored.spec["name"] == "configuration"
    assert stored.tensors["conv1.bias"].tolist() == layers[1]["biases"].ravel().tolist()
    error = command("import", tmp_path / "1.1", "--data", batches, "--out", tmp_path / "none", code=2)
    assert "the network is needed: --net, or --layer-def and --layer-params" in error
    layers[1]["name"] = "first"
    wrong = write(tmp_path, checkpoint(layers), "1.2")
    assert f"does not fit {files[0]}: " in command("import", wrong, *options, code=2)


def test_import_refuses(tmp_path: Path) -> None:
    batches = tmp_path / "batches"
    batches.mkdir()
    make_batches(batches, {"data_batch_1": 30, "data_batch_2": 20}, (32, 32, 3))
    file, out = tmp_path / "file", tmp_path / "run"
    arguments = ("import", file, "--data", batches, "--out", out, "--batch", 10)
    layers = quick_layers()
    layers[2]["outputs"] = 8 * 8 * 32
    for content, net, what in (
        (checkpoint(quick_layers()), "lenet", "does not fit lenet: layer conv1 puts out 32,768 values there"),
        (checkpoint(layers), "cifar-quick", "layer conv2 puts out 2,048 values there, 16x16x32 here"),
        (checkpoint(quick_layers()[:4]), "cifar-quick", "not 'fc64'"),
        (pickle.dumps(Call(os.system, f"touch {tmp_path}/touched"), 2), "cifar-quick", "system"),
        (b"no pickle", "cifar-quick", "is not a sound pickle"),
    ):
        file.write_bytes(content)
        said = command(*arguments, "--net", net, code=2)
        assert what in said and str(file) in said and "Traceback" not in said
        assert not out.exists() and not (tmp_path / "touched").exists()
    assert "--format must be cuda-convnet" in command(*arguments, "--net", "lenet", "--format", "x", code=2)
    file.unlink()
    assert "No such file" in command(*arguments, "--net", "lenet", code=1)
