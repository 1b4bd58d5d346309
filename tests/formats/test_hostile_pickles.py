"""Pickles that would run code, fill the memory or are damaged: all refused."""

from __future__ import annotations

import collections
import os
import pickle
import pickletools
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.pickled import VALUES, Call, Old, python2, write

from cconvnet.errors import DataError
from cconvnet.formats import pickles
from cconvnet.formats.pickles import ForbiddenPickle, PickleError, Record


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
