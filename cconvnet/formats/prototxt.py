"""Protobuf's text format, in which Caffe describes networks, with the line of each value.

A text consists of fields, ``name: value`` and ``name { fields }``; a field may occur many times. Nothing is
evaluated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cconvnet.errors import DataError, nearest

MAX_BYTES = 16 << 20  # of a text; that of ResNet-152 has 200 kB
_MAX_DEPTH = 32
_TOKEN = re.compile(
    r"""(?P<blank>[\s,;]+|\#[^\n]*)|(?P<word>[A-Za-z0-9_.+\-]+)|(?P<mark>[:{}<>\[\]])
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')""",
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}
_FLAGS = {"true": True, "false": False, "t": True, "f": False, "1": True, "0": False}


@dataclass(frozen=True)
class Word:
    """A value that is no message: as it is written, without quotes."""

    text: str
    line: int


@dataclass
class Block:
    """The fields of a message, by name.

    Attributes:
        file: the file, for errors.
        line: where it begins.
        fields: the values of each field, in order.
    """

    file: Path
    line: int
    fields: dict[str, list[Word | Block]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def error(self, text: str, name: str = "") -> DataError:
        """Return an error about a field, or about the message if it has no such field."""
        line = self.fields[name][0].line if name in self.fields else self.line
        return DataError(f"{self.file}:{line}: {text}")

    def check(self, known: Iterable[str], what: str) -> None:
        """Refuse fields that are not known.

        Raises:
            DataError: naming the first, and the nearest that is known.
        """
        for name in self.fields:
            if name not in known:
                raise self.error(nearest(f"a field of {what}", name, known), name)

    def blocks(self, name: str) -> list[Block]:
        """Return the messages of a field."""
        found = self.fields.get(name, [])
        if not all(isinstance(one, Block) for one in found):
            raise self.error(f"{name} must be a message in brackets", name)
        return [one for one in found if isinstance(one, Block)]

    def block(self, name: str) -> Block:
        """Return the message of a field, an empty one if there is none."""
        found = self.blocks(name)
        return found[-1] if found else Block(self.file, self.line)

    def texts(self, name: str) -> list[str]:
        """Return the values of a field as they are written."""
        found = self.fields.get(name, [])
        if not all(isinstance(one, Word) for one in found):
            raise self.error(f"{name} must be a value, not a message", name)
        return [one.text for one in found if isinstance(one, Word)]

    def text(self, name: str, default: str = "") -> str:
        """Return the value of a field as it is written."""
        found = self.texts(name)
        return found[-1] if found else default

    def integers(self, name: str) -> list[int]:
        """Return whole numbers."""
        found = self.texts(name)
        if not all(re.fullmatch(r"-?[0-9]{1,18}", text) for text in found):
            raise self.error(f"{name} must be a whole number, not {' '.join(found)}", name)
        return [int(text) for text in found]

    def integer(self, name: str, default: int) -> int:
        """Return a whole number."""
        found = self.integers(name)
        return found[-1] if found else default

    def reals(self, name: str) -> list[float]:
        """Return finite numbers."""
        found = self.texts(name)
        try:
            numbers = [float(text.rstrip("fF")) for text in found]
        except ValueError:
            numbers = [math.nan]
        if not all(map(math.isfinite, numbers)):
            raise self.error(f"{name} must be a number, not {' '.join(found)}", name)
        return numbers

    def real(self, name: str, default: float) -> float:
        """Return a finite number."""
        found = self.reals(name)
        return found[-1] if found else default

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        text = self.text(name, str(default).lower())
        if text.lower() not in _FLAGS:
            raise self.error(f"{name} must be true or false, not {text}", name)
        return _FLAGS[text.lower()]

    def choice(self, name: str, default: str, allowed: Iterable[str]) -> str:
        """Return one of the allowed words."""
        text = self.text(name, default)
        if text not in allowed:
            raise self.error(nearest(name, text, allowed), name)
        return text


def read(path: Path) -> Block:
    """Read a file.

    Raises:
        DataError: naming the line that is no protobuf text.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder' if path.is_dir() else 'there is no such file'}")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES >> 20} MiB, so it describes no network")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text in UTF-8") from error
    tokens = _tokens(path, text)
    root = Block(path, 1)
    _fill(root, tokens, "", 0)
    return root


def _tokens(path: Path, text: str) -> Iterator[tuple[str, str, int]]:
    """Yield kind, text and line of each token, and an empty one at the end."""
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise DataError(f"{path}:{line}: unexpected {text[at]!r}")
        kind, token = str(found.lastgroup), found[0]
        if kind != "blank":
            yield kind, token, line
        line += token.count("\n")
        at = found.end()
    yield "end", "", line


def _fill(block: Block, tokens: Iterator[tuple[str, str, int]], closing: str, depth: int) -> None:
    """Read fields up to the closing bracket."""
    if depth > _MAX_DEPTH:
        raise block.error(f"messages are nested more than {_MAX_DEPTH} deep")
    for kind, name, line in tokens:
        if name == closing and kind in ("mark", "end"):
            return
        if kind != "word":
            missing = (
                f"{closing!r} is missing" if kind == "end" else f"a field's name, not {name}, is expected"
            )
            raise DataError(f"{block.file}:{line}: {missing}")
        values = block.fields.setdefault(name, [])
        kind, token, line = next(tokens)
        colon = token == ":"
        if colon:
            kind, token, line = next(tokens)
        if kind == "mark" and token in _CLOSING:
            values.append(Block(block.file, line))
            inner = values[-1]
            assert isinstance(inner, Block)
            _fill(inner, tokens, _CLOSING[token], depth + 1)
        elif kind == "mark" and token == "[" and colon:
            for kind, token, line in tokens:
                if token == "]":
                    break
                values.append(_word(block, kind, token, line))
        elif colon:
            values.append(_word(block, kind, token, line))
        else:
            raise DataError(
                f"{block.file}:{line}: {name} needs a colon and a value, or a message in brackets"
            )


def _word(block: Block, kind: str, token: str, line: int) -> Word:
    """Return a value."""
    if kind not in ("word", "text"):
        raise DataError(f"{block.file}:{line}: a value is expected, not {token or 'the end'}")
    if kind == "word":
        return Word(token, line)
    return Word(re.sub(r"\\(.)", r"\1", token[1:-1]), line)
