"""Names of files and classes, in a form for comparing and for printing."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), in which names are compared.

    Another system may write the same name in another form: macOS stores an accent separately from its letter.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    """Escape control characters and undecodable bytes in a file's name, which might disturb a terminal."""
    if name.isprintable():
        return name
    return "".join(sign if sign.isprintable() else f"%{ord(sign):X}" for sign in name)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Join the first names of a long list."""
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
