"""Pickles of Python 2 and 3, read without running them."""

from __future__ import annotations

import base64
import collections
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.pickled import VALUES, Class, Old, python2, same, write

from cconvnet.formats import pickles
from cconvnet.formats.pickles import ForbiddenPickle, Name, PickleError, Record


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
