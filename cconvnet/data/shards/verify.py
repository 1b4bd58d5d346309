"""Verification of shards to the last byte: SHA-256 of files, CRC-32 of pictures, decoding."""

from __future__ import annotations

import hashlib
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cconvnet.data.images import default_decoder
from cconvnet.data.shards.format import Names, Records, ShardSet, is_shard, read_shard_set, shard_name
from cconvnet.data.shards.reader import open_split
from cconvnet.data.splits import Progress
from cconvnet.data.workers import usable_cores
from cconvnet.errors import DataError

_MAX_THREADS = 8  # more would not make a disk faster; each hashes 1 to 2 GB/s
_BATCH = 256  # pictures decoded between two reports of progress


def verify(root: Path, workers: int | None = None, progress: Progress | None = None) -> list[str]:
    """List all damage, one line for each fault, with the file and the fault or the picture.

    Args:
        root: The folder of shards.
        workers: the number of threads; None chooses.
        progress: called with the number of bytes checked so far and their total.

    Raises:
        DataError: dataset.json is missing or damaged, so nothing can be checked.
        OSError: a file cannot be read.
    """
    shard_set = read_shard_set(root)
    found: list[str] = []
    indices: dict[str, tuple[Records, Names] | None] = {}
    for name in shard_set.files:
        if not is_shard(name):
            try:
                shard_set.content(name)
            except DataError as error:
                found.append(str(error))
    for split in shard_set.pictures:
        try:
            indices[split] = shard_set.records(split), shard_set.names(split)
        except DataError as error:
            indices[split] = None  # the shards' own SHA-256 are still known
            if str(error) not in found:
                found.append(str(error))
    parts = [
        (split, number) for split in shard_set.pictures for number in range(len(shard_set.shards(split)))
    ]
    count = sum(file.bytes for file in shard_set.files.values())
    done, lock = 0, threading.Lock()

    def check(part: tuple[str, int]) -> list[str]:
        nonlocal done
        split, number = part
        damages = _check_shard(shard_set, split, number, indices[split])
        with lock:
            done += shard_set.files[shard_name(split, number)].bytes
            if progress is not None:
                progress(done, count)
        return damages

    threads = min(usable_cores(), _MAX_THREADS) if workers is None else max(1, workers)
    with ThreadPoolExecutor(threads) as pool:
        for damages in pool.map(check, parts):
            found += damages
    return found


def _check_shard(
    shard_set: ShardSet, split: str, number: int, index: tuple[Records, Names] | None
) -> list[str]:
    name = shard_name(split, number)
    path, file = shard_set.root / name, shard_set.files[name]
    if not path.is_file():
        return [f"{path} is missing"]
    damages = []
    length = path.stat().st_size
    if length != file.bytes:
        damages.append(f"{path} has {length:,} bytes instead of {file.bytes:,}")
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        if index is not None:
            records, names = index
            # The pictures of a shard are adjacent, as they were written.
            for at in np.flatnonzero(records["file"] == number).tolist():
                data = stream.read(int(records["length"][at]))
                digest.update(data)
                if zlib.crc32(data) != records["crc32"][at]:
                    label = shard_set.classes[records["label"][at]]
                    damages.append(f"{path}: picture {names[at]} of class {label} is damaged")
        while data := stream.read(2**20):
            digest.update(data)
    if not damages and digest.hexdigest() != file.sha256:
        damages.append(f"{path} is damaged: its SHA-256 differs")
    return damages


def verify_decoding(root: Path, workers: int | None = None, progress: Progress | None = None) -> list[str]:
    """List the pictures that cannot be decoded or differ from the stored bytes.

    Args:
        root: The folder of shards.
        workers: the number of processes that decode; None chooses, 0 starts none.
        progress: called with the number of pictures decoded so far and their total.

    Raises:
        DataError: another file is damaged, or a shard is missing.
        WorkerError: a process died.
    """
    shard_set = read_shard_set(root)
    found: list[str] = []
    before, count = 0, sum(shard_set.pictures.values())
    for name in shard_set.pictures:
        split = open_split(shard_set, name, default_decoder())
        images = np.empty((_BATCH, *split.image_shape), np.uint8)
        reader = split.open_reader(workers)
        try:
            for first in range(0, len(split), _BATCH):
                numbers = np.arange(first, min(first + _BATCH, len(split)))
                for future in reader.start(numbers, images):
                    for place, reason in future.result():
                        found.append(f"{root / name}: {split.file(first + place)}: {reason}")
                if progress is not None:
                    progress(before + int(numbers[-1]) + 1, count)
        finally:
            reader.close()
        before += len(split)
    return found
