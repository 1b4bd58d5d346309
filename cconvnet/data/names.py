"""Names of files and classes as people may read and compare them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC), in which names are compared.

    The same name may come in another form from another system: macOS writes an accent apart from its letter.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    """A file's name as text: what a terminal might obey, and bytes that are no text, are escaped."""
    if name.isprintable():
        return name
    return "".join(sign if sign.isprintable() else f"%{ord(sign):X}" for sign in name)


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of many names."""
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
