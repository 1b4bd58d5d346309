"""The record of a run's data, ``data.json``: the account of its images and the unreadable ones."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from cconvnet.data import Skipped, Source
from cconvnet.system import outputs

FILE = "data.json"
SHOWN = 5


class DataRecord:
    """The file ``data.json`` of a run.

    In a resumed run the unreadable images that were found before are kept.

    Attributes:
        path: The file.
    """

    def __init__(self, run: Path, source: Source) -> None:
        self.path = run / FILE
        self._source = source
        self._known: dict[tuple[str, str], Skipped] = {}
        for one in read_data(run).get("unreadable", []):
            with contextlib.suppress(TypeError):
                skipped = Skipped(**one)
                self._known[skipped.split, skipped.file] = skipped
        self._written = False

    def update(self) -> list[Skipped]:
        """Write the file if there is anything new.

        Returns:
            The images newly found unreadable.

        Raises:
            OSError: The file cannot be written.
        """
        found = {(one.split, one.file): one for one in self._source.unreadable()}
        new = [one for key, one in found.items() if key not in self._known]
        self._known.update(found)
        if new or not self._written:
            account = self._source.account
            values = {
                "name": self._source.name,
                "fingerprints": self._source.fingerprints,
                "account": None if account is None else account.as_json(),
                "notes": self._source.notes,
                "unreadable": [vars(one) for one in self._known.values()],
            }
            outputs.write_json(self.path, values)
            self._written = True
        return new


def read_data(run: Path) -> dict[str, Any]:
    """Read a run's ``data.json``; the values are empty if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        values = json.loads((run / FILE).read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
    return {}


def account_lines(source: Source) -> list[str]:
    """Return lines for people on the images that were found, used and left out."""
    return source.account.lines() if source.account is not None else []


def unreadable_lines(found: list[Skipped], record: Path | None = None) -> list[str]:
    """Return lines for people on the first unreadable images, each with its reason.

    Args:
        found: All unreadable images.
        record: The file that lists them all.
    """
    if not found:
        return []
    where = f"; all are named in {record}" if record is not None else ""
    many = len(found) > 1
    lines = [f"data: {len(found):,} unreadable picture{'s are' if many else ' is'} skipped{where}"]
    lines += [f"  {one.split}: {one.file}: {one.reason}" for one in found[:SHOWN]]
    return lines + ([f"  and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else [])
