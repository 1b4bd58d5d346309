"""INI files whose values know their lines, so that errors can name them.

Python's own configparser reads the same files but forgets the lines. The rules are those of the parser that
cuda-convnet used: ``key=value`` or ``key: value``, keys in any case, ``#`` and ``;`` begin a comment at the
start of a line, ``;`` after a blank also behind a value, and an indented line continues the value above.
As there, a second section of the same name continues the first, and of a key that comes twice the last
counts; ``Section.repeats`` has a line for each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", int, float, bool)

_SECTION = re.compile(r"\[([^]]*)\]\s*([#;].*)?$")
_VALUE = re.compile(r"([^:=]*?)\s*[:=]\s*(.*)$")
_BOOLEANS = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False}
_BOOLEANS["off"] = False
_KINDS = {int: "an integer", float: "a number", bool: "true or false"}


class ConfigError(ValueError):
    """A configuration that cannot be used. The text has file, line, layer, fault and remedy."""


@dataclass
class Value:
    """A value as the file spells it."""

    key: str  # as the file spells it
    text: str
    line: int


@dataclass
class Section:
    """The values under one ``[name]``, by their keys in lower case.

    The readers below raise :class:`ConfigError` where a value is not what is asked for, or is not there and
    no default is given.
    """

    file: Path
    name: str
    line: int
    values: dict[str, Value] = field(default_factory=dict)
    repeats: list[str] = field(default_factory=list)

    def __contains__(self, key: str) -> bool:
        return key.lower() in self.values

    def error(self, text: str, key: str = "") -> ConfigError:
        """Return an error about `key`, or about the section where it has no such key."""
        value = self.values.get(key.lower())
        return ConfigError(f"{self.file}:{value.line if value else self.line}: layer {self.name}: {text}")

    def text(self, key: str, default: str | None = None) -> str:
        """Return a value as text."""
        value = self.values.get(key.lower())
        if value is not None:
            return value.text
        if default is None:
            raise self.error(f"{key} is missing")
        return default

    def value(self, key: str, kind: type[T], default: T | None = None, low: float | None = None) -> T:
        """Return one integer, number or boolean, at least `low`."""
        if key not in self and default is not None:
            return default
        return self.convert(key, self.text(key), kind, low)

    def values_of(
        self, key: str, kind: type[T], count: int, default: T | None = None, low: float | None = None
    ) -> list[T]:
        """Return a comma-separated list of `count` values, one for each input of the layer."""
        if key not in self and default is not None:
            return [default] * count
        parts = self.text(key).split(",")
        if len(parts) != count:
            raise self.error(f"{key} must have one value per input, {count}, not {len(parts)}", key)
        return [self.convert(key, part.strip(), kind, low) for part in parts]

    def convert(self, key: str, text: str, kind: type[T], low: float | None, where: str = "") -> T:
        """Convert a text to an integer, number or boolean, at least `low`.

        An error is about `where`, or `key`.
        """
        try:
            if "_" in text:  # Python's way to group digits
                raise ValueError
            value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
            if not math.isfinite(value):
                raise ValueError
        except (ValueError, KeyError):
            raise self.error(f"{key} must be {_KINDS[kind]}, not {text!r}", where or key) from None
        if low is not None and value < low:
            raise self.error(f"{key} must be at least {low:g}, not {text}", where or key)
        return value


def read_sections(path: Path) -> dict[str, Section]:
    """Read the sections of a file, by name, in its order.

    Raises:
        ConfigError: Where the file is not made of sections and values, OSError where it cannot be read.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text in UTF-8: {error.reason}") from None
    return _parse(path, lines)


def _parse(path: Path, lines: Iterable[str]) -> dict[str, Section]:
    sections: dict[str, Section] = {}
    section: Section | None = None
    value: Value | None = None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        if line[0].isspace() and value is not None:
            value.text = f"{value.text} {_without_comment(text)}".strip()
            continue
        header = _SECTION.match(text)
        if header:
            name = header.group(1).strip()
            if not name:
                raise ConfigError(f"{path}:{number}: a section needs a name")
            section = sections.setdefault(name, Section(path, name, number))
            if section.line != number:
                section.repeats.append(
                    f"{path}:{number}: a second section [{name}] continues the first, line {section.line}"
                )
            value = None
            continue
        match = _VALUE.match(text)
        if not match or not match.group(1):
            raise ConfigError(f"{path}:{number}: must be [name], key=value or a comment, not {text!r}")
        key = match.group(1)
        if section is None:
            raise ConfigError(f"{path}:{number}: {key} is before the first section")
        if key in section:
            before = section.values[key.lower()]
            section.repeats.append(
                f"{path}:{number}: layer {section.name}: {key} replaces {before.text!r} of line {before.line}"
            )
        value = section.values[key.lower()] = Value(key, _without_comment(match.group(2)), number)
    return sections


def _without_comment(text: str) -> str:
    text = re.split(r"(?:^|\s);", text, maxsplit=1)[0].strip()
    return "" if text == '""' else text
