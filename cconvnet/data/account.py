"""Count what a data folder contains: the pictures that are used, and the files that are not, by reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

# A folder may contain a million hidden files. All are counted, but only this many are listed for each reason.
MAX_NAMES = 1000
UNREADABLE = "unreadable"
SHOWN_NAMES, SHOWN_REASONS = 3, 10


class Unused:
    """Files that are not used, grouped by reason.

    Attributes:
        counts: the number of files for each reason.
        names: the names of the first MAX_NAMES files for each reason.
    """

    def __init__(self, found: Iterable[tuple[str, str]] = ()) -> None:
        self.counts: dict[str, int] = {}
        self.names: dict[str, list[str]] = {}
        for name, reason in found:
            self.add(name, reason)

    def add(self, name: str, reason: str) -> None:
        """Add one file and the reason why it is not used."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        names = self.names.setdefault(reason, [])
        if len(names) < MAX_NAMES:
            names.append(name)

    def update(self, other: Unused) -> None:
        """Add the files of another group."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            names = self.names.setdefault(reason, [])
            names += other.names[reason][: MAX_NAMES - len(names)]

    def below(self, folder: str) -> Unused:
        """Return the same files with `folder` and a slash before each name."""
        unused = Unused()
        unused.counts = dict(self.counts)
        unused.names = {
            reason: [f"{folder}/{name}" for name in names] for reason, names in self.names.items()
        }
        return unused

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unused) and (self.counts, self.names) == (other.counts, other.names)

    __hash__ = None  # type: ignore[assignment]

    def as_json(self) -> list[dict[str, Any]]:
        """Return the groups as JSON values."""
        return [
            {"reason": reason, "count": count, "names": self.names[reason]}
            for reason, count in self.counts.items()
        ]

    @classmethod
    def from_json(cls, groups: list[dict[str, Any]]) -> Unused:
        """Restore the groups from what as_json() returned."""
        unused = cls()
        for group in groups:
            unused.counts[str(group["reason"])] = int(group["count"])
            unused.names[str(group["reason"])] = [str(name) for name in group["names"]]
        return unused

    def __str__(self) -> str:
        """Format count and first names of each reason: "3 hidden (a/.x, ...)"."""
        parts = []
        for reason, count in list(self.counts.items())[:SHOWN_REASONS]:
            names = self.names[reason][:SHOWN_NAMES]
            rest = ", ..." if count > len(names) else ""
            parts.append(f"{count:,} {reason} ({', '.join(names)}{rest})")
        others = sum(list(self.counts.values())[SHOWN_REASONS:])
        return "; ".join(parts) + (f"; {others:,} for other reasons" if others else "")


@dataclass(frozen=True)
class SplitAccount:
    """The pictures of one split.

    Attributes:
        used: the number of pictures that have a number in the split, unreadable ones included.
        unused: the files of the split that have no number.
    """

    used: int
    unused: Unused

    @property
    def found(self) -> int:
        """The number of files found, used or not."""
        return self.used + len(self.unused)


@dataclass(frozen=True)
class Account:
    """The contents of a data folder, the same for every kind of data.

    Attributes:
        kind, name: the kind and the name of the Dataset.
        classes: the number of classes.
        splits: the accounts of "train" and, if there are test pictures, of "test".
        beside: files and folders that belong to no split.
        source: the account of the data that shards were made of, as JSON.
    """

    kind: str
    name: str
    classes: int
    splits: Mapping[str, SplitAccount]
    beside: Unused
    source: dict[str, Any] = field(default_factory=dict)

    def without(self, unreadable: Mapping[str, Iterable[str]]) -> Account:
        """Return the account with these unreadable pictures counted as not used."""
        splits = {}
        for name, split in self.splits.items():
            groups = Unused()
            groups.update(split.unused)
            before = len(groups)
            for picture in unreadable.get(name, ()):
                groups.add(picture, UNREADABLE)
            splits[name] = SplitAccount(split.used - (len(groups) - before), groups)
        return replace(self, splits=splits)

    def lines(self) -> list[str]:
        """Format the counts, then one line for each split, or the folder, with unused files."""
        counts = [
            f"{split.used:,} {'training' if name == 'train' else 'test'}"
            for name, split in self.splits.items()
        ]
        classes = f"{self.classes:,} class{'es' * (self.classes != 1)}"
        lines = [f"{' and '.join(counts)} pictures of {classes}"]
        for name, split in self.splits.items():
            if len(split.unused):
                lines.append(
                    f"{name}: {split.found:,} files found, {split.used:,} used; not used: {split.unused}"
                )
        if len(self.beside):
            lines.append(f"beside the pictures, not used: {self.beside}")
        for where, group in unused_of(self.source):
            lines.append(f"of the data that the shards were made of{where}, not used: {group}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return the account as JSON values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "classes": self.classes,
            "splits": {
                name: {"found": split.found, "used": split.used, "not_used": split.unused.as_json()}
                for name, split in self.splits.items()
            },
            "beside": self.beside.as_json(),
            **({"source": self.source} if self.source else {}),
        }


def unused_of(account: dict[str, Any]) -> Iterator[tuple[str, Unused]]:
    """Yield the unused files of an account in JSON, each group with its split in words.

    Files that belong to no split come with "".
    """
    splits = {f" ({name})": split["not_used"] for name, split in account.get("splits", {}).items()}
    for where, groups in {**splits, "": account.get("beside", [])}.items():
        if groups:
            yield where, Unused.from_json(groups)
