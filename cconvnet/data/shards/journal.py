"""The journal of a preparation: its plan, its lock and a record of each finished shard."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cconvnet.data.dataset import Dataset
from cconvnet.data.preprocessing import Preprocessing
from cconvnet.data.shards.format import JOURNAL, read_document, read_shard_set, write_document
from cconvnet.data.shards.writer import Shard
from cconvnet.data.splits import Progress
from cconvnet.errors import DataError
from cconvnet.system.locks import try_lock

PLAN, _LOCK = "plan.json", "lock"
_SECONDS_FOR_OTHERS_TO_END = 10.0

Broken = list[tuple[int, str]]  # the number of each broken picture, and the reason


@dataclass(frozen=True)
class Part:
    """A shard to be made: its name, its split and the numbers of its pictures."""

    name: str
    split: str
    first: int
    count: int


def fingerprint(dataset: Dataset, progress: Progress | None = None) -> str:
    """Return a text that changes with the data: its names, labels and files.

    `progress` is called with the number of a split's files examined so far and their total.
    """
    digest = hashlib.sha256(json.dumps([dataset.kind, dataset.name, dataset.classes]).encode())
    root = f"{dataset.folder}{os.sep}"
    for pictures in dataset.splits.values():
        digest.update(pictures.labels.tobytes())
        for name in pictures.names:
            digest.update(name.removeprefix(root).encode(errors="surrogateescape") + b"\0")
        if pictures.ranges is not None:
            digest.update(pictures.ranges.fingerprint(root, progress))
        if pictures.pixels is not None:
            digest.update(repr(pictures.pixels.shape).encode() + pictures.pixels.tobytes())
    return digest.hexdigest()


def begun_with(root: Path) -> Preprocessing | None:
    """Return the rules of the shards in a folder, finished or not; None without shards.

    Shards that an older version began are finished by that version's rules.
    """
    with contextlib.suppress(DataError):
        return read_shard_set(root).preprocessing
    try:
        return Preprocessing.recorded(read_document(root / JOURNAL / PLAN).get("preprocessing"))
    except (OSError, DataError, ValueError):
        return None


def record_file(folder: Path, name: str) -> Path:
    """Return the path of the journal's record of a finished shard."""
    return folder / JOURNAL / f"{name}.json"


def write_record(folder: Path, part: Part, shard: Shard, skipped: Broken) -> None:
    """Record the contents of a shard, which marks it as finished.

    Raises:
        OSError: The record cannot be written.
    """
    values = {"file": vars(shard.file), "count": part.count, "pictures": shard.pictures, "skipped": skipped}
    write_document(record_file(folder, part.name), values)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[int]:
    """Hold the folder's lock; wait, since the workers of a killed process may hold it for a moment.

    Raises:
        DataError: Another process is preparing the folder.
    """
    deadline = time.monotonic() + _SECONDS_FOR_OTHERS_TO_END
    while (descriptor := _lock(root / JOURNAL)) is None:
        if time.monotonic() > deadline:
            raise DataError(f"{root} is being written by another `cconvnet data prepare`")
        time.sleep(0.05)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(journal: Path) -> int | None:
    """Return a descriptor that holds the lock.

    Return None if another process holds it, or has just ended and removed the file.
    """
    journal.mkdir(exist_ok=True)
    try:
        descriptor = os.open(journal / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    if try_lock(descriptor) and os.fstat(descriptor).st_nlink:
        return descriptor
    os.close(descriptor)
    return None
